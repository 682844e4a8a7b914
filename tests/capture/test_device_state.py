"""What is read of a device between generations, from made-up counters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vlmtrace.capture import device_state
from vlmtrace.capture.device_state import DeviceState, read_state


class FakeNvml:
    """As much of ``pynvml`` as is asked."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0
    nvmlClocksEventReasonGpuIdle = 1
    nvmlClocksEventReasonSwPowerCap = 4
    nvmlClocksThrottleReasonHwSlowdown = 8
    nvmlClocksEventReasonAll = 13

    class NVMLError(Exception):
        pass

    def __init__(self, mask: int) -> None:
        self.mask = mask

    def nvmlDeviceGetClockInfo(self, _handle: Any, _which: int) -> int:
        return 1500

    def nvmlDeviceGetMaxClockInfo(self, _handle: Any, _which: int) -> int:
        return 1980

    def nvmlDeviceGetTemperature(self, _handle: Any, _which: int) -> int:
        if self.mask < 0:
            raise self.NVMLError
        return 61

    def nvmlDeviceGetCurrentClocksEventReasons(self, _handle: Any) -> int:
        return self.mask


def use(monkeypatch: pytest.MonkeyPatch, mask: int) -> None:
    nvml = FakeNvml(mask)
    monkeypatch.setattr(device_state, "nvml_of", lambda _device: (nvml, "handle"))


def test_what_holds_the_clock_down_is_named_and_idleness_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, 1 | 4 | 8)
    assert read_state(0) == {
        "sm_clock_mhz": 1500,
        "max_sm_clock_mhz": 1980,
        "temperature_c": 61,
        "throttled_by": ["hw_slowdown", "sw_power_cap"],
    }


def test_a_gpu_that_does_not_answer_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, -1)
    assert read_state(0) == {}


def test_the_allocators_counters_are_differences_and_its_bytes_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = SimpleNamespace(now={"num_alloc_retries": 3, "segment.all.allocated": 10, "allocated_bytes.all.peak": 5})
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda _device: dict(stats.now))
    monkeypatch.setattr(device_state, "nvml_of", lambda _device: (None, None))
    state = DeviceState(0)
    stats.now |= {"num_alloc_retries": 5, "segment.all.allocated": 11, "allocated_bytes.all.peak": 9}
    assert state.change() == {
        "alloc_retries": 2,
        "segments_added": 1,
        "allocated_bytes": 0,
        "reserved_bytes": 0,
        "peak_bytes": 9,
    }

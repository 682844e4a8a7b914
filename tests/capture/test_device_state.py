"""What is read of a device between generations, from made-up counters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.capture.fakes import allocator_counters
from vlmtrace.capture import device_state
from vlmtrace.capture.device_state import DeviceState, SeldomState, read_state


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


def test_nvml_is_asked_once_a_second_of_each_device_and_when_the_role_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, 0)
    now = SimpleNamespace(ns=5)
    seldom = SeldomState(lambda: now.ns)
    asked = [(5, 0, "cold"), (6, 0, "timed"), (7, 1, "timed"), (8, 0, "timed"), (1_000_000_006, 0, "timed")]
    told = []
    for ns, device, role in asked:
        now.ns = ns
        told.append(bool(seldom(device, role)))
    assert told == [True, True, True, False, True]


def test_the_allocators_counters_are_differences_and_its_bytes_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter([allocator_counters(3, 10, 4, 5), allocator_counters(5, 11, 4, 9)])
    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", lambda _device: next(states))
    state = DeviceState(0)
    assert state.before["peak_bytes"] == 5
    assert state.change() == {
        "alloc_retries": 2,
        "segments_added": 1,
        "allocated_bytes": 4,
        "reserved_bytes": 20,
        "peak_bytes": 9,
    }


@pytest.mark.parametrize("answer", [{}, RuntimeError("another allocator")])
def test_without_cudas_own_allocator_there_are_no_counters(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    def stats(_device: int) -> dict[str, Any]:
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", stats)
    assert DeviceState(0).change() == {}

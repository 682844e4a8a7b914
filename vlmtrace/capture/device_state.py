"""Device state: the allocator's counters, and clocks and throttling through NVML, read between generations.

Nothing here waits for the device, and nothing is read while a generation runs. NVML is asked once a second only: now
and then an answer takes some ms, which is a percent or two of a short generation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import torch

from vlmtrace.capture.clocks import monotonic_ns
from vlmtrace.timeline.recording import Json

__all__ = ["DeviceState", "SeldomState", "allocator_state", "nvml_of", "read_state"]

_PREFIXES: Final = ("nvmlClocksEventReason", "nvmlClocksThrottleReason")
_PERIOD_NS: Final = 1_000_000_000
_BENIGN: Final = frozenset(("gpu_idle", "applications_clocks_setting", "none"))


class DeviceState:
    """What changed on a device over one generation: make it before, ask :meth:`change` after.

    ``before`` are the allocator's counters as they were then.
    """

    def __init__(self, device: int) -> None:
        self._device = device
        self.before = allocator_state(device)

    def change(self) -> dict[str, Json]:
        """Counters as differences (retries, new segments), and bytes as they are now."""
        after = allocator_state(self._device)
        made: dict[str, Json] = {
            key: after[key] - self.before[key] for key in ("alloc_retries", "segments_added") if key in after
        }
        made |= {key: after[key] for key in ("allocated_bytes", "reserved_bytes", "peak_bytes") if key in after}
        return made


class SeldomState:
    """:func:`read_state` of each device, once a second and whenever the role of its generations changes."""

    def __init__(self, now: Callable[[], int] = monotonic_ns) -> None:
        self._now = now
        self._last: dict[int, tuple[str, int]] = {}

    def __call__(self, device: int, role: str) -> dict[str, Json]:
        """Empty where nothing is asked, and where nothing answers."""
        last = self._last.get(device)
        now = self._now()
        if last is not None and last[0] == role and now - last[1] < _PERIOD_NS:
            return {}
        self._last[device] = role, now
        return read_state(device)


def allocator_state(device: int) -> dict[str, int]:
    """The caching allocator's counters. Absent without CUDA's own allocator."""
    try:
        # Not memory_stats(), which flattens and sorts a hundred of them.
        stats: dict[str, Any] = torch.cuda.memory_stats_as_nested_dict(device)
    except (RuntimeError, AttributeError):
        return {}
    if not stats:
        return {}
    return {
        "alloc_retries": stats["num_alloc_retries"],
        "segments_added": stats["segment"]["all"]["allocated"],
        "allocated_bytes": stats["allocated_bytes"]["all"]["current"],
        "reserved_bytes": stats["reserved_bytes"]["all"]["current"],
        "peak_bytes": stats["allocated_bytes"]["all"]["peak"],
    }


def read_state(device: int) -> dict[str, Json]:
    """SM clock now and at most, in MHz, temperature and what holds the clock down; empty without ``nvidia-ml-py``."""
    nvml, handle = nvml_of(device)
    if handle is None:
        return {}
    try:
        reasons = _reasons(nvml, handle)
        return {
            "sm_clock_mhz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "max_sm_clock_mhz": _highest_clock(device),
            "temperature_c": nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            "throttled_by": list[Json](reasons),
        }
    except nvml.NVMLError:
        return {}


@cache
def _highest_clock(device: int) -> int:
    """Asked once: it never changes, and NVML takes far longer to tell it than the clock of now."""
    nvml, handle = nvml_of(device)
    return int(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM))


def _reasons(nvml: Any, handle: Any) -> list[str]:
    """The names of the bits that NVML sets, but for those that say nothing is wrong."""
    ask = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
    ask = ask or nvml.nvmlDeviceGetCurrentClocksThrottleReasons
    mask = ask(handle)
    return sorted(text for bit, text in _reason_names(nvml).items() if mask & bit)


@cache
def _reason_names(nvml: Any) -> dict[int, str]:
    """What each bit is called, in NVML's own words; those that say nothing is wrong are left out."""
    found: dict[int, str] = {}
    for name in dir(nvml):
        prefix = next((p for p in _PREFIXES if name.startswith(p)), None)
        value = getattr(nvml, name)
        if prefix is not None and isinstance(value, int) and value and not value & (value - 1):
            found.setdefault(value, _snake(name.removeprefix(prefix)))
    return {bit: text for bit, text in found.items() if text not in _BENIGN}


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).strip("_")


@cache
def nvml_of(device: int) -> tuple[Any, Any]:
    """NVML's handle of a CUDA device, found by its UUID: NVML counts devices that CUDA may not see."""
    try:
        import pynvml
    except ImportError:
        return None, None
    try:
        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid.encode())
    except (pynvml.NVMLError, RuntimeError, AttributeError):
        return pynvml, None

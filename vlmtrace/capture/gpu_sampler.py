"""The GPU sampler: utilisation, SM clock, power and temperature through NVML, by a thread of its own, when asked.

NVML answers the host: nothing waits for the device. A sample still takes the host's time, and the interpreter from the
thread that generates, so the time it takes is counted and told with the recording.
"""

from __future__ import annotations

import importlib.util
import threading
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from vlmtrace.capture.clocks import monotonic_ns
from vlmtrace.capture.device_state import nvml_of
from vlmtrace.errors import UsageError
from vlmtrace.timeline.recording import Counter

__all__ = ["MOST_HZ", "QUANTITIES", "GpuSampler", "check"]

MOST_HZ: Final = 100
"""NVML renews what it tells some ten times a second; to ask more often than this costs and tells nothing more."""

_Ask = Callable[[Any, Any], int]

QUANTITIES: Final[tuple[tuple[str, str, _Ask], ...]] = (
    ("utilisation", "%", lambda nvml, handle: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
    ("SM clock", "MHz", lambda nvml, handle: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
    ("power", "mW", lambda nvml, handle: int(nvml.nvmlDeviceGetPowerUsage(handle))),
    ("temperature", "°C", lambda nvml, handle: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
)
"""What is asked of each device: its name, its unit, and how."""


def check() -> None:
    """Refuse to sample where nothing could be.

    Raises:
        UsageError: NVML's package is not installed, or there is no CUDA device.
    """
    if importlib.util.find_spec("pynvml") is None:
        raise UsageError("--sample-gpu needs NVML, which is not installed", "pip install 'vlmtrace[nvml]'")
    if not torch.cuda.is_available():
        raise UsageError("--sample-gpu needs a CUDA device, and there is none", "leave it out")


@dataclass(slots=True)
class _Device:
    """One device: NVML's module and handle, which quantities it still answers, and the samples of each."""

    nvml: Any
    handle: Any
    answers: list[bool] = field(default_factory=lambda: [True] * len(QUANTITIES))
    samples: list[tuple[array[int], array[int]]] = field(
        default_factory=lambda: [(array("q"), array("q")) for _ in QUANTITIES]
    )


class GpuSampler:
    """Samples the devices it is told to :meth:`watch`, ``hz`` times a second, between :meth:`start` and :meth:`stop`.

    What a device does not answer is not asked again; where nothing is left to ask, and at any other error, the thread
    ends, and what it has sampled stays; ``error`` is that error. ``samples`` is how often it has asked, ``host_ns`` how
    long that took on the host.
    """

    def __init__(self, hz: int, now: Callable[[], int] = monotonic_ns) -> None:
        self.samples = 0
        self.host_ns = 0
        self.error: str | None = None
        self._period = 1 / hz
        self._now = now
        self._devices: dict[int, _Device] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, device: int) -> None:
        """Sample this CUDA device too, from now on; one that NVML does not know is left out."""
        if device not in self._devices:
            nvml, handle = nvml_of(device)
            if handle is not None:
                # A new dictionary: the thread goes through the one it has.
                self._devices = {**self._devices, device: _Device(nvml, handle)}

    def start(self) -> None:
        """Start the one thread, which samples at once and then once in each period."""
        if self._thread is None:
            self._ended.clear()
            self._thread = threading.Thread(target=self._run, name="vlmtrace GPU sampler", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait until it has."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._ended.set()
            thread.join()

    def counters(self) -> Iterator[Counter]:
        """What was sampled, each quantity of each device."""
        for device, known in sorted(self._devices.items()):
            for (name, unit, _), (times, values) in zip(QUANTITIES, known.samples, strict=True):
                if times:
                    yield Counter(name, unit, device, times[:], values[:])

    def _run(self) -> None:
        try:
            self._ask_in_turn()
        except Exception as error:  # the program that is recorded must not hear of it
            self.error = f"{type(error).__name__}: {error}".rstrip(": ")

    def _ask_in_turn(self) -> None:
        while not self._ended.is_set():
            devices = self._devices
            if devices and not any(any(one.answers) for one in devices.values()):
                return
            if devices:
                begin = self._now()
                for one in devices.values():
                    self._sample(one)
                self.samples += 1
                self.host_ns += self._now() - begin
            self._ended.wait(self._period)

    def _sample(self, device: _Device) -> None:
        for at, (_, _, ask) in enumerate(QUANTITIES):
            if not device.answers[at]:
                continue
            before = self._now()
            try:
                value = ask(device.nvml, device.handle)
            except device.nvml.NVMLError:
                device.answers[at] = False
                continue
            times, values = device.samples[at]
            times.append((before + self._now()) // 2)
            values.append(value)

"""Clocks: how a mark gets its time. The host's clock, or CUDA events by the fastest path that is there.

``torch.cuda.Event.record()`` spends five sixths of its time finding the current stream as a Python object. The
runtime's own ``cudaEventRecord`` on the raw stream costs about 1.6 µs; it is called through ctypes in the library that
torch has loaded. Where that cannot be had (ROCm, an unusual build), torch's events do the same work more slowly, and
``path`` says which is in use.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol

import torch

__all__ = ["CudaClock", "DeviceClock", "TorchEventClock", "clock_of", "monotonic_ns", "rounding_ns"]

monotonic_ns: Final[Callable[[], int]] = time.monotonic_ns

_ULP: Final = 2.0**-24
"""Half a unit in the last place of a float32, relative: what rounding an elapsed time may cost."""


_NOT_READY: Final = 600
"""``cudaErrorNotReady``: the device has not passed the event yet."""


class DeviceClock(Protocol):
    """A device whose stream can be marked. Events are opaque: whatever ``create`` answers.

    ``record(event, streams[stream(device)])`` marks the stream that work is on right now: its parts are open, so
    that a mark makes these calls itself and no other. A stream is in ``streams`` once it has been ``met``. ``wait``
    blocks, spinning, until the device has passed the event, ``query`` says at once whether it has; ``elapsed`` is
    from one event to each of others in float milliseconds, as CUDA gives it, or ``None`` where one was never reached
    (recorded into a graph, or lost with its context).
    """

    device: int
    path: str

    streams: dict[Any, Any]

    def create(self, count: int) -> list[Any]: ...
    def destroy(self, events: list[Any]) -> None: ...
    def stream(self, device: int, /) -> Any: ...
    def meet(self, stream: Any) -> None: ...
    def record(self, event: Any, stream: Any, /) -> object: ...
    def wait(self, event: Any) -> None: ...
    def query(self, event: Any) -> bool: ...
    def elapsed(self, begin: Any, ends: Iterable[Any]) -> Iterator[float | None]: ...


Argument = Any
"""A pointer as ctypes passes it on: made once, where an int would be converted in every call."""

_argument: Final[Callable[[int], Argument]] = ctypes.c_void_p.from_param


class CudaClock:
    """CUDA events through the runtime library, on the raw current stream of one device."""

    path = "cudaEventRecord (ctypes)"

    def __init__(self, device: int, library: str) -> None:
        self.device = device
        # PyDLL keeps the GIL: recording takes a microsecond and another thread must not be let in between the host
        # time and the record. Waiting is the opposite.
        self._fast = ctypes.PyDLL(library)
        self._slow = ctypes.CDLL(library)
        event = ctypes.c_void_p
        self._fast.cudaEventCreateWithFlags.argtypes = (ctypes.POINTER(event), ctypes.c_uint)
        self._fast.cudaEventDestroy.argtypes = (event,)
        self._fast.cudaEventQuery.argtypes = (event,)
        self._fast.cudaGetLastError.argtypes = ()
        self._slow.cudaEventSynchronize.argtypes = (event,)
        # No argtypes for these two: what they are given has been converted.
        self._elapsed_time = self._fast.cudaEventElapsedTime
        # Whose error shows when the elapsed times are read.
        self._fast.cudaEventRecord.restype = None
        self.record: Callable[[Argument, Argument], None] = self._fast.cudaEventRecord
        self.stream: Callable[[int], int] = torch._C._cuda_getCurrentRawStream
        self.streams: dict[int, Argument] = {}

    def meet(self, stream: int) -> None:
        self.streams[stream] = _argument(stream)

    def create(self, count: int) -> list[Argument]:
        made = []
        with torch.cuda.device(self.device):
            for _ in range(count):
                handle = ctypes.c_void_p()
                code = self._fast.cudaEventCreateWithFlags(ctypes.byref(handle), 0)
                if code != 0 or handle.value is None:
                    raise RuntimeError(f"cudaEventCreateWithFlags failed with CUDA error {code}")
                made.append(_argument(handle.value))
        return made

    def destroy(self, events: list[Argument]) -> None:
        for event in events:
            self._fast.cudaEventDestroy(event)

    def wait(self, event: Argument) -> None:
        code = self._slow.cudaEventSynchronize(event)
        if code != 0:
            self._fast.cudaGetLastError()
            raise RuntimeError(f"cudaEventSynchronize failed with CUDA error {code}")

    def query(self, event: Argument) -> bool:
        code = self._fast.cudaEventQuery(event)
        if code != 0:
            self._fast.cudaGetLastError()  # clear it, or torch would raise it at its next call
            if code != _NOT_READY:
                raise RuntimeError(f"cudaEventQuery failed with CUDA error {code}")
        return bool(code == 0)

    def elapsed(self, begin: Argument, ends: Iterable[Argument]) -> Iterator[float | None]:
        # An answer of its own: threads share the clock, and may change between the call and the look at what it wrote.
        answer, elapsed_time = ctypes.c_float(), self._elapsed_time
        written = ctypes.byref(answer)
        for end in ends:
            if elapsed_time(written, begin, end) == 0:
                yield answer.value
            else:
                self._fast.cudaGetLastError()
                yield None


class TorchEventClock:
    """torch's own events: slower to record, and there wherever torch has a CUDA-like device."""

    path = "torch.cuda.Event"

    def __init__(self, device: int) -> None:
        self.device = device
        self.stream: Callable[[int], torch.cuda.Stream] = torch.cuda.current_stream
        self.streams: dict[torch.cuda.Stream, torch.cuda.Stream] = {}

    def meet(self, stream: torch.cuda.Stream) -> None:
        self.streams[stream] = stream

    def create(self, count: int) -> list[torch.cuda.Event]:
        return [torch.cuda.Event(enable_timing=True) for _ in range(count)]

    def destroy(self, events: list[torch.cuda.Event]) -> None:
        events.clear()

    def record(self, event: torch.cuda.Event, stream: torch.cuda.Stream) -> None:
        event.record(stream)

    def wait(self, event: torch.cuda.Event) -> None:
        event.synchronize()

    def query(self, event: torch.cuda.Event) -> bool:
        return bool(event.query())

    def elapsed(self, begin: torch.cuda.Event, ends: Iterable[torch.cuda.Event]) -> Iterator[float | None]:
        for end in ends:
            try:
                yield float(begin.elapsed_time(end))
            except (RuntimeError, ValueError):
                yield None


def clock_of(device: int) -> DeviceClock:
    """The fastest clock of a CUDA device that works here, tried once before it is trusted."""
    version = torch.version.cuda
    if version is not None and hasattr(torch._C, "_cuda_getCurrentRawStream"):
        try:
            clock = CudaClock(device, f"libcudart.so.{version.partition('.')[0]}")
            events = clock.create(2)
            stream = clock.stream(device)
            clock.meet(stream)
            for event in events:
                clock.record(event, clock.streams[stream])
            clock.wait(events[1])
            works = None not in clock.elapsed(events[0], events[1:])
            clock.destroy(events)
        except (OSError, AttributeError, RuntimeError):
            works = False
        if works:
            return clock
    return TorchEventClock(device)


def rounding_ns(elapsed_ms: float) -> float:
    """The most by which CUDA's float32 milliseconds may be off from rounding alone, in ns."""
    return abs(elapsed_ms) * _ULP * 1e6

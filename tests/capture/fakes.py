"""A host and a device whose time is made up: clocks that drift, a queue that lags, and every call counted."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any


class FakeHost:
    """A monotonic clock that moves by ``tick`` ns whenever it is read, and by what :meth:`spend` says."""

    def __init__(self, start: int = 1_000_000_000, tick: int = 100) -> None:
        self.ns = start
        self.tick = tick

    def now(self) -> int:
        self.ns += self.tick
        return self.ns

    def spend(self, ns: int) -> None:
        self.ns += ns


class FakeDevice:
    """A device with a queue: an event is reached when all work before it is done, at the earliest ``latency`` later.

    Its clock runs ``drift_ppm`` faster than the host's and elapsed times come as float32 milliseconds, as CUDA's do.
    ``truth`` maps each event to the host time at which it was really reached.
    """

    path = "fake"

    def __init__(self, host: FakeHost, *, latency: int = 2_000, drift_ppm: float = 0.0) -> None:
        self.device = 0
        self.host = host
        self.latency = latency
        self.drift_ppm = drift_ppm
        self.busy_until = 0
        self.truth: dict[int, int] = {}
        self.captured: set[int] = set()
        self.capturing = False
        self.waits = 0
        self.records = 0
        self.alive: set[int] = set()
        self._made = 0
        self.streams: dict[str, str] = {}
        self.current = "a"

    def launch(self, ns: int) -> None:
        """Queue work that takes ``ns`` on the device."""
        self.busy_until = max(self.busy_until, self.host.ns + self.latency) + ns

    def create(self, count: int) -> list[int]:
        made = list(range(self._made, self._made + count))
        self._made += count
        self.alive.update(made)
        return made

    def destroy(self, events: list[int]) -> None:
        self.alive.difference_update(events)

    def stream(self, device: int) -> str:
        assert device == self.device
        return self.current

    def meet(self, stream: str) -> None:
        self.streams[stream] = f"stream {stream}"

    def record(self, event: int, stream: str) -> None:
        assert stream == f"stream {self.current}"
        assert event in self.alive, "an event is recorded after it was given back"
        self.records += 1
        self.captured.discard(event)
        if self.capturing:
            self.captured.add(event)
            return
        self.truth[event] = max(self.busy_until, self.host.ns + self.latency)

    def wait(self, event: int) -> None:
        self.waits += 1
        self.host.ns = max(self.host.ns, self.truth[event])

    def query(self, event: int) -> bool:
        return self.truth[event] <= self.host.ns

    def elapsed(self, begin: int, ends: Iterable[int]) -> Iterator[float | None]:
        return (self._elapsed(begin, end) for end in ends)

    def _elapsed(self, begin: int, end: int) -> float | None:
        if begin in self.captured or end in self.captured:
            return None
        assert self.truth[end] <= self.host.ns, "elapsed time is asked for before the device has passed the event"
        true = (self.truth[end] - self.truth[begin]) * (1 + self.drift_ppm / 1e6)
        rounded: float = struct.unpack("f", struct.pack("f", true / 1e6))[0]
        return rounded


class Fake:
    """A device under every recorder of a test: its queue runs behind the host, its clock drifts."""

    def __init__(self) -> None:
        self.host = FakeHost(tick=1_000)
        self.device = FakeDevice(self.host, latency=5_000, drift_ppm=20)


def allocator_counters(retries: int = 0, segments: int = 0, held: int = 0, peak: int = 0) -> dict[str, Any]:
    """As torch nests them."""
    return {
        "num_alloc_retries": retries,
        "segment": {"all": {"allocated": segments}},
        "allocated_bytes": {"all": {"current": held, "peak": peak}},
        "reserved_bytes": {"all": {"current": 20}},
    }


class FakeAllocator:
    """The counters of a caching allocator: what is held, and its peak since the last reset. Every call is counted."""

    def __init__(self, held: int = 0) -> None:
        self.held = self.peak = held
        self.reads = 0
        self.resets = 0

    def hold(self, size: int) -> None:
        self.held += size
        self.peak = max(self.peak, self.held)

    def need(self, size: int) -> None:
        """Hold so much for a moment."""
        self.hold(size)
        self.held -= size

    def stats(self, _device: int) -> dict[str, Any]:
        self.reads += 1
        return allocator_counters(held=self.held, peak=self.peak)

    def reset(self, _device: int) -> None:
        self.resets += 1
        self.peak = self.held

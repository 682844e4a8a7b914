"""Lanes: the tapes of each thread, one per clock it works with, and the listeners told beside them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch

from vlmtrace.capture.calibration import Prices, calibrate
from vlmtrace.capture.clocks import DeviceClock, clock_of, monotonic_ns
from vlmtrace.capture.listeners import Fanout, Listener, NvtxRanges
from vlmtrace.capture.memory import Allocator, MemoryMeter
from vlmtrace.capture.tape import Tape
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Json
from vlmtrace.timeline.spans import NONE

__all__ = ["Lane", "Lanes", "Voice", "settle_device"]

_ROOM: Final = 2048
_STALE_NS: Final = 1_000_000_000
"""An anchor older than this is taken again before a generation: float32 elapsed times grow coarse with distance."""


@dataclass(slots=True, eq=False)
class Voice:
    """One thread on one clock: its tape, its NVTX ranges if a tool listens, and the listener that tells all.

    ``meter`` is what reads the device's allocator, if that was asked for.
    """

    tape: Tape
    ranges: NvtxRanges | None
    listener: Listener
    prices: Prices = field(default_factory=Prices)
    lost: bool = False
    meter: MemoryMeter | None = None

    @property
    def depth(self) -> int:
        return 0 if self.ranges is None else self.ranges.depth

    def close(self, kind: int, depth: int) -> None:
        """Leave ``kind``, and close the ranges that an interrupt left open inside it."""
        self.tape.mark(~kind, NONE)
        if self.ranges is not None:
            self.ranges.unwind(depth)
        if self.meter is not None:
            self.meter.close()

    @contextmanager
    def range(self, kind: int) -> Iterator[None]:
        """An NVTX range alone, around what is not on the timeline (an anchor)."""
        if self.ranges is None:
            yield
            return
        self.ranges.mark(kind, NONE)
        try:
            yield
        finally:
            self.ranges.mark(~kind, NONE)

    def anchor(self) -> None:
        """Read both clocks together; what was marked before is settled first, as the device must be idle.

        A device that answers with an error is lost from then on: host times are all that is left.
        """
        tape = self.tape
        if tape.closed:
            return
        if tape.clock is None or self.lost:
            tape.lose()
            return
        try:
            with self.range(names.KIND_OF[names.ANCHOR]):
                if len(tape):
                    tape.wait(tape.fence())
                    tape.resolve()
                tape.anchor()
        except RuntimeError:
            self.lost = True
            tape.lose()

    def anchor_if_stale(self) -> None:
        anchors = self.tape.anchors
        if not anchors or monotonic_ns() - anchors[-1].host_after > _STALE_NS:
            self.anchor()


@dataclass(slots=True, eq=False)
class Lane:
    """One thread: a voice per clock (``None`` is the host's), whether it is in a call that is told only once.

    ``output`` is what is kept of the output of its latest generation.
    """

    thread: int
    name: str
    owner: weakref.ref[threading.Thread]
    voices: dict[int | None, Voice] = field(default_factory=dict)
    busy: bool = False
    output: dict[str, Json] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether its thread marks no more."""
        thread = self.owner()
        return thread is None or not thread.is_alive()

    def retire_if_ended(self) -> bool:
        """Give back the events of a thread that marks no more: a server may begin one for each request."""
        if not self.has_ended:
            return False
        for voice in self.voices.values():
            if len(voice.tape):
                voice.anchor()
            voice.tape.close()
        return True


class Lanes:
    """The lanes of all threads that took part in a recording.

    Where it never ``waits``, a voice has no anchors, and ``all`` stays empty: whoever is told of a lane's generations
    knows it. ``memory`` says to read the allocators of devices. ``between_tokens`` is what the recorder does there for
    a tape and the room that it needs: a part of what is priced. Prices are measured once for each clock: that takes
    up to some tenths of a second, and a server may begin a thread for each request.
    """

    def __init__(
        self,
        texts: Callable[[int], str],
        domain: Any | None,
        between_tokens: Callable[[Tape, int], None] = Tape.reserve,
        *,
        waits: bool = True,
        memory: bool = False,
    ) -> None:
        self._texts = texts
        self._domain = domain
        self._between_tokens = between_tokens
        self._waits = waits
        self._memory = memory
        self._allocators: dict[int, Allocator] = {}
        self._prices: dict[int | None, Prices] = {}
        self._local = threading.local()
        self._lock = threading.Lock()
        self._clocks: dict[int, DeviceClock] = {}
        self._alive: list[Lane] = []
        self.all: list[Lane] = []

    def here(self) -> Lane:
        """The lane of the calling thread."""
        lane: Lane | None = getattr(self._local, "lane", None)
        if lane is None:
            thread = threading.current_thread()
            lane = Lane(threading.get_native_id(), thread.name, weakref.ref(thread))
            self._local.lane = lane
            if not self._waits:
                return lane
            with self._lock:
                self._alive = [other for other in self._alive if not other.retire_if_ended()]
                self._alive.append(lane)
                self.all.append(lane)
        return lane

    def voice(self, device: int | None) -> Voice:
        """The calling thread's voice on a clock; made the first time."""
        lane = self.here()
        voice = lane.voices.get(device)
        if voice is None:
            voice = lane.voices[device] = self._made(device)
        return voice

    def _made(self, device: int | None) -> Voice:
        with self._lock:
            if device is not None and device not in self._clocks:
                self._clocks[device] = clock_of(device)
            clock = None if device is None else self._clocks[device]
        tape = Tape(clock, _ROOM, monotonic_ns)
        ranges = None if self._domain is None else NvtxRanges(self._domain, self._texts)
        meter = None if device is None or not self._memory else self._meter(device, tape)
        heard: Listener = tape if meter is None else Fanout(meter, tape)
        voice = Voice(tape, ranges, heard if ranges is None else Fanout(heard, ranges), meter=meter)
        if device not in self._prices:
            between = partial(self._between_tokens, tape, 0)
            self._prices[device] = calibrate(tape, heard.mark, between, ranges)
        voice.prices = self._prices[device]
        if clock is not None and self._waits:
            # Nothing marked while calibrating is kept, and the first anchor must follow all of it.
            settle_device(device)
            tape.discard()
            voice.anchor()
        else:
            tape.discard()
        return voice

    def _meter(self, device: int, tape: Tape) -> MemoryMeter:
        with self._lock:
            allocator = self._allocators.setdefault(device, Allocator(device))
        return MemoryMeter(tape, allocator, monotonic_ns)


def settle_device(device: int | None) -> None:
    """Wait until a device has done all that was asked of it; only outside of generations."""
    torch.cuda.synchronize(device)

"""Memory: what PyTorch's allocator holds where stages begin and end, and at most in each of them, when asked.

A listener around all others: it reads before the mark of a begin, and after that of an end. Nothing waits for the
device. Each reading resets the allocator's peak statistics, so that the next one tells the peak since. torch cannot set
them back: what the program reads of them later counts from the last reading.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch

from vlmtrace.capture.clocks import monotonic_ns
from vlmtrace.capture.device_state import allocator_state
from vlmtrace.capture.listeners import Mark
from vlmtrace.capture.tape import Tape
from vlmtrace.errors import UsageError
from vlmtrace.timeline import names
from vlmtrace.timeline.assembly import Node
from vlmtrace.timeline.marks import POINT, UNRESOLVED, Marks
from vlmtrace.timeline.spans import NONE

__all__ = ["Allocator", "MemoryMeter", "Reading", "check", "samples", "tell_peaks"]

_PEAK: Final = "peak_bytes"


def check() -> None:
    """Refuse to read an allocator where there is none.

    Raises:
        UsageError: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise UsageError("memory (--memory) needs a CUDA device, and there is none", "leave it out")


@dataclass(frozen=True, slots=True)
class Reading:
    """The allocator's bytes beside the mark at position ``mark`` of a tape; ``peak`` is since the reading before."""

    mark: int
    allocated: int
    reserved: int
    peak: int


class Allocator:
    """The caching allocator of one CUDA device, and its peak for all who read it at the same time.

    Whoever reads resets the peak for all threads, so each is told the largest since its own last reading.
    """

    def __init__(self, device: int) -> None:
        self._device = device
        self._peaks: dict[object, int] = {}
        self._lock = threading.Lock()

    def read(self, reader: object) -> tuple[int, int, int] | None:
        """Allocated and reserved bytes now, and the peak since ``reader`` read last; ``None`` where nothing answers."""
        with self._lock:
            now = allocator_state(self._device)
            if not now:
                return None
            torch.cuda.reset_peak_memory_stats(self._device)
            self._peaks.setdefault(reader, 0)
            for one, peak in self._peaks.items():
                self._peaks[one] = max(peak, now[_PEAK])
            peak, self._peaks[reader] = self._peaks[reader], 0
        return now["allocated_bytes"], now["reserved_bytes"], peak

    def leave(self, reader: object) -> None:
        """``reader`` reads no more for now."""
        with self._lock:
            self._peaks.pop(reader, None)


class MemoryMeter:
    """Reads the allocator at the outer borders of ``generate``, vision, prefill and decode; told of every mark.

    ``readings`` are those of the generation in progress, or of the last one. ``host_ns`` is how long those inside of it
    took. No step is known to be the last, so a decode is read before its first one and when the next stage begins, or
    the generation has ended; a vision inside it is not read.
    """

    def __init__(self, tape: Tape, allocator: Allocator, now: Callable[[], int] = monotonic_ns) -> None:
        self.readings: list[Reading] = []
        self.host_ns = 0
        self._tape = tape
        self._allocator = allocator
        self._now = now
        self._start()
        self.mark = self._bound()

    def close(self) -> None:
        """The generation has ended, and its last mark has been made."""
        self._read(self._tape.written - 1)
        self._allocator.leave(self)

    def _start(self) -> None:
        self._seeing = 0
        self._seen_at = NONE
        self._in_prefill = self._in_decode = self._in_step = False

    def _bound(self) -> Mark:
        kind = names.KIND_OF
        acts: dict[int, Callable[[], None]] = {
            kind[names.GENERATE]: self._begin,
            kind[names.WARMUP]: self._begin,
            kind[names.PREFILL]: self._enter_prefill,
            ~kind[names.PREFILL]: self._after,
            kind[names.STEP]: self._enter_step,
            ~kind[names.STEP]: self._leave_step,
            POINT | kind[names.TOKEN]: self._token,
            kind[names.VISION]: self._enter_vision,
            ~kind[names.VISION]: self._leave_vision,
            kind[names.ENCODER]: self._enter_part,
            ~kind[names.ENCODER]: self._leave_part,
            kind[names.PROJECTOR]: self._enter_part,
            ~kind[names.PROJECTOR]: self._leave_part,
        }

        def mark(code: int, number: int = NONE) -> None:  # noqa: ARG001
            act = acts.get(code)
            if act is not None:
                act()

        return mark

    def _begin(self) -> None:
        self.readings, self.host_ns = [], 0
        self._start()
        self._read(self._tape.written)

    def _enter_prefill(self) -> None:
        # Else it is one more chunk of a prefill, and what lies between two chunks is that prefill's.
        if not self._in_prefill:
            self._before()
        self._in_prefill, self._in_decode = True, False

    def _token(self) -> None:
        self._in_prefill = False

    def _enter_step(self) -> None:
        if not self._in_decode:
            self._before()
        self._in_prefill, self._in_decode, self._in_step = False, True, True

    def _leave_step(self) -> None:
        self._in_step = False

    def _enter_vision(self) -> None:
        self._seeing += 1
        if self._seeing == 1 and not self._in_step:
            self._before()

    def _leave_vision(self) -> None:
        self._seeing -= 1
        if self._seeing == 0 and not self._in_step:
            self._after()

    def _enter_part(self) -> None:
        """An encoder or projector: a vision of its own where no feature call is around it; neighbours are one."""
        if self._seen_at == self._tape.written:
            self._seeing += 1
        else:
            self._enter_vision()

    def _leave_part(self) -> None:
        self._leave_vision()
        if self._seeing == 0:
            self._seen_at = self._tape.written

    def _before(self) -> None:
        self.host_ns += self._read(self._tape.written)

    def _after(self) -> None:
        self.host_ns += self._read(self._tape.written - 1)

    def _read(self, mark: int) -> int:
        """Read, beside the mark at that position; nanoseconds that it took on the host."""
        begin = self._now()
        told = self._allocator.read(self)
        if told is not None:
            self.readings.append(Reading(mark, *told))
        return self._now() - begin


def samples(
    readings: Sequence[Reading], marks: Marks, to_axis: Callable[[int], int]
) -> Iterator[tuple[int, Mapping[str, int]]]:
    """Where each reading lies on the axis, at its mark, and its bytes; as peak, that up to the next reading."""
    peaks = [*(later.peak for later in readings[1:]), *(last.allocated for last in readings[-1:])]
    for one, peak in zip(readings, peaks, strict=True):
        device = marks.device[one.mark]
        at = marks.host[one.mark] if device == UNRESOLVED else to_axis(device)
        yield at, {"allocated_bytes": one.allocated, "reserved_bytes": one.reserved, _PEAK: peak}


def tell_peaks(generate: Node, readings: Sequence[Reading], marks: Marks) -> None:
    """Put ``peak_bytes`` on a generation, on its stages, and on a vision in a prefill, whose own it then leaves out."""
    stretches = [(marks.host[one.mark], marks.host[later.mark], later.peak) for one, later in pairwise(readings)]

    def tell(node: Node, without: Sequence[Node] = ()) -> None:
        peaks = [
            peak
            for begin, end, peak in stretches
            if _overlap(begin, end, node) and not any(_overlap(begin, end, other) for other in without)
        ]
        if peaks:
            node.args[_PEAK] = max(peaks)

    if stretches:
        generate.args[_PEAK] = max(peak for _, _, peak in stretches)
    for stage in generate.children if stretches else ():
        if stage.name == names.PREFILL:
            inside = [child for branch in stage.branches() for child in branch.children if child.name == names.VISION]
            for vision in inside:
                tell(vision)
            tell(stage, inside)
        elif stage.name in {names.VISION, names.DECODE}:
            tell(stage)


def _overlap(begin: int, end: int, node: Node) -> bool:
    """Whether host times from ``begin`` to ``end`` share more than a moment with those of a span."""
    return begin < node.end[1] and end > node.begin[1]

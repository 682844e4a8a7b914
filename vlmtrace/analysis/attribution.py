"""Attribution: in which part of which generation the host was at any time, by the NVTX ranges on its thread.

A kernel belongs to the part in which its launch was called, wherever on the device it ran. Ranges name the stages and
what lies within them; what lies between two stages of one ``generate`` is named as the timeline names it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from vlmtrace.nsight.report import Ranges
from vlmtrace.timeline import names
from vlmtrace.timeline.spans import NONE

__all__ = ["Call", "Place", "ThreadPlaces", "places"]

_CALLS: Final = frozenset((names.GENERATE, names.WARMUP))
_STEPS: Final = frozenset((names.STEP, names.DECODE))
"""Earlier recordings called the range of a step ``decode``."""
_LOOSE_VISION: Final = frozenset((names.ENCODER, names.PROJECTOR))
_STAGES: Final = frozenset((names.VISION, names.PREFILL, *_STEPS))


@dataclass(frozen=True, slots=True)
class Place:
    """A part of a generation, or of what is around one.

    ``call`` is the position of its ``generate`` among the calls of its thread, ``NONE`` outside of any. ``stage`` is
    the part that tiles it (``vision``, ``prefill``, ``decode.step``, ``decode.gap``, ``other.…``), outside of calls a
    range's own name or nothing. ``step`` is the step's number, or that of the step before a gap. ``module`` is the
    innermost range within the stage, if there is one.
    """

    call: int
    stage: str
    step: int = NONE
    module: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """The range around a whole ``generate()``, and name, start and end of those of its forwards, by start."""

    name: str
    start: int
    end: int
    forwards: tuple[tuple[str, int, int], ...]


@dataclass(slots=True)
class ThreadPlaces:
    """Where one thread was: from ``starts[i]`` on at ``places[i]``, before the first nowhere."""

    starts: array[int] = field(default_factory=lambda: array("q"))
    places: list[Place] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def at(self, time: int) -> Place | None:
        """Where the thread was at ``time`` (ns of the report); ``None`` outside of all ranges."""
        found = bisect_right(self.starts, time) - 1
        return self.places[found] if found >= 0 and self.places[found] is not _NOWHERE else None


_NOWHERE: Final = Place(NONE, "")


def places(ranges: Ranges) -> dict[int, ThreadPlaces]:
    """Where each thread that has ranges was, by Nsight's id of the thread."""
    by_thread: dict[int, list[int]] = {}
    for at, thread in enumerate(ranges.thread):
        by_thread.setdefault(thread, []).append(at)
    return {thread: _Sweep(ranges).run(own) for thread, own in by_thread.items()}


@dataclass(slots=True)
class _Part:
    """A stretch of time inside a call: its stage as far as the ranges tell, and how many stages had begun by then."""

    start: int
    stage: str
    step: int
    module: str
    begun: int


class _Sweep:
    """The ranges of one thread, in order of start, as stretches of time."""

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges
        self.made = ThreadPlaces()
        self.open: list[int] = []
        self.steps: dict[int, int] = {}
        self.parts: list[_Part] = []
        self.tiles: list[tuple[str, int, int, int]] = []
        self.counted = 0

    def run(self, own: Sequence[int]) -> ThreadPlaces:
        start, end = self.ranges.start, self.ranges.end
        for at in own:
            self._close(start[at])
            # A range that outlasts the one around it was left out of turn: it ends with that.
            if self.open and end[at] > end[self.open[-1]]:
                end[at] = end[self.open[-1]]
            self._enter(at)
        self._close(None)
        return self.made

    def _close(self, until: int | None) -> None:
        """Leave every range that has ended by ``until``."""
        while self.open and (until is None or self.ranges.end[self.open[-1]] <= until):
            at = self.open.pop()
            if self._call() is None and self.ranges.name[at] in _CALLS:
                self._finish(at)
            self._note(self.ranges.end[at])

    def _enter(self, at: int) -> None:
        name, within = self.ranges.name[at], self._call()
        self.open.append(at)
        if within is not None:
            stage = self._tile()
            if stage is not None and not any(self._is_stage(other) for other in self._inside()[:-1]):
                step = NONE
                if stage == names.STEP:
                    step = self.counted if self.ranges.number[at] == NONE else self.ranges.number[at]
                    self.counted += 1
                self.steps[at] = step
                self.tiles.append((stage, self.ranges.start[at], self.ranges.end[at], step))
        elif name in _CALLS:
            self.parts, self.tiles, self.counted = [], [], 0
        self._note(self.ranges.start[at])

    def _call(self) -> int | None:
        """The outermost open ``generate``."""
        return next((at for at in self.open if self.ranges.name[at] in _CALLS), None)

    def _inside(self) -> list[int]:
        """The open ranges inside of the call."""
        first = next((i for i, at in enumerate(self.open) if self.ranges.name[at] in _CALLS), len(self.open))
        return self.open[first + 1 :]

    def _is_stage(self, at: int) -> bool:
        return self.ranges.name[at] in _STAGES or self.ranges.name[at] in _LOOSE_VISION

    def _tile(self) -> str | None:
        """The stage that the open ranges are in: a vision within a step counts in it, one in a prefill does not."""
        found: str | None = None
        for at in self._inside():
            name = self.ranges.name[at]
            if name in _STEPS and found is None:
                found = names.STEP
            elif name == names.PREFILL and found is None:
                found = names.PREFILL
            elif (name == names.VISION or name in _LOOSE_VISION) and found in {None, names.PREFILL}:
                found = names.VISION
        return found

    def _note(self, start: int) -> None:
        """From ``start`` on the open ranges say where the thread is."""
        if self._call() is None:
            around = next((self.ranges.name[at] for at in reversed(self.open)), "")
            self._add(start, _NOWHERE if not self.open else Place(NONE, around))
            return
        inside = self._inside()
        step = next((self.steps[at] for at in inside if self.steps.get(at, NONE) != NONE), NONE)
        module = self.ranges.name[inside[-1]] if inside and self.ranges.name[inside[-1]] not in _STAGES else ""
        if self.parts and self.parts[-1].start == start:
            self.parts.pop()
        self.parts.append(_Part(start, self._tile() or "", step, module, len(self.tiles)))

    def _finish(self, at: int) -> None:
        """A call has ended: what lay between its stages can be named."""
        number = len(self.made.calls)
        ranges = self.ranges
        self.made.calls.append(
            Call(
                ranges.name[at],
                ranges.start[at],
                ranges.end[at],
                tuple(tile[:3] for tile in self.tiles if tile[0] != names.VISION),
            )
        )
        between, in_decode = self._neighbours()
        for part in self.parts:
            stage, step, module = part.stage, part.step, part.module
            if not stage:
                stage, step = between[part.begun]
            elif stage == names.VISION and in_decode[part.begun - 1]:
                stage, step = between[part.begun]
                module = module or names.VISION
            self._add(part.start, Place(number, stage, step, module))
        self.parts, self.tiles = [], []

    def _neighbours(self) -> tuple[list[tuple[str, int]], list[bool]]:
        """What lies behind the first 0, 1, … stages, with the step before it; which stages are a vision in decode."""
        nothing = ("", NONE)
        before, after = [nothing], [nothing]
        for stage, _, _, step in self.tiles:
            before.append(before[-1] if stage == names.VISION else (stage, step))
        for stage, _, _, step in reversed(self.tiles):
            after.append(after[-1] if stage == names.VISION else (stage, step))
        after.reverse()
        between = [self._between(begun, before[begun], after[begun][0]) for begun in range(len(self.tiles) + 1)]
        in_decode = [
            stage == names.VISION and before[i][0] == after[i + 1][0] == names.STEP
            for i, (stage, *_) in enumerate(self.tiles)
        ]
        return between, in_decode

    def _between(self, begun: int, before: tuple[str, int], after: str) -> tuple[str, int]:
        """What lies behind the first ``begun`` stages, named by its neighbours: the forwards before and after it."""
        if before[0] == after == names.STEP:
            return names.GAP, before[1]
        if before[0] == after == names.PREFILL:
            return names.PREFILL, NONE
        if begun == 0:
            return names.OTHER_SETUP, NONE
        if begun == len(self.tiles):
            return names.OTHER_TAIL, NONE
        if self.tiles[begun - 1][0] == names.PREFILL and self.tiles[begun][0] == names.STEP:
            return names.OTHER_FIRST_TOKEN, NONE
        return names.OTHER_BETWEEN, NONE

    def _add(self, start: int, place: Place) -> None:
        made = self.made
        if made.starts and made.starts[-1] == start:
            made.starts.pop()
            made.places.pop()
        made.starts.append(start)
        made.places.append(place)

"""The tally: every kernel and copy counted once, by generation and stage, in one pass over a recording's columns."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from vlmtrace.analysis.busy import Busy
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import COPIES, KERNELS, Recording
from vlmtrace.timeline.spans import NONE, Spans

__all__ = ["Starts", "Tally", "Work", "tally"]

Starts: TypeAlias = Mapping[tuple[int, str], Sequence[int]]
"""By generation and stage: the host times, ascending, at which each of its spans began."""


@dataclass(slots=True)
class Work:
    """What one stage of one generation launched.

    ``first`` and ``last`` are, of each span of the stage (a step by its number, another by its position), the begin of
    the first kernel and the end of the last one. ``calls`` are the host times of the calls that launched kernels, begin
    and end, as often as they launched one. ``copies`` are operations, bytes and ns by name, as in ``strings``.
    """

    kernels: int = 0
    first: dict[int, int] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)
    calls: tuple[array[int], array[int]] = field(default_factory=lambda: (array("q"), array("q")))
    copies: dict[int, list[int]] = field(default_factory=dict)

    def reach(self, at: int, begin: int, end: int) -> None:
        """One more kernel of that span; it begins no earlier than the last one told."""
        last = self.last.get(at)
        if last is None:
            self.first[at] = begin
        if last is None or end > last:
            self.last[at] = end

    def launches(self) -> tuple[int, int]:
        """How many calls launched kernels, and their ns on the host; one that launched several counts once."""
        calls = set(zip(*self.calls, strict=True))
        return len(calls), sum(end - begin for begin, end in calls)


@dataclass(frozen=True, slots=True)
class Tally:
    """What ran, by generation (:data:`NONE`: outside of every ``generate()``) and stage.

    ``top`` has calls and ns of each kernel by stage, short name and full name as in ``strings``, over the counted
    generations; what ran outside of ``generate()`` is under the stage ``""``. ``busy`` is each device's; ``devices``
    are those that a generation used.
    """

    work: Mapping[tuple[int, str], Work]
    top: Mapping[str, Mapping[tuple[int, int], Sequence[int]]]
    busy: Mapping[int, Busy]
    devices: Mapping[int, frozenset[int]]


def tally(recording: Recording, counted: frozenset[int], starts: Starts) -> Tally:
    """Count every operation of ``recording``, in detail those of the generations ``counted`` and of none."""
    made = _Counting(recording, counted, starts)
    made.run()
    return Tally(
        work=made.work,
        top=made.top,
        busy={device: busy for device, busy in made.busy.items() if device is not None},
        devices={
            index: frozenset(device for device in used if device is not None) for index, used in made.devices.items()
        },
    )


@dataclass(slots=True)
class _Place:
    """Where the operations of one stage of one generation are counted.

    ``top`` is ``None`` where no details are kept; ``starts`` is where its spans are not told apart, ``numbered`` where
    their numbers do it.
    """

    work: Work
    devices: set[int | None]
    top: dict[tuple[int, int], list[int]] | None
    starts: Sequence[int] | None
    numbered: bool


class _Counting:
    def __init__(self, recording: Recording, counted: frozenset[int], starts: Starts) -> None:
        self.recording, self.counted, self.starts = recording, counted, starts
        self.work: dict[tuple[int, str], Work] = {}
        self.top: defaultdict[str, dict[tuple[int, int], list[int]]] = defaultdict(dict)
        self.busy: defaultdict[int | None, Busy] = defaultdict(Busy)
        self.devices: defaultdict[int, set[int | None]] = defaultdict(set)

    def run(self) -> None:
        spans, tracks = self.recording.spans, self.recording.tracks
        wanted = [track.kind in {KERNELS, COPIES} for track in tracks]
        is_kernel, device_of = [track.kind == KERNELS for track in tracks], [track.device for track in tracks]
        stages, fulls, calls = (_by_row(spans, key, text=True) for key in ("stage", "kernel", "call"))
        sizes, shorts = _by_row(spans, "bytes", text=False), spans.name
        places: dict[tuple[int, int], _Place] = {}
        columns = (spans.track, spans.begin, spans.end, spans.generation, stages)
        for row, (track, begin, end, generation, stage) in enumerate(zip(*columns, strict=True)):
            if not wanted[track]:
                continue
            self.busy[device_of[track]].add(begin, end)
            if stage == NONE:
                continue
            place = places.get((generation, stage))
            if place is None:
                place = places[generation, stage] = self._place(generation, spans.strings[stage])
            place.devices.add(device_of[track])
            work = place.work
            work.kernels += is_kernel[track]
            if place.top is None:
                continue
            if not is_kernel[track]:
                _add(work.copies, shorts[row], (1, max(0, sizes[row]), end - begin))
                continue
            full = fulls[row]
            _add(place.top, (shorts[row], full if full != NONE else shorts[row]), (1, end - begin))
            if calls[row] != NONE:
                work.calls[0].append(spans.host_begin[row])
                work.calls[1].append(spans.host_end[row])
            if place.numbered:
                work.reach(spans.number[row], begin, end)
            elif place.starts is not None:
                work.reach(max(0, bisect_right(place.starts, spans.host_begin[row]) - 1), begin, end)

    def _place(self, generation: int, stage: str) -> _Place:
        inside = generation != NONE
        return _Place(
            work=self.work.setdefault((generation, stage), Work()),
            devices=self.devices[generation],
            top=self.top[stage if inside else ""] if not inside or generation in self.counted else None,
            starts=self.starts.get((generation, stage)),
            numbered=inside and stage == names.STEP,
        )


_Key = TypeVar("_Key")


def _add(sums: dict[_Key, list[int]], key: _Key, more: tuple[int, ...]) -> None:
    found = sums.get(key)
    if found is None:
        sums[key] = [*more]
        return
    for at, value in enumerate(more):
        found[at] += value


def _by_row(spans: Spans, key: str, *, text: bool) -> array[int]:
    """The argument ``key`` of every row as its column holds it, :data:`NONE` where a row has none."""
    made = array("q", [NONE]) * len(spans)
    column = spans.args.get(key)
    if column is not None and column.text is text:
        for row, value in zip(column.rows, column.values, strict=True):
            made[row] = value
    return made

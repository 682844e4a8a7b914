"""The tally: every kernel and copy counted once, by generation and stage, in one pass over a recording's columns."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

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
        busy={device: made.busy[device] for device in sorted(made.busy)},
        devices={index: frozenset(used) for index, used in made.devices.items()},
    )


class _Counting:
    def __init__(self, recording: Recording, counted: frozenset[int], starts: Starts) -> None:
        self.recording, self.counted, self.starts = recording, counted | {NONE}, starts
        self.work: defaultdict[tuple[int, str], Work] = defaultdict(Work)
        self.top: defaultdict[str, dict[tuple[int, int], list[int]]] = defaultdict(dict)
        self.busy: defaultdict[int, Busy] = defaultdict(Busy)
        self.devices: defaultdict[int, set[int]] = defaultdict(set)

    def run(self) -> None:
        spans, tracks = self.recording.spans, self.recording.tracks
        wanted = {at: track.kind == KERNELS for at, track in enumerate(tracks) if track.kind in {KERNELS, COPIES}}
        used: Counter[tuple[int, int]] = Counter()
        places: dict[tuple[int, int], tuple[Work, str]] = {}
        stages = _by_row(spans, "stage", text=True)
        fulls, calls = _by_row(spans, "kernel", text=True), _by_row(spans, "call", text=True)
        sizes = _by_row(spans, "bytes", text=False)
        generations, begins, ends, shorts = spans.generation, spans.begin, spans.end, spans.name
        rows = array("q", (row for row, track in enumerate(spans.track) if track in wanted))
        for row in rows:
            track, begin, end, stage = spans.track[row], begins[row], ends[row], stages[row]
            device = tracks[track].device
            if device is not None:
                self.busy[device].add(begin, end)
            if stage == NONE:
                continue
            generation = generations[row]
            if device is not None:
                used[generation, device] += 1
            place = places.get((generation, stage))
            if place is None:
                name = spans.strings[stage]
                place = places[generation, stage] = (self.work[generation, name], "" if generation == NONE else name)
            work, group = place
            is_kernel = wanted[track]
            if is_kernel:
                work.kernels += 1
            if generation not in self.counted:
                continue
            if not is_kernel:
                copied = work.copies.setdefault(shorts[row], [0, 0, 0])
                copied[0] += 1
                copied[1] += max(0, sizes[row])
                copied[2] += end - begin
                continue
            key = shorts[row], fulls[row] if fulls[row] != NONE else shorts[row]
            found = self.top[group].setdefault(key, [0, 0])
            found[0] += 1
            found[1] += end - begin
            if calls[row] != NONE:
                work.calls[0].append(spans.host_begin[row])
                work.calls[1].append(spans.host_end[row])
            if group:
                self._place(work, group, row)
        for generation, device in used:
            self.devices[generation].add(device)

    def _place(self, work: Work, stage: str, row: int) -> None:
        """Let the span of ``stage`` that launched the kernel reach from its first kernel to its last one."""
        spans = self.recording.spans
        if stage == names.STEP:
            at = spans.number[row]
        else:
            starts = self.starts.get((spans.generation[row], stage))
            if starts is None:
                return
            at = max(0, bisect_right(starts, spans.host_begin[row]) - 1) if len(starts) > 1 else 0
        begin, end = spans.begin[row], spans.end[row]
        if at not in work.first:
            work.first[at] = begin  # rows ascend by begin
            work.last[at] = end
        elif end > work.last[at]:
            work.last[at] = end


def _by_row(spans: Spans, key: str, *, text: bool) -> array[int]:
    """The argument ``key`` of every row as its column holds it, :data:`NONE` where a row has none."""
    made = array("q", [NONE]) * len(spans)
    column = spans.args.get(key)
    if column is not None and column.text is text:
        for row, value in zip(column.rows, column.values, strict=True):
            made[row] = value
    return made

"""Launches: when the host launched what a device then did, as slices derived from the host times of device spans.

A stage is launched from its first mark to its last, and each CUDA call that launched kernels or copies is a launch
inside it. They are drawn on the row of the thread that launched, between that thread's own spans. Slices of one row
must nest or lie apart, which host times need not do: what would cut across another slice goes to a lane of its own
below, a call rather than a stage, and never what was recorded.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from vlmtrace.timeline import names
from vlmtrace.timeline.recording import COPIES, KERNELS, Recording, Track
from vlmtrace.timeline.spans import NONE, sort_ties

__all__ = ["OPERATIONS", "Home", "Launches", "home_of", "host_tracks", "is_launched", "launches"]

Home: TypeAlias = tuple[int | None, int]
"""Whose row a launch is on: the rank, and the operating system's id of the thread."""

_CALL: Final = "call"
"""The argument of a kernel or copy that names the CUDA call which launched it."""

OPERATIONS: Final = frozenset((KERNELS, COPIES))
"""The kinds of tracks whose spans a CUDA call launched."""

_LAUNCHED: Final = frozenset((names.GENERATE, names.VISION, names.PREFILL, names.DECODE, names.STEP))
_LAUNCHED_ON: Final = frozenset(("generations", "stages", "steps"))
_RECORDED, _STAGE, _CALLED = range(3)


@dataclass(frozen=True, slots=True)
class Launches:
    """Launches as parallel columns, ascending by begin; a recording may hold a million.

    The host launched row ``span`` (the first, where a call launched several) from ``begin`` to ``end`` (ns on the
    axis). ``call`` is the name of the CUDA call in the spans' string table, :data:`NONE` where a stage was launched.
    ``place`` is a position in ``places``: whose row it is on, and which lane; 0 is the host row itself.
    """

    span: array[int]
    begin: array[int]
    end: array[int]
    call: array[int]
    place: array[int]
    places: tuple[tuple[Home, int], ...]

    def __len__(self) -> int:
        return len(self.span)


@dataclass(slots=True)
class _Thread:
    """What one thread's row has to hold, as parallel columns; ``level`` is one of this module's three."""

    begin: array[int] = field(default_factory=lambda: array("q"))
    end: array[int] = field(default_factory=lambda: array("q"))
    level: bytearray = field(default_factory=bytearray)
    span: array[int] = field(default_factory=lambda: array("q"))
    call: array[int] = field(default_factory=lambda: array("q"))

    def add(self, begin: int, end: int, level: int, span: int, call: int = NONE) -> None:
        self.begin.append(begin)
        self.end.append(end)
        self.level.append(level)
        self.span.append(span)
        self.call.append(call)


def home_of(track: Track) -> Home:
    """The rank and thread that a track's spans were launched by."""
    return track.rank, track.thread


def host_tracks(recording: Recording) -> dict[Home, int]:
    """The recorded host track of each thread, the first where there are several."""
    found: dict[Home, int] = {}
    for index, track in enumerate(recording.tracks):
        if track.kind == "host":
            found.setdefault(home_of(track), index)
    return found


def is_launched(recording: Recording) -> tuple[list[bool], list[bool]]:
    """By name (in the spans' string table) and by track: both are true for a stage that was launched on a device."""
    return (
        [name in _LAUNCHED for name in recording.spans.strings],
        [track.device is not None and track.kind in _LAUNCHED_ON for track in recording.tracks],
    )


def launches(recording: Recording) -> Launches:
    """The launch of every stage that a device timed, and every CUDA call that launched kernels or copies."""
    spans = recording.spans
    by_name, by_track = is_launched(recording)
    homes = [home_of(track) for track in recording.tracks]
    found: defaultdict[Home, _Thread] = defaultdict(_Thread)
    for row, (name, track) in enumerate(zip(spans.name, spans.track, strict=True)):
        if by_name[name] and by_track[track]:
            found[homes[track]].add(spans.host_begin[row], spans.host_end[row], _STAGE, row)
    for row, call in _calls(recording):
        found[homes[spans.track[row]]].add(spans.host_begin[row], spans.host_end[row], _CALLED, row, call)
    thread_of = {track: found[home] for home, track in host_tracks(recording).items() if home in found}
    for row, track in enumerate(spans.track):
        if track in thread_of:
            thread_of[track].add(spans.begin[row], spans.end[row], _RECORDED, row)
    return _merged({place: (thread, items) for home, thread in found.items() for place, items in _placed(home, thread)})


def _calls(recording: Recording) -> Iterator[tuple[int, int]]:
    """Each CUDA call that launched work, as the row of the first operation it launched and its name's position.

    Operations of one call have its host times and its generation in common; the first is the one that began first.
    """
    spans, column = recording.spans, recording.spans.args.get(_CALL)
    if column is None or not column.text:
        return
    rows, is_operation = column.rows, [track.kind in OPERATIONS for track in recording.tracks]
    homes = [home_of(track) for track in recording.tracks]
    called = [at for at, row in enumerate(rows) if is_operation[spans.track[row]]]
    called.sort(key=lambda at: spans.host_begin[rows[at]])
    begin: int | None = None
    seen: set[tuple[Home, int, int, int]] = set()
    for at in called:
        row, call = rows[at], column.values[at]
        if spans.host_begin[row] != begin:
            begin = spans.host_begin[row]
            seen.clear()
        one = homes[spans.track[row]], spans.host_end[row], spans.generation[row], call
        if one not in seen:
            seen.add(one)
            yield row, call


def _placed(home: Home, thread: _Thread) -> Iterator[tuple[tuple[Home, int], array[int]]]:
    """The launches of ``thread`` lane by lane; a lane below the first has only what had no room above."""
    begin, end, level = thread.begin, thread.end, thread.level
    waiting = array("q", sorted(range(len(begin)), key=begin.__getitem__))
    sort_ties(waiting, begin, lambda item: (-end[item], level[item], thread.span[item]))
    lane = 0
    while waiting:
        without = _without_room(waiting, thread)
        kept = array("q", (item for item in waiting if level[item] != _RECORDED and not without[item]))
        if kept:
            yield (home, lane), kept
        waiting = array("q", (item for item in waiting if without[item]))
        lane += 1


def _without_room(items: array[int], thread: _Thread) -> bytearray:
    """1 for those of ``items`` (in order) that must leave for the rest to nest or lie apart."""
    ends, level = thread.end, thread.level
    without = bytearray(len(ends))
    around: list[int] = []
    for item in items:
        begin, end = thread.begin[item], ends[item]
        while around and ends[around[-1]] <= begin:
            around.pop()
        crossed = len(around)
        while crossed and ends[around[crossed - 1]] < end and level[around[crossed - 1]] > level[item]:
            crossed -= 1
        if level[item] != _RECORDED and crossed and ends[around[crossed - 1]] < end:
            without[item] = 1
            continue
        for other in around[crossed:]:
            without[other] = 1
        del around[crossed:]
        around.append(item)
    return without


def _merged(by_place: dict[tuple[Home, int], tuple[_Thread, array[int]]]) -> Launches:
    """The launches of all places in one order."""
    made = {key: array("q") for key in ("span", "begin", "end", "call", "place")}
    for place, (thread, items) in enumerate(by_place.values()):
        for key in ("span", "begin", "end", "call"):
            made[key].extend(map(getattr(thread, key).__getitem__, items))
        made["place"].extend([place] * len(items))
    begin, end, call, span = made["begin"], made["end"], made["call"], made["span"]
    order = array("q", sorted(range(len(begin)), key=begin.__getitem__))
    sort_ties(order, begin, lambda at: (-end[at], call[at] != NONE, span[at]))
    return Launches(
        **{key: array("q", map(column.__getitem__, order)) for key, column in made.items()}, places=tuple(by_place)
    )

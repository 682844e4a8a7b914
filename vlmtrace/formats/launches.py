"""Launches: when the host launched what a device then did, as slices derived from the host times of device spans.

A stage is launched from its first mark to its last, and each CUDA call that launched kernels or copies is a launch
inside it. They are drawn on the row of the thread that launched, between that thread's own spans. Slices of one row
must nest or lie apart, which host times need not do: what would cut across another slice goes to a lane of its own
below, a call rather than a stage, and never what was recorded.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, repeat
from operator import lt
from typing import Final, TypeAlias

from vlmtrace.timeline import names
from vlmtrace.timeline.recording import COPIES, KERNELS, Recording, Track
from vlmtrace.timeline.spans import NONE, Spans, gathered, runs_of, sort_ties

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

    def add(self, rows: Sequence[int], times: tuple[array[int], array[int]], level: int, calls: Iterable[int]) -> None:
        """Add what is on the row for each of the spans in ``rows``; ``times`` are begins and ends by row."""
        runs = runs_of(rows)
        self.begin.extend(gathered(times[0], runs))
        self.end.extend(gathered(times[1], runs))
        self.level.extend(repeat(level, len(rows)))
        self.span.extend(rows)
        self.call.extend(calls)


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
    on_host = spans.host_begin, spans.host_end
    found: defaultdict[Home, _Thread] = defaultdict(_Thread)
    stages = [
        row
        for row, (name, track) in enumerate(zip(spans.name, spans.track, strict=True))
        if by_name[name] and by_track[track]
    ]
    for home, rows in _by_home(recording, stages):
        found[home].add(rows, on_host, _STAGE, repeat(NONE, len(rows)))
    for home, rows, calls in _calls(recording):
        found[home].add(rows, on_host, _CALLED, calls)
    of_host = frozenset(host_tracks(recording).values())
    recorded = [row for row, track in enumerate(spans.track) if track in of_host]
    for home, rows in _by_home(recording, recorded):
        if home in found:
            found[home].add(rows, (spans.begin, spans.end), _RECORDED, repeat(NONE, len(rows)))
    return _merged({place: (thread, items) for home, thread in found.items() for place, items in _placed(home, thread)})


def _by_home(recording: Recording, rows: Iterable[int]) -> Iterator[tuple[Home, array[int]]]:
    """``rows`` by the rank and thread that launched them."""
    track, homes = recording.spans.track, [home_of(track) for track in recording.tracks]
    found: defaultdict[Home, array[int]] = defaultdict(lambda: array("q"))
    for row in rows:
        found[homes[track[row]]].append(row)
    yield from found.items()


def _calls(recording: Recording) -> Iterator[tuple[Home, array[int], array[int]]]:
    """By thread, the CUDA calls that launched work: the row of the first operation of each, and its name's position.

    Operations of one call have its host times and its generation in common; the first is the one that began first.
    """
    spans, column = recording.spans, recording.spans.args.get(_CALL)
    if column is None or not column.text:
        return
    is_operation = [track.kind in OPERATIONS for track in recording.tracks]
    call_of = dict(zip(column.rows, column.values, strict=True))
    for home, rows in _by_home(recording, (row for row in column.rows if is_operation[spans.track[row]])):
        called = sorted(rows, key=spans.host_begin.__getitem__)
        begins = array("q", map(spans.host_begin.__getitem__, called))
        if not all(map(lt, begins, islice(begins, 1, None))):
            called = list(_first_of_each(spans, called, call_of))
        yield home, array("q", called), array("q", map(call_of.__getitem__, called))


def _first_of_each(spans: Spans, called: Iterable[int], call_of: Mapping[int, int]) -> Iterator[int]:
    """Of ``called``, rows of operations by their calls' begins, the first of each call."""
    begin: int | None = None
    seen: set[tuple[int, int, int]] = set()
    for row in called:
        if spans.host_begin[row] != begin:
            begin = spans.host_begin[row]
            seen.clear()
        one = spans.host_end[row], spans.generation[row], call_of[row]
        if one not in seen:
            seen.add(one)
            yield row


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
        waiting = array("q", (item for item in waiting if without[item]) if 1 in without else ())
        lane += 1


def _without_room(items: array[int], thread: _Thread) -> bytearray:
    """1 for those of ``items`` (in order) that must leave for the rest to nest or lie apart."""
    begins, ends, level = thread.begin, thread.end, thread.level
    without = bytearray(len(ends))
    around: list[int] = []
    for item in items:
        begin, end = begins[item], ends[item]
        while around and ends[around[-1]] <= begin:
            around.pop()
        if not around or ends[around[-1]] >= end:
            around.append(item)
            continue
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
        runs = runs_of(items)
        for key in ("span", "begin", "end", "call"):
            made[key].extend(gathered(getattr(thread, key), runs))
        made["place"].extend([place] * len(items))
    begin, end, call, span = made["begin"], made["end"], made["call"], made["span"]
    order = array("q", sorted(range(len(begin)), key=begin.__getitem__))
    sort_ties(order, begin, lambda at: (-end[at], call[at] != NONE, span[at]))
    runs = runs_of(order)
    return Launches(**{key: gathered(column, runs) for key, column in made.items()}, places=tuple(by_place))

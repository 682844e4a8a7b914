"""Launches: when the host launched what a device then did, as slices derived from the host times of device spans.

They are drawn on the row of the thread that launched, between that thread's own spans. Slices of one row must nest or
lie apart, which the host times of device spans need not do; a launch that would cut across another slice goes to a
lane of its own below.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Final, TypeAlias

from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording, Track

__all__ = ["Home", "Launch", "home_of", "host_tracks", "is_launched", "launches"]

Home: TypeAlias = tuple[int | None, int]
"""Whose row a launch is on: the rank, and the operating system's id of the thread."""

_LAUNCHED: Final = frozenset((names.GENERATE, names.VISION, names.PREFILL, names.DECODE, names.STEP))
_LAUNCHED_ON: Final = frozenset(("generations", "stages", "steps"))

_Item: TypeAlias = tuple[int, int, bool, int]
"""A slice in row order: its begin, its end negated, whether it is derived, and its span."""


@dataclass(frozen=True, slots=True)
class Launch:
    """The host launched span ``span`` from ``begin`` to ``end`` (ns on the axis); ``lane`` 0 is the host row itself."""

    span: int
    begin: int
    end: int
    home: Home
    lane: int


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


def launches(recording: Recording) -> list[Launch]:
    """The launch of every stage that a device timed, by begin; none where the host's clock did."""
    spans = recording.spans
    by_name, by_track = is_launched(recording)
    found: defaultdict[Home, list[_Item]] = defaultdict(list)
    for row in range(len(spans)):
        if by_name[spans.name[row]] and by_track[spans.track[row]]:
            home = home_of(recording.tracks[spans.track[row]])
            found[home].append((spans.host_begin[row], -spans.host_end[row], True, row))
    if not found:
        return []
    home_at = {track: home for home, track in host_tracks(recording).items() if home in found}
    for row in range(len(spans)):
        home_here = home_at.get(spans.track[row])
        if home_here is not None:
            found[home_here].append((spans.begin[row], -spans.end[row], False, row))
    made = [launch for home, items in found.items() for launch in _in_lanes(home, items)]
    made.sort(key=lambda launch: (launch.begin, -launch.end, launch.span))
    return made


def _in_lanes(home: Home, items: list[_Item]) -> list[Launch]:
    made: list[Launch] = []
    lane = 0
    while items:
        kept, items = _fit(sorted(items))
        made.extend(Launch(row, begin, -back, home, lane) for begin, back, derived, row in kept if derived)
        lane += 1
    return made


def _fit(items: list[_Item]) -> tuple[list[_Item], list[_Item]]:
    """Those of ``items`` (in order) that nest or lie apart, and the rest; what was recorded always stays."""
    out: set[int] = set()
    open_items: list[_Item] = []
    for item in items:
        begin, end, derived, row = item[0], -item[1], item[2], item[3]
        while open_items and -open_items[-1][1] <= begin:
            open_items.pop()
        if derived and open_items and -open_items[-1][1] < end:
            out.add(row)
            continue
        while open_items and -open_items[-1][1] < end:
            out.add(open_items.pop()[3])
        open_items.append(item)
    kept = [item for item in items if not (item[2] and item[3] in out)]
    return kept, [item for item in items if item[2] and item[3] in out]

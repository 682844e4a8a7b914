"""Causes: what the host is known to have done meanwhile that makes a step or a token late."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, TypeAlias

from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording

__all__ = ["CAUSES", "Causes"]

CAUSES: Final = (names.GC, names.COMPILE, names.CAPTURE)
"""The names of the host's spans that explain a delay."""

_Interval: TypeAlias = tuple[int, int]


class Causes:
    """When each rank's host was busy with each of :data:`CAUSES`."""

    def __init__(self, recording: Recording) -> None:
        self._busy = {name: _by_rank(recording, name) for name in CAUSES}

    def during(self, begin: int, end: int, rank: int | None) -> tuple[tuple[str, int], ...]:
        """Those that the host of ``rank`` was busy with between two positions on the axis, each with its ns there."""
        found = ((name, _overlap(by_rank.get(rank, []), begin, end)) for name, by_rank in self._busy.items())
        return tuple((name, ns) for name, ns in found if ns > 0)


def _by_rank(recording: Recording, name: str) -> dict[int | None, list[_Interval]]:
    """Intervals that lie apart, ascending."""
    found: defaultdict[int | None, list[_Interval]] = defaultdict(list)
    for span in recording.spans.named(name):
        track = recording.tracks[span.track]
        if track.device is None:
            found[track.rank].append((span.begin, span.end))
    return {rank: _joined(intervals) for rank, intervals in found.items()}


def _joined(intervals: Iterable[_Interval]) -> list[_Interval]:
    made: list[_Interval] = []
    for begin, end in sorted(intervals):
        if made and begin <= made[-1][1]:
            made[-1] = (made[-1][0], max(end, made[-1][1]))
        else:
            made.append((begin, end))
    return made


def _overlap(busy: list[_Interval], begin: int, end: int) -> int:
    overlap = 0
    for at in range(bisect_right(busy, (end, end)) - 1, -1, -1):
        if busy[at][1] <= begin:
            break
        overlap += max(0, min(end, busy[at][1]) - max(begin, busy[at][0]))
    return overlap

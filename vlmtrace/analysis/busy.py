"""Busy: when a device had at least one operation running, however many streams it runs them on."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from itertools import accumulate

__all__ = ["Busy"]


class Busy:
    """The union of intervals of time in ns, told in order of their begin."""

    def __init__(self) -> None:
        self._begins = array("q")
        self._ends = array("q")
        self._sums = array("q")

    def add(self, begin: int, end: int) -> None:
        """One more operation; it begins no earlier than the last one told."""
        ends = self._ends
        if ends and begin <= ends[-1]:
            ends[-1] = max(ends[-1], end)
        else:
            self._begins.append(begin)
            ends.append(end)

    def within(self, begin: int, end: int) -> int:
        """For how many ns of ``begin`` to ``end`` at least one of them ran; all have been told by then."""
        return self._before(end) - self._before(begin) if end > begin else 0

    def _before(self, time: int) -> int:
        at = bisect_right(self._begins, time) - 1
        if at < 0:
            return 0
        if len(self._sums) != len(self._begins) + 1:
            lengths = (end - begin for begin, end in zip(self._begins, self._ends, strict=True))
            self._sums = array("q", accumulate(lengths, initial=0))
        return self._sums[at] + min(time, self._ends[at]) - self._begins[at]

"""Trend: whether a series of repeated measurements rises or falls, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations, pairwise
from typing import Final

from vlmtrace.analysis.stats import median, ratio

__all__ = ["Trend", "trend"]

_MOST: Final = 60
"""Longer series are taken as medians of this many runs of neighbours, so that pairs stay few."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A series' straight line: ``change`` from the first to the last, as a part of the median, and ``p``.

    ``p`` is the two-sided probability of an order at least as steady if the order were chance.
    """

    change: float
    p: float


def trend(values: Sequence[float]) -> Trend | None:
    """The trend of ``values`` in their order; ``None`` of fewer than two, or where their median is 0.

    The slope is Theil's and Sen's, the median of the slopes of all pairs (Sen 1968, Journal of the American
    Statistical Association 63), which a few outliers do not move. The probability is Kendall's test (1938, Biometrika
    30) with its exact distribution, also where values are equal: equal values make the test less ready to call a trend.
    """
    points = _thinned(values)
    middle = median(points)
    slope = median([(later - earlier) / (j - i) for (i, earlier), (j, later) in combinations(enumerate(points), 2)])
    if slope is None or not middle:
        return None
    score = sum((later > earlier) - (later < earlier) for earlier, later in combinations(points, 2))
    change = ratio(slope * (len(points) - 1), middle)
    return None if change is None else Trend(change, _chance(len(points), abs(score)))


def _thinned(values: Sequence[float]) -> Sequence[float]:
    count = len(values)
    if count <= _MOST:
        return values
    cuts = [at * count // _MOST for at in range(_MOST + 1)]
    middles = (median(values[begin:end]) for begin, end in pairwise(cuts))
    return [middle for middle in middles if middle is not None]


def _chance(count: int, score: int) -> float:
    """How likely a random order of ``count`` values is to have a Kendall score of ``score`` or more either way.

    The score is the number of pairs in order minus that of pairs out of order; the latter is distributed as the
    inversions of a permutation, which adding one more value spreads evenly over as many places as there then are.
    """
    if score <= 0:
        return 1.0
    inversions = [1.0]
    for size in range(2, count + 1):
        width = len(inversions) + size - 1
        sums = [0.0, *accumulate(inversions)]
        last = len(inversions)
        inversions = [(sums[min(k + 1, last)] - sums[max(0, k - size + 1)]) / size for k in range(width)]
    pairs = count * (count - 1) // 2
    return min(1.0, 2 * sum(inversions[: (pairs - score) // 2 + 1]))

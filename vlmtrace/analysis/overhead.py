"""Overhead: what tracing adds to a request, from pairs and from counts, and the detail that a limit leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from vlmtrace.analysis.measured import measure
from vlmtrace.analysis.stats import median
from vlmtrace.errors import LimitExceededError
from vlmtrace.timeline.recording import DETAILS, Lowered, OverheadPair, Recording

__all__ = [
    "CONFIDENCE",
    "PPM",
    "RESOLUTION",
    "CountedCost",
    "Overhead",
    "added",
    "detail_within",
    "highest_cost",
    "pairs_to_reach",
]

CONFIDENCE: Final = 0.95
"""How often an interval made this way holds the true median."""

RESOLUTION: Final = 0.01
"""An interval that holds 0 and reaches further than this to both sides does not tell what tracing adds."""

PPM: Final = 1_000_000

_RESAMPLES: Final = 1_999
_SEED: Final = 0


def pairs_to_reach(wanted: float, pairs: int, half_width: float) -> int:
    """How many pairs would narrow a median's interval to ± ``wanted``, where ``pairs`` gave it ``half_width``.

    The standard error of a median of n samples is 1 / (2 f √n), with f their density at it: from n₀ pairs with the half
    width w₀, a half width of w needs about n₀ × (w₀ / w)². Both widths are in one unit, whichever it is.
    """
    return max(pairs, math.ceil(pairs * (half_width / wanted) ** 2))


@dataclass(frozen=True, slots=True)
class Overhead:
    """What tracing added over ``pairs`` pairs, as shares of the untraced time: the median and its interval."""

    median: float
    low: float
    high: float
    pairs: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    @property
    def resolved(self) -> bool:
        """Whether the interval tells something: it leaves out 0, or is narrow."""
        return not self.low <= 0 <= self.high or self.half_width <= RESOLUTION

    @property
    def pairs_to_resolve(self) -> int:
        """How many pairs would narrow the interval to ± :data:`RESOLUTION`."""
        return pairs_to_reach(RESOLUTION, self.pairs, self.half_width)


@dataclass(frozen=True, slots=True)
class CountedCost:
    """The host time that one generation's marks and ranges took, and the host's wall time of it, in ns."""

    counted_ns: int
    generate_ns: int


def added(pairs: Sequence[OverheadPair]) -> Overhead | None:
    """What tracing added: the median of (traced − untraced) / untraced over ``pairs``; ``None`` without any.

    The interval is the bootstrap's percentile interval (Efron and Tibshirani, *An Introduction to the Bootstrap*,
    1993, chapter 13): the pairs are drawn anew with replacement, as many as there are, B times, and of the B medians
    in order the (B + 1) × α-th and the (B + 1) × (1 − α)-th bound it, α = 2.5 %. The draws are seeded: a recording has
    one interval.
    """
    shares = [(pair.traced_ns - pair.untraced_ns) / pair.untraced_ns for pair in pairs]
    middle = median(shares)
    if middle is None:
        return None
    draw = Random(_SEED)
    drawn = (median(draw.choices(shares, k=len(shares))) for _ in range(_RESAMPLES))
    medians = sorted(one for one in drawn if one is not None)
    outside = round((_RESAMPLES + 1) * (1 - CONFIDENCE) / 2)
    return Overhead(middle, medians[outside - 1], medians[-outside], len(shares))


def highest_cost(recording: Recording) -> CountedCost | None:
    """The complete generation with the largest share of tracing in it; ``None`` where the recording has no such.

    The largest, since a generation that compiles or loads something is long, and hides what the others will cost.
    """
    costs = [
        CountedCost(recording.cost.host_ns[one.generation.index], one.account.host_wall)
        for one in measure(recording)
        if one.complete and one.account.host_wall > 0 and recording.cost.host_ns
    ]
    return max(costs, key=lambda cost: cost.counted_ns / cost.generate_ns, default=None)


def detail_within(limit_ppm: int, asked: str, record: Callable[[str], Recording]) -> tuple[str, Lowered | None]:
    """The finest detail, up to the one asked for, whose counted cost keeps the limit; and why it was lowered, if so.

    ``record`` makes a recording at a detail, to be judged by its :func:`highest_cost`.

    Raises:
        LimitExceededError: the coarsest detail costs more, too.
    """
    above: list[CountedCost] = []
    for detail in reversed(DETAILS[: DETAILS.index(asked) + 1]):
        cost = highest_cost(record(detail))
        if cost is None or cost.counted_ns * PPM <= limit_ppm * cost.generate_ns:
            return detail, Lowered(asked, above[0].counted_ns, above[0].generate_ns, limit_ppm) if above else None
        above.append(cost)
    least = above[-1]
    raise LimitExceededError(
        f"tracing would cost {100 * least.counted_ns / least.generate_ns:.3g} % of generate at the least detail "
        f"({DETAILS[0]}), above the limit of {100 * limit_ppm / PPM:g} %",
        "allow more, or make the model's work longer: a larger model, batch or image",
    )

"""Statistics: percentiles, medians and ratios, exact where the samples are integers."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["median", "percentile", "ratio"]


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The ``percent``-th percentile of ``values`` (any order), or ``None`` where there are none.

    Linear interpolation between closest ranks: the value at position ``(n - 1) × percent / 100`` of the sorted
    samples (Hyndman and Fan's definition 7, the default of numpy and R). Of integers it is worked out in integers and
    divided once, so that an answer which is a whole number comes back as exactly that ``int``.

    Raises:
        ValueError: if ``percent`` is not within 0…100.
    """
    if not 0 <= percent <= 100:
        raise ValueError(f"percent is {percent}, must lie in 0…100")
    if not values:
        return None
    ordered = sorted(values)
    low, hundredths = divmod((len(ordered) - 1) * percent, 100)
    if not hundredths:
        return ordered[low]
    between = _quotient(ordered[low] * (100 - hundredths) + ordered[low + 1] * hundredths, 100)
    # Rounding may put a quotient of floats outside of the two that it lies between.
    return min(max(between, ordered[low]), ordered[low + 1])


def median(values: Sequence[float]) -> float | None:
    """The 50th percentile: the middle sample, or the mean of the two in the middle."""
    return percentile(values, 50)


def ratio(part: float, whole: float) -> float | None:
    """``part / whole``, or ``None`` where ``whole`` is nothing."""
    return part / whole if whole else None


def _quotient(dividend: float, divisor: int) -> float:
    whole, rest = divmod(dividend, divisor)
    return dividend / divisor if rest else whole

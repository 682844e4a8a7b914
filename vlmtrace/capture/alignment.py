"""Alignment: a device's clock laid onto the host's, with the bound of what is not known.

A mark's host time is read before its event is recorded, so the device reached it later: ``axis ≥ host``. When a wait
on an event has returned, the device was past it: ``axis ≤ host after the wait``. With ``axis = device + offset`` each
is a bound on the offset; an anchor (host time, record, wait, host time) gives both at once. The two oscillators drift
apart (some 20 ppm), so the rate is fitted over all anchors of a recording first, and each generation then gets its own
offset from its own marks and the anchors around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from vlmtrace.timeline.recording import Anchor

__all__ = ["MAX_DRIFT_PPB", "AffineMap", "Constraints", "Rate", "fit_offset", "fit_rate"]

MAX_DRIFT_PPB: Final = 100_000
"""No host and device clock that anybody has measured drift faster than 100 ppm; a fit outside of it is not believed."""

_PPB: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Rate:
    """The device clock's drift against the host's in parts per 10⁹, how well it is known, and the anchors' misfit."""

    ppb: int
    uncertainty_ppb: int
    residual_ns: int


@dataclass(frozen=True, slots=True)
class Constraints:
    """What bounds one generation's offset.

    ``marks`` are (host time before the record, device time), ``waits`` (host time after the wait, device time of the
    event waited for), ``chain_ns`` the error that chained elapsed times may have gathered over the generation.
    """

    marks: Iterable[tuple[int, int]]
    waits: Iterable[tuple[int, int]]
    anchors: Sequence[Anchor]
    chain_ns: int = 0


@dataclass(frozen=True, slots=True)
class AffineMap:
    """Device ns to the axis: ``device + offset + rate × (device − pivot)``, in integers and never decreasing."""

    offset_ns: int
    pivot_ns: int
    rate_ppb: int
    bound_ns: int
    widened_ns: int

    def __call__(self, device_ns: int) -> int:
        return device_ns + self.offset_ns + (device_ns - self.pivot_ns) * self.rate_ppb // _PPB


def fit_rate(anchors: Sequence[Anchor]) -> Rate:
    """The drift over all ``anchors``: least squares on their middles, each weighted by the inverse square of its width.

    Where the anchors cannot tell 100 ppm from none (too close to each other), the rate is 0 and its uncertainty
    :data:`MAX_DRIFT_PPB`.
    """
    if len(anchors) < 2:
        return Rate(0, MAX_DRIFT_PPB, 0)
    device0 = anchors[0].device
    offset0 = anchors[0].host_before - device0
    points = []
    for anchor in anchors:
        width = max(1, anchor.host_after - anchor.host_before)
        middle = (anchor.host_before + anchor.host_after) / 2 - anchor.device - offset0
        points.append((anchor.device - device0, middle, width))
    weights = [1.0 / (width * width) for _, _, width in points]
    total = sum(weights)
    mean_x = sum(w * x for w, (x, _, _) in zip(weights, points, strict=True)) / total
    mean_y = sum(w * y for w, (_, y, _) in zip(weights, points, strict=True)) / total
    spread = sum(w * (x - mean_x) ** 2 for w, (x, _, _) in zip(weights, points, strict=True))
    if spread <= 0:
        return Rate(0, MAX_DRIFT_PPB, 0)
    # The slope's worst case if every anchor's truth may lie anywhere within half its width.
    uncertainty = (
        sum(w * abs(x - mean_x) * width / 2 for w, (x, _, width) in zip(weights, points, strict=True)) / spread
    )
    slope = sum(w * (x - mean_x) * (y - mean_y) for w, (x, y, _) in zip(weights, points, strict=True)) / spread
    if uncertainty * _PPB > MAX_DRIFT_PPB or abs(slope) * _PPB > MAX_DRIFT_PPB:
        slope, uncertainty = 0.0, MAX_DRIFT_PPB / _PPB
    misfit = max(abs(y - mean_y - slope * (x - mean_x)) - width / 2 for x, y, width in points)
    return Rate(round(slope * _PPB), round(uncertainty * _PPB), max(0, round(misfit)))


def fit_offset(rate: Rate, pivot_ns: int, constraints: Constraints) -> AffineMap:
    """The offset's interval under ``rate``, and its middle.

    The bound is half the interval's width, plus the rate's misfit and the chaining error. Constraints that
    contradict each other leave an empty interval: it is widened until it holds them all, and ``widened_ns`` says by
    how much.

    Raises:
        ValueError: if nothing bounds the offset from below or from above.
    """

    def straight(device_ns: int) -> int:
        return device_ns + (device_ns - pivot_ns) * rate.ppb // _PPB

    lower = [host - straight(device) for host, device in constraints.marks]
    lower += [anchor.host_before - straight(anchor.device) for anchor in constraints.anchors]
    upper = [host - straight(device) for host, device in constraints.waits]
    upper += [anchor.host_after - straight(anchor.device) for anchor in constraints.anchors]
    if not lower or not upper:
        raise ValueError("an offset needs a bound from below and one from above")
    low, high = max(lower), min(upper)
    widened = max(0, low - high)
    if widened:
        low, high = high, low
    offset = (low + high) // 2
    bound = (high - low + 1) // 2 + rate.residual_ns + constraints.chain_ns
    return AffineMap(offset, pivot_ns, rate.ppb, bound, widened)

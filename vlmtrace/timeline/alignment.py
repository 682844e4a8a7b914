"""Alignment: a device's clock laid onto the host's, with the bound of what is not known.

A mark's host time is read before its event is recorded, so the device reached it later: ``axis ≥ host``. When a wait
on an event has returned, the device was past it: ``axis ≤ host after the wait``. With ``axis = device + offset`` each
is a bound on the offset; an anchor (host time, record, wait, host time) gives both at once. The two oscillators drift
apart (some 20 ppm), so the rate is fitted over all anchors of a recording first, and each generation then gets its own
offset from its own marks and the anchors around it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from vlmtrace.timeline.recording import Anchor

__all__ = ["MAX_DRIFT_PPB", "AffineMap", "Constraints", "Rate", "fit_offset", "fit_rate", "tightest_marks"]

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

    ``marks`` are (host time before the record, device time) of the generation's marks, or the tightest of them and
    its first and last; ``waits`` (host time after the wait, device time of the
    event waited for), ``chain_ns`` the error that chained elapsed times may have gathered over the generation.
    """

    marks: Sequence[tuple[int, int]]
    waits: Sequence[tuple[int, int]]
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

    def all(self, devices_ns: Iterable[int]) -> Iterator[int]:
        """The same of many, in less time than as many calls take."""
        offset, pivot, rate = self.offset_ns, self.pivot_ns, self.rate_ppb
        return (at + offset + (at - pivot) * rate // _PPB for at in devices_ns)


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
    """The offset's interval under ``rate``, its middle, and how far a position may be from the truth.

    The true offset and rate are some point that meets every constraint, with a rate no further from the fitted one
    than that is uncertain. How far such a point can put the first or the last mark from where this map puts it is a
    linear programme in two unknowns; its optimum lies where two constraints meet. To that the bound adds the anchors'
    misfit and the chaining error. Constraints that contradict each other at every believable rate leave nothing: the
    interval is then widened until it holds them all, and ``widened_ns`` says by how much.

    Raises:
        ValueError: if nothing bounds the offset from below or from above.
    """
    lower = [*constraints.marks, *((anchor.host_before, anchor.device) for anchor in constraints.anchors)]
    upper = [*constraints.waits, *((anchor.host_after, anchor.device) for anchor in constraints.anchors)]
    if not lower or not upper:
        raise ValueError("an offset needs a bound from below and one from above")

    def offset_at(point: tuple[int, int]) -> int:
        host, device = point
        return host - device - (device - pivot_ns) * rate.ppb // _PPB

    low, high = max(map(offset_at, lower)), min(map(offset_at, upper))
    # Under the fitted rate alone the interval may be empty where another believable rate leaves one. Then causes still
    # come before effects: no mark is put before the host time at which it was recorded.
    offset = max(low, (low + high) // 2)
    inside = [device for _, device in (*constraints.marks, *constraints.waits)] or [pivot_ns]
    # Relative to the fitted map a constraint is a line: misplacement at its device time, by rate error.
    lines = [
        _Line((device - pivot_ns) / _PPB, offset_at((host, device)) - offset, below)
        for below, points in ((True, lower), (False, upper))
        for host, device in points
    ]
    reach = _reach(lines, rate.uncertainty_ppb, [(at - pivot_ns) / _PPB for at in (min(inside), max(inside))])
    if reach is None:
        offset, half, widened = (low + high) // 2, (abs(high - low) + 1) // 2, max(0, low - high)
    else:
        half, widened = max(math.ceil(reach), (high - low + 1) // 2), 0
    return AffineMap(offset, pivot_ns, rate.ppb, half + rate.residual_ns + constraints.chain_ns, widened)


@dataclass(frozen=True, slots=True)
class _Line:
    """One constraint on (misplaced offset ``o`` in ns, rate error ``e`` in ppb): ``o + at × e`` ≥ ``limit`` (``below``)
    or ≤ ``limit``; ``at`` is its distance from the pivot in seconds."""

    at: float
    limit: float
    below: bool

    def holds(self, offset: float, error: float, slack: float = 1e-3) -> bool:
        value = offset + self.at * error
        return value >= self.limit - slack if self.below else value <= self.limit + slack


def _reach(lines: Sequence[_Line], uncertainty: float, ends: Sequence[float]) -> float | None:
    """The largest misplacement, at one of ``ends`` (seconds from the pivot), that the constraints leave possible.

    ``None`` where they leave nothing.
    """
    lines = _tightest(lines, uncertainty)
    edges = (-uncertainty, uncertainty)
    corners = [(line.limit - line.at * error, error) for line in lines for error in edges]
    for i, one in enumerate(lines):
        for other in lines[i + 1 :]:
            if one.at != other.at:
                error = (one.limit - other.limit) / (one.at - other.at)
                if abs(error) <= uncertainty:
                    corners.append((one.limit - one.at * error, error))
    return max(
        (
            abs(offset + at * error)
            for offset, error in corners
            if all(line.holds(offset, error) for line in lines)
            for at in ends
        ),
        default=None,
    )


def _tightest(lines: Sequence[_Line], uncertainty: float) -> list[_Line]:
    """The constraints that bind at one of a few rates: leaving others out can only make the bound wider."""
    found: dict[_Line, None] = {}
    for part in (-1.0, -0.5, 0.0, 0.5, 1.0):
        error = part * uncertainty
        for below, choose in ((True, max), (False, min)):
            side = [line for line in lines if line.below is below]
            found[choose(side, key=lambda line: line.limit - line.at * error)] = None
    return list(found)


def tightest_marks(host: Sequence[int], device: Sequence[int], chunks: int = 64) -> list[tuple[int, int]]:
    """Of many marks in time order, in each of ``chunks`` runs the one that bounds the offset most from below."""
    size = max(1, -(-len(host) // chunks))
    made = []
    for begin in range(0, len(host), size):
        run = range(begin, min(begin + size, len(host)))
        best = max(run, key=lambda i: host[i] - device[i])
        made.append((host[best], device[best]))
    return made

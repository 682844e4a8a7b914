"""Clocks: how each device's clock was laid on the host's, and how far that can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlmtrace.analysis.measured import Measured
from vlmtrace.analysis.rows import Range
from vlmtrace.analysis.stats import median
from vlmtrace.timeline.recording import Anchor, Clock, Recording

__all__ = ["ClockFit", "GenerationClock", "clock_fits"]


@dataclass(frozen=True, slots=True)
class GenerationClock:
    """One generation's place on the axis, in ns.

    The offset lies within ± ``clock.bound_ns`` of the one used. ``wall_minus_device`` is the host's wall time of the
    call minus its length on the device's clock; ``None`` where the call did not end as it should.
    """

    generation: int
    role: str
    clock: Clock
    wall_minus_device: int | None


@dataclass(frozen=True, slots=True)
class ClockFit:
    """One device's clock over a recording; ``rate_ppb`` in parts per 10⁹, all else in ns.

    ``rate_ppb`` is the least and the most of the fitted drifts (one fit per thread that worked with the device); a
    drift of 0 says that the anchors lay too close together to tell one. ``widened`` counts the generations whose
    offset's interval was empty. ``anchors`` counts each anchor once, though generations share them; their width is the
    time between the two host readings around the device's.
    """

    device: int
    rate_ppb: Range
    bound_p50: float
    bound_max: int
    residual_max: int
    chain_max: int
    widened: int
    anchors: int
    width_p50: float | None
    width_max: int | None
    generations: tuple[GenerationClock, ...]

    @property
    def drift_known(self) -> bool:
        """Whether the anchors could tell a drift."""
        return self.rate_ppb != (0, 0)


def clock_fits(recording: Recording, measured: Sequence[Measured]) -> tuple[ClockFit, ...]:
    """The clock of each device that timed a generation, by device; every generation counts, whatever its role."""
    by_device: dict[int, list[GenerationClock]] = {}
    for one in measured:
        at = one.generation.clock
        if at is not None:
            clock = recording.clocks[at]
            apart = one.account.host_minus_device if one.complete else None
            placed = GenerationClock(one.generation.index, one.generation.role, clock, apart)
            by_device.setdefault(clock.device, []).append(placed)
    return tuple(_fit(device, by_device[device]) for device in sorted(by_device))


def _fit(device: int, generations: Sequence[GenerationClock]) -> ClockFit:
    clocks = [one.clock for one in generations]
    rates = [clock.rate_ppb for clock in clocks]
    bounds = [clock.bound_ns for clock in clocks]
    anchors: set[Anchor] = {anchor for clock in clocks for anchor in clock.anchors}
    widths = [anchor.host_after - anchor.host_before for anchor in anchors]
    return ClockFit(
        device=device,
        rate_ppb=(min(rates), max(rates)),
        bound_p50=median(bounds) or 0,
        bound_max=max(bounds),
        residual_max=max(clock.residual_ns for clock in clocks),
        chain_max=max(clock.chain_ns for clock in clocks),
        widened=sum(clock.widened_ns > 0 for clock in clocks),
        anchors=len(anchors),
        width_p50=median(widths),
        width_max=max(widths, default=None),
        generations=tuple(generations),
    )

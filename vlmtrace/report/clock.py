"""The clock: how each GPU's clock was laid on the host's, generation by generation, as text and as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from vlmtrace.analysis.clocks import ClockFit, GenerationClock
from vlmtrace.analysis.rows import Range
from vlmtrace.analysis.summary import Summary
from vlmtrace.report.cells import ABSENT
from vlmtrace.report.definitions import CLOCK
from vlmtrace.report.sections import Section
from vlmtrace.timeline.recording import COLD, PROFILED, WARMED, Json
from vlmtrace.units import duration_text

__all__ = ["HOST_CLOCK", "SHOWN", "clock_document", "clock_sections"]

SHOWN: Final = 24
"""How many generations are shown; of more, those with the widest bounds. The JSON has all of them."""

HOST_CLOCK: Final = (
    "every time here is of the host's own clock: there was no second clock to lay on it, so no drift and no bound"
)

_ASIDES: Final = {WARMED: " warm-up", COLD: " cold", PROFILED: " profiled"}
_HEADINGS: Final = ("generation", "clock ±", "wall − device", "chaining", "widened by")


def clock_sections(summary: Summary) -> list[Section]:
    """One section for each GPU; on the host's clock one sentence."""
    if not summary.on_device:
        return [Section("clock", lines=((HOST_CLOCK,),))]
    if not summary.clocks:
        return [Section("clock", lines=(("no generation was timed by a GPU's clock",),))]
    return [_section(fit) for fit in summary.clocks]


def _section(fit: ClockFit) -> Section:
    shown = sorted(fit.generations, key=lambda one: (-one.clock.bound_ns, one.generation))[:SHOWN]
    notes = [("wall − device: the host's wall time of the call minus its length on the GPU's clock",)]
    if len(shown) < len(fit.generations):
        notes.append((f"{len(shown)} of {len(fit.generations):,} generations, those with the widest bounds",))
    anchors: tuple[str, ...] = (f"{fit.anchors:,} anchor{'' if fit.anchors == 1 else 's'}",)
    if fit.width_p50 is not None and fit.width_max is not None:
        anchors += (f"width {_p50_max(fit.width_p50, fit.width_max)}",)
    return Section(
        title=f"clock of GPU {fit.device}, laid on the host's",
        lines=(
            (_drift(fit.rate_ppb) if fit.drift_known else "drift not told: the anchors lie too close together",),
            (
                f"bound {_p50_max(fit.bound_p50, fit.bound_max)}",
                f"fit residual {duration_text(fit.residual_max)}",
                f"chaining error {duration_text(fit.chain_max)}",
                f"widened {fit.widened:,} of {len(fit.generations):,}",
            ),
            anchors,
        ),
        headings=_HEADINGS,
        rows=tuple(_row(one) for one in sorted(shown, key=lambda one: one.generation)),
        notes=tuple(notes),
    )


def _row(one: GenerationClock) -> tuple[str, ...]:
    apart = one.wall_minus_device
    return (
        f"#{one.generation}{_ASIDES.get(one.role, '')}",
        duration_text(one.clock.bound_ns),
        ABSENT if apart is None else _signed(apart),
        duration_text(one.clock.chain_ns),
        duration_text(one.clock.widened_ns),
    )


def _signed(ns: int) -> str:
    sign = "−" if ns < 0 else "+" if ns > 0 else ""
    return f"{sign}{duration_text(abs(ns))}"


def _p50_max(p50: float, most: float) -> str:
    return f"p50 {duration_text(p50)}, max {duration_text(most)}"


def _drift(rates: Range) -> str:
    least, most = (f"{ppb / 1_000:.2f}".replace("-", "−") for ppb in rates)
    return f"drift {least} ppm" if least == most else f"drift {least} to {most} ppm"


def clock_document(summary: Summary) -> dict[str, Json]:
    """Every generation's clock as JSON values, in ns, with definitions; no devices on the host's clock."""
    return {
        "kind": "device" if summary.on_device else "host",
        "note": None if summary.on_device else HOST_CLOCK,
        "devices": [_device(fit) for fit in summary.clocks],
        "definitions": dict(CLOCK),
    }


def _device(fit: ClockFit) -> dict[str, Json]:
    return {
        "device": fit.device,
        "drift_ppb": {"min": fit.rate_ppb[0], "max": fit.rate_ppb[1]} if fit.drift_known else None,
        "bound_ns": {"p50": fit.bound_p50, "max": fit.bound_max},
        "residual_ns": fit.residual_max,
        "chain_ns": fit.chain_max,
        "widened_generations": fit.widened,
        "anchors": fit.anchors,
        "anchor_width_ns": None if fit.width_max is None else {"p50": fit.width_p50, "max": fit.width_max},
        "generations": _generations(fit.generations),
    }


def _generations(generations: Sequence[GenerationClock]) -> list[Json]:
    return [
        {
            "index": one.generation,
            "role": one.role,
            "bound_ns": one.clock.bound_ns,
            "drift_ppb": one.clock.rate_ppb,
            "offset_ns": one.clock.offset_ns,
            "residual_ns": one.clock.residual_ns,
            "chain_ns": one.clock.chain_ns,
            "widened_ns": one.clock.widened_ns,
            "wall_minus_device_ns": one.wall_minus_device,
        }
        for one in generations
    ]

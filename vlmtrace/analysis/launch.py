"""Launch verdicts: does the host keep the GPU fed, or does the GPU wait for the host?

The evidence is the lead at a stage's end: how long before the device ended it the host had finished launching it. A
lead that is a large part of the stage means that work was queued up (GPU-bound); none means that the device
ended each piece as soon as it was launched (host-bound).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from vlmtrace.analysis.stages import StageSpans
from vlmtrace.timeline import names
from vlmtrace.timeline.spans import Span

__all__ = ["GPU_FROM", "HOST_TO", "UNKNOWN_FROM", "Judgement", "Lead", "Verdict", "judge", "leads", "verdict_of"]

GPU_FROM: Final = 0.5
"""GPU-bound from this lead on, as a part of the duration."""
HOST_TO: Final = 0.05
"""Host-bound up to this lead, as a part of the duration, or up to the clock's bound where that is larger."""
UNKNOWN_FROM: Final = 0.25
"""No verdict where the clock's bound is a larger part of the duration than this."""

_VISION_PARTS: Final = frozenset((names.VISION, names.ENCODER, names.PROJECTOR))
_PREFILL_PARTS: Final = frozenset((names.PREFILL, names.MERGE))


class Verdict(StrEnum):
    """Who waits for whom."""

    GPU = "GPU-bound"
    MIXED = "mixed"
    HOST = "host-bound"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Lead:
    """One part judged: its lead at the end, its duration and its clock's bound, all in ns.

    ``synced``: a device synchronisation is known to lie in it, which empties the queue and with it the evidence.
    """

    lead: int
    duration: int
    bound: int
    synced: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with its evidence: Σ lead / Σ duration and Σ bound / Σ duration over ``parts`` parts.

    ``host_bound_parts`` counts those that are host-bound when judged alone.
    """

    verdict: Verdict
    lead_share: float
    bound_share: float
    parts: int
    host_bound_parts: int


def judge(parts: Sequence[Lead]) -> Judgement | None:
    """The verdict over ``parts`` taken together, or ``None`` where there is nothing to judge."""
    total = _sum(parts)
    if total.duration <= 0:
        return None
    return Judgement(
        verdict=verdict_of(total),
        lead_share=total.lead / total.duration,
        bound_share=total.bound / total.duration,
        parts=len(parts),
        host_bound_parts=sum(verdict_of(part) is Verdict.HOST for part in parts),
    )


def leads(stages: StageSpans, bound: int, synced: Collection[str] = ()) -> dict[str, tuple[Lead, ...]]:
    """What is judged in one generation: its vision spans, its prefills, and for decode each of its steps.

    ``bound`` is the generation's clock bound in ns, ``synced`` the stages known to hold a synchronisation. A vision is
    judged up to its encoder's exit where that was marked (some models wait for the device behind it, still inside the
    stage; a wait in front of it only sets where the lead starts from); a prefill against its own time.
    """
    inside = sum(span.duration for span in stages.vision_in_prefill)
    in_prefill, in_step = not _PREFILL_PARTS.isdisjoint(synced), names.STEP in synced
    prefill = [Lead(span.lead_end, span.duration, bound, in_prefill) for span in stages.prefill]
    if prefill and inside:
        whole = _sum(prefill)
        prefill = [Lead(whole.lead, whole.duration - inside, whole.bound, whole.synced)]
    return {
        names.VISION: tuple(_vision_lead(span, bound, synced) for span in stages.vision),
        names.PREFILL: tuple(prefill),
        names.DECODE: tuple(Lead(span.lead_end, span.duration, bound, in_step) for span in stages.steps),
    }


def _vision_lead(span: Span, bound: int, synced: Collection[str]) -> Lead:
    duration, lead = (span.spans.arg(span.row, key) for key in ("encoder_ns", "encoder_lead_ns"))
    if isinstance(duration, int) and isinstance(lead, int):
        return Lead(lead, duration, bound, names.ENCODER in synced)
    return Lead(span.lead_end, span.duration, bound, not _VISION_PARTS.isdisjoint(synced))


def verdict_of(part: Lead) -> Verdict:
    """The verdict over one part alone."""
    if part.synced or part.duration <= 0 or part.bound > UNKNOWN_FROM * part.duration:
        return Verdict.UNKNOWN
    if part.lead >= GPU_FROM * part.duration:
        return Verdict.GPU
    if part.lead <= max(HOST_TO * part.duration, part.bound):
        return Verdict.HOST
    return Verdict.MIXED


def _sum(parts: Sequence[Lead]) -> Lead:
    return Lead(
        lead=sum(part.lead for part in parts),
        duration=sum(part.duration for part in parts),
        bound=sum(part.bound for part in parts),
        synced=any(part.synced for part in parts),
    )

"""Stretches: where, for how long on end, the device kept waiting for the host, as far as marks can tell.

What marks prove. The device reaches a mark when all that was launched before it is done. Where it does so at once
(the lead is nothing, within a tolerance), it had caught up with the host and had nothing left to do but what the host
would launch next. That alone does not yet say who waited: after a wait of the host for the device the lead is nothing
as well, and in ``generate()`` every step begins so. But where a part also ends so, without a wait known inside, the
device was given no work in it that it could fall behind with: it kept up with the launching, which set the pace.

What they do not prove is how long the device stood idle in between: a kernel may run right up to the mark. The length
of a stretch is the most that it can have waited there, and marks give no least; for that it takes kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Final

from vlmtrace.analysis.launch import HOST_TO, Lead, Verdict, verdict_of
from vlmtrace.analysis.measured import Measured
from vlmtrace.analysis.rows import Range
from vlmtrace.analysis.stats import ratio
from vlmtrace.timeline import names
from vlmtrace.timeline.spans import Span

__all__ = ["LONGEST", "HostBound", "Stretch", "host_bound"]

LONGEST: Final = 20
"""How many stretches a summary keeps."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive judged parts (vision, prefill, steps) of a generation, each host-bound at its begin and at its end.

    ``begin`` and ``end`` are ns on the axis, from the first part's begin to the last one's end: what lies between two
    of them (gaps, the first token) is in it. ``offset`` is its begin in ns from that of ``generate``. ``stages`` names
    them in order, each once; ``steps`` are the first and the last step's number, ``None`` where there is no step among
    them. ``share`` is its part of the generation.
    """

    generation: int
    begin: int
    end: int
    offset: int
    stages: tuple[str, ...]
    steps: Range | None
    share: float

    @property
    def duration(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class HostBound:
    """The host-bound stretches of the counted generations: their number, their sum in ns, its share of Σ generate, and
    the :data:`LONGEST` of them, longest first."""

    count: int
    total: int
    share: float | None
    longest: tuple[Stretch, ...]


def host_bound(chosen: Sequence[Measured]) -> HostBound | None:
    """The host-bound stretches of these generations, or ``None`` where no device timed any of them."""
    timed = [one for one in chosen if one.clock_bound is not None]
    if not timed:
        return None
    found = [stretch for one in timed for stretch in _stretches(one)]
    total = sum(stretch.duration for stretch in found)
    found.sort(key=lambda stretch: (-stretch.duration, stretch.begin))
    return HostBound(
        count=len(found),
        total=total,
        share=ratio(total, sum(one.account.generate for one in timed)),
        longest=tuple(found[:LONGEST]),
    )


def _stretches(one: Measured) -> Iterator[Stretch]:
    run: list[Span] = []
    for span, caught_up in _parts(one):
        if caught_up:
            run.append(span)
        elif run:
            yield _stretch(one, run)
            run = []
    if run:
        yield _stretch(one, run)


def _stretch(one: Measured, run: Sequence[Span]) -> Stretch:
    steps = [span.number for span in run if span.name == names.STEP and span.number is not None]
    begin, end = run[0].begin, run[-1].end
    return Stretch(
        generation=one.generation.index,
        begin=begin,
        end=end,
        offset=begin - one.stages.generate.begin,
        stages=tuple(dict.fromkeys(span.name for span in run)),
        steps=(steps[0], steps[-1]) if steps else None,
        share=ratio(end - begin, one.account.generate) or 0.0,
    )


def _parts(one: Measured) -> list[tuple[Span, bool]]:
    """The judged parts in time order, and whether the device had caught up at both ends of each.

    A prefill with a vision inside is one part: its own time is judged, and the vision must have caught up as well.
    """
    stages, leads = one.stages, one.leads
    visions = [(span, _caught_up(span, lead)) for span, lead in zip(stages.vision, leads[names.VISION], strict=True)]
    inside = {span.row for span in stages.vision_in_prefill}
    parts = [(span, held) for span, held in visions if span.row not in inside]
    held = all(held for span, held in visions if span.row in inside)
    # Prefills with visions inside are judged together, and so stand or fall together.
    judged = cycle(leads[names.PREFILL])
    parts += [(span, held and _caught_up(span, lead)) for span, lead in zip(stages.prefill, judged, strict=False)]
    parts += [(span, _caught_up(span, lead)) for span, lead in zip(stages.steps, leads[names.DECODE], strict=True)]
    return sorted(parts, key=lambda part: part[0].row)


def _caught_up(span: Span, lead: Lead) -> bool:
    """Whether the verdict over the part alone is host-bound, and its begin within the same tolerance."""
    tolerance = max(HOST_TO * lead.duration, lead.bound)
    return verdict_of(lead) is Verdict.HOST and span.lead_begin <= tolerance

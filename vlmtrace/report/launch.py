"""The launch: the evidence of each verdict and the host-bound stretches, as text and as JSON values."""

from __future__ import annotations

from typing import Final

from vlmtrace.analysis.launch import GPU_FROM, HOST_TO, UNKNOWN_FROM
from vlmtrace.analysis.rows import StageRow
from vlmtrace.analysis.stretches import HostBound, Stretch
from vlmtrace.analysis.summary import Summary
from vlmtrace.report.cells import fixed, percent, range_text
from vlmtrace.report.definitions import STRETCHES
from vlmtrace.report.sections import Section
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Json
from vlmtrace.units import NS_PER_MS

__all__ = ["NO_VERDICT", "SHOWN", "launch_sections", "stretch_document"]

SHOWN: Final = 8
"""How many stretches are shown; the JSON has more of them."""

NO_VERDICT: Final = "no verdict: it takes a GPU's clock to tell who waits for whom, and these times are the host's"

_EVIDENCE: Final = ("stage", "verdict", "lead ÷ duration", "± ÷ duration", "host-bound")
_WHERE: Final = ("generation", "where", "ms", "of generate")
_NOT_IDLE: Final = (
    f"at both ends of every part of a stretch the GPU had caught up with the host, within {HOST_TO * 100:.0f} % of the "
    "part or the clock's bound: its length is the most that the GPU can have waited there; how long it did, only "
    "kernels tell"
)


def launch_sections(summary: Summary) -> list[Section]:
    """The evidence of each verdict, and the longest host-bound stretches; without a GPU's clock one sentence."""
    judged = [row for row in summary.rows if row.judgement is not None]
    if not judged or summary.host_bound is None:
        return [Section("launch", lines=((NO_VERDICT if not summary.on_device else "nothing to judge",),))]
    return [_verdicts(judged), _stretches(summary.host_bound)]


def _verdicts(judged: list[StageRow]) -> Section:
    rows = []
    for row in judged:
        found = row.judgement
        if found is not None:
            steps = " steps" if row.stage == names.DECODE else ""
            rows.append(
                (
                    row.stage,
                    found.verdict.value,
                    f"{found.lead_share:z.3f}".replace("-", "−"),
                    f"{found.bound_share:.4f}",
                    f"{found.host_bound_parts:,} of {found.parts:,}{steps}",
                )
            )
    return Section(
        title="launch verdicts",
        headings=_EVIDENCE,
        rows=tuple(rows),
        words=frozenset(("verdict",)),
        notes=(
            (
                "lead: how long before the GPU ended a part the host had finished launching it",
                "±: the clock's bound",
            ),
            (
                f"lead ÷ duration: GPU-bound from {GPU_FROM}",
                f"host-bound up to {HOST_TO}, or up to ± ÷ duration where that is more",
                f"unknown where ± ÷ duration is over {UNKNOWN_FROM}, or a synchronisation is known",
            ),
        ),
    )


def _stretches(found: HostBound) -> Section:
    shown = found.longest[:SHOWN]
    if not shown:
        return Section("host-bound stretches", lines=(("none",),))
    title = f"host-bound stretches: {found.count:,}, together {percent(found.share)} of generate"
    if found.count > len(shown):
        title += f"; the {len(shown)} longest"
    return Section(
        title=title,
        headings=_WHERE,
        rows=tuple(
            (f"#{one.generation}", _where(one), fixed(one.duration, NS_PER_MS, 2), percent(one.share)) for one in shown
        ),
        words=frozenset(("where",)),
        notes=((_NOT_IDLE,),),
    )


def _where(stretch: Stretch) -> str:
    """``vision``, ``prefill, steps 0–30``, ``step 7``."""
    parts = [stage for stage in stretch.stages if stage != names.STEP]
    if stretch.steps is not None:
        one = stretch.steps[0] == stretch.steps[1]
        parts.append(f"step{'' if one else 's'} {range_text(stretch.steps)}")
    return ", ".join(parts)


def stretch_document(summary: Summary) -> Json:
    """The host-bound stretches as JSON values, times in ms; ``None`` on the host's clock."""
    found = summary.host_bound
    if found is None:
        return None
    return {
        "count": found.count,
        "total_ms": found.total / NS_PER_MS,
        "share": found.share,
        "longest": [
            {
                "generation": one.generation,
                "begin_ms": one.offset / NS_PER_MS,
                "length_ms": one.duration / NS_PER_MS,
                "share": one.share,
                "stages": list(one.stages),
                "steps": None if one.steps is None else {"first": one.steps[0], "last": one.steps[1]},
            }
            for one in found.longest
        ],
        "definitions": dict(STRETCHES),
    }

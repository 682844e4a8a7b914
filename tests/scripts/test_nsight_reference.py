"""Comparing stages with kernels, on an export made up from a recording: what it must find is known."""

from __future__ import annotations

import csv
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vlmtrace
from tests.synthetic import MS, US, Shape, recording
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording

SCRIPT = Path(__file__).parents[2] / "scripts" / "nsight_reference.py"
THREAD = 0x1000000000001
NSIGHT_ZERO = 4_000_000_000_000
PUSH = 3 * US


def export(path: Path, made: Recording, late: int = 0) -> None:
    """A report in which each stage launched two kernels that fill its span but for 10 µs at either end.

    The call that records a mark starts 1 µs after the mark's host time, now and then 50 µs; a range lies within them.
    """
    with sqlite3.connect(path) as db:
        db.executescript("""
            CREATE TABLE StringIds(id INTEGER PRIMARY KEY, value TEXT);
            CREATE TABLE NVTX_EVENTS(
                start INT, end INT, eventType INT, text TEXT, textId INT, globalTid INT, domainId INT
            );
            CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME(
                start INT, end INT, globalTid INT, correlationId INT, nameId INT
            );
            CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL(start INT, end INT, correlationId INT);
            CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY(start INT, end INT, correlationId INT);
            CREATE TABLE CUPTI_ACTIVITY_KIND_MEMSET(start INT, end INT, correlationId INT);
            INSERT INTO NVTX_EVENTS VALUES (0, 0, 75, 'vlmtrace', NULL, 0, 7);
            INSERT INTO StringIds VALUES (-1, 'cudaEventRecord_v3020'), (-2, 'cudaLaunchKernel_v7000');
        """)
        correlation = 0
        for span in made.spans:
            if span.name not in (names.VISION, names.PREFILL, names.STEP, names.GENERATE):
                continue
            begin, end = span.host_begin - NSIGHT_ZERO + PUSH, span.host_end - NSIGHT_ZERO - US
            for at in (begin - PUSH + US, end + 2 * US + (49 * US if span.row % 5 == 0 else 0)):
                db.execute("INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?, ?, ?, NULL, -1)", (at, at + US, THREAD))
            db.execute("INSERT INTO StringIds VALUES (?, ?)", (span.row, span.name))
            db.execute("INSERT INTO NVTX_EVENTS VALUES (?, ?, 59, NULL, ?, ?, 7)", (begin, end, span.row, THREAD))
            if span.name == names.GENERATE:
                continue
            first, last = span.begin - NSIGHT_ZERO + 10 * US, span.end - NSIGHT_ZERO - 10 * US + late
            middle = (first + last) // 2
            for start, stop in ((first, middle), (middle, last)):
                correlation += 1
                launch = (begin + 5 * US, begin + 8 * US, THREAD, correlation)
                db.execute("INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?, ?, ?, ?, -2)", launch)
                db.execute("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?, ?, ?)", (start, stop, correlation))
        db.execute("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (1, 2, 999999)")


def run(*words: object) -> Any:
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(folder: Path, late: int = 0) -> tuple[Any, Any, list[dict[str, str]]]:
    made = recording(*(Shape(lead=100 * US),) * 3)
    vlmtrace.save(made, folder / "eager-1.pftrace")
    export(folder / "report.sqlite", made, late)
    counted = run("extract", folder / "report.sqlite", "--out", folder / "ranges.csv")
    told = run("compare", folder, "--out", folder / "spans.csv")
    return counted, told, list(csv.DictReader((folder / "spans.csv").read_text().splitlines()))


def test_kernels_inside_their_spans_are_found_to_be(tmp_path: Path) -> None:
    counted, told, rows = compare(tmp_path)
    steps = told["recordings"]["eager-1"]["decode.step"]
    assert counted == {"kernels": 2 * 3 * (1 + 1 + 4) + 1, "outside of every stage": 1, "ranges": 3 * (1 + 1 + 1 + 4)}
    assert (steps["spans"], steps["device_operations"]) == (12, 24)
    assert (steps["work_within_span"], steps["end_slack_met"], steps["marks_in_place"]) == (1.0, 1.0, 1.0)
    assert steps["idle_share_p50"] == round(20 * US / (10 * MS), 3)
    assert len(rows) == 3 * (1 + 1 + 4)


def test_clocks_are_fitted_through_the_quickest_calls(tmp_path: Path) -> None:
    _, told, rows = compare(tmp_path)
    assert told["fit"]["residual_us"] == 0
    assert (told["fit"]["call_late_p50_us"], told["fit"]["call_late_p99_us"]) == (0, 49)
    assert {row["begin_slack_us"] for row in rows} == {"9.0"}  # the kernels start at 10 µs; the quickest call at 1 µs


@pytest.mark.parametrize(("late", "within"), [(10 * US, 1.0), (100 * US, 0.0)])
def test_a_kernel_that_ends_after_its_span_is_told(tmp_path: Path, late: int, within: float) -> None:
    _, told, _ = compare(tmp_path, late)
    assert told["recordings"]["eager-1"]["decode.step"]["work_within_span"] == within


def test_a_mark_that_the_stream_reached_after_later_work_began_is_told(tmp_path: Path) -> None:
    """The first step's kernels start 30 µs before its mark: no room for the mark between them and what lay before."""
    made = recording(*(Shape(lead=100 * US),) * 3)
    vlmtrace.save(made, tmp_path / "eager-1.pftrace")
    export(tmp_path / "report.sqlite", made)
    with sqlite3.connect(tmp_path / "report.sqlite") as db:
        first = min(span.begin for span in made.spans.named(names.STEP)) - NSIGHT_ZERO + 10 * US
        db.execute("UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET start = start - ? WHERE start = ?", (40 * US, first))
        assert db.total_changes == 1
    run("extract", tmp_path / "report.sqlite", "--out", tmp_path / "ranges.csv")
    steps = run("compare", tmp_path, "--out", tmp_path / "spans.csv")["recordings"]["eager-1"]["decode.step"]
    assert (steps["spans"], steps["marks_in_place"], steps["outside_us"]["max"]) == (12, 11 / 12, 31.0)

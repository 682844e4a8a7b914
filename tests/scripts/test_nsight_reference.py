"""Comparing stages with kernels, on an export made up from a recording: what it must find is known."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

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
    """A report in which each stage launched two kernels that fill its span but for 10 µs at either end."""
    with sqlite3.connect(path) as db:
        db.executescript("""
            CREATE TABLE StringIds(id INTEGER PRIMARY KEY, value TEXT);
            CREATE TABLE NVTX_EVENTS(
                start INT, end INT, eventType INT, text TEXT, textId INT, globalTid INT, domainId INT
            );
            CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME(start INT, end INT, globalTid INT, correlationId INT);
            CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL(start INT, end INT, correlationId INT);
            CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY(start INT, end INT, correlationId INT);
            CREATE TABLE CUPTI_ACTIVITY_KIND_MEMSET(start INT, end INT, correlationId INT);
            INSERT INTO NVTX_EVENTS VALUES (0, 0, 75, 'vlmtrace', NULL, 0, 7);
        """)
        correlation = 0
        for span in made.spans:
            if span.name not in (names.VISION, names.PREFILL, names.STEP, names.GENERATE):
                continue
            begin, end = span.host_begin - NSIGHT_ZERO + PUSH, span.host_end - NSIGHT_ZERO + PUSH
            db.execute("INSERT INTO StringIds VALUES (?, ?)", (span.row, span.name))
            db.execute("INSERT INTO NVTX_EVENTS VALUES (?, ?, 59, NULL, ?, ?, 7)", (begin, end, span.row, THREAD))
            if span.name == names.GENERATE:
                continue
            first, last = span.begin - NSIGHT_ZERO + 10 * US, span.end - NSIGHT_ZERO - 10 * US + late
            middle = (first + last) // 2
            for start, stop in ((first, middle), (middle, last)):
                correlation += 1
                launch = (begin + 5 * US, begin + 8 * US, THREAD, correlation)
                db.execute("INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?, ?, ?, ?)", launch)
                db.execute("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?, ?, ?)", (start, stop, correlation))
        db.execute("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (1, 2, 999999)")


def compare(folder: Path, late: int = 0) -> dict[str, object]:
    made = recording(*(Shape(lead=100 * US),) * 3)
    (folder / "traces").mkdir()
    vlmtrace.save(made, folder / "traces" / "eager-1.pftrace")
    export(folder / "report.sqlite", made, late)
    command = [sys.executable, str(SCRIPT), "compare", str(folder / "traces"), str(folder / "report.sqlite")]
    subprocess.run([*command, "--out", str(folder / "out.json")], check=True, capture_output=True)
    answer: dict[str, object] = json.loads((folder / "out.json").read_text())
    return answer


def test_kernels_inside_their_spans_are_found_to_be(tmp_path: Path) -> None:
    made = compare(tmp_path)
    steps = made["recordings"]["eager-1"]["decode.step"]  # type: ignore[index]
    assert (made["kernels"], made["unattributed"]) == (2 * 3 * (1 + 1 + 4) + 1, 1)
    assert (steps["spans"], steps["device_operations"]) == (12, 24)
    assert (steps["work_within_span"], steps["end_slack_met"]) == (1.0, 1.0)
    assert steps["idle_share_p50"] == round(20 * US / (10 * MS), 3)


@pytest.mark.parametrize(("late", "within"), [(10 * US, 1.0), (100 * US, 0.0)])
def test_a_kernel_that_ends_after_its_span_is_told(tmp_path: Path, late: int, within: float) -> None:
    made = compare(tmp_path, late)
    assert made["recordings"]["eager-1"]["decode.step"]["work_within_span"] == within  # type: ignore[index]

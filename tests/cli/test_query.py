"""``vlmtrace query``: SQL in, rows out, in three forms; what a trace has in it cannot act on a terminal."""

from __future__ import annotations

import csv
import io
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests import synthetic
from tests.synthetic import ORIGIN
from tests.viewer.installation import install_shell
from vlmtrace import api
from vlmtrace.timeline.recording import Track
from vlmtrace.timeline.spans import NewSpan, SpansBuilder

HOSTILE = "\x1b[31mred\x9b1m\u202etxt.[bold]x[/bold],\t'"
"""Escape sequences of both kinds, a bidirectional override, markup, and what separates values."""


@pytest.fixture
def trace(folder: Path) -> Path:
    return api.save(synthetic.recording(), "run.pftrace")


@pytest.fixture
def hostile(folder: Path) -> Path:
    """A trace whose argument (a title would be cleaned when it is written) holds all that."""
    builder = SpansBuilder()
    builder.add(NewSpan("mine", 0, (ORIGIN, ORIGIN + 5), args={"path": HOSTILE}))
    base = synthetic.recording(device=None)
    made = replace(base, generations=(), tracks=(Track("spans", None, 4711, "MainThread"),), spans=builder.freeze()[0])
    return api.save(made, "hostile.pftrace")


ARGUMENT = "SELECT extract_arg(arg_set_id, 'debug.path') AS path FROM slice WHERE name = 'mine'"


def test_a_table_is_aligned_and_numbers_are_on_the_right(type_in: Callable, trace: Path) -> None:
    typed = type_in("query", trace, "SELECT stage, ms, kv FROM vlm_stage WHERE stage IN ('vision', 'decode.step')")
    assert (typed.code, typed.err) == (0, "")
    assert typed.out.splitlines() == [
        "stage        ms   kv",
        "vision       30    –",
        "decode.step  10  101",
        "decode.step  10  102",
        "decode.step  10  103",
        "decode.step  10  104",
    ]


def test_json_has_every_value_as_it_is(type_in: Callable, trace: Path) -> None:
    sql = "SELECT 1 a, 2.5 b, 'é' c, NULL d, x'0aff' e UNION ALL SELECT 9e999, 0, '', '', ''"
    typed = type_in("query", trace, "--format", "json", sql)
    assert json.loads(typed.out) == [
        {"a": 1, "b": 2.5, "c": "é", "d": None, "e": "0aff"},
        {"a": "inf", "b": 0, "c": "", "d": "", "e": ""},
    ]
    assert json.loads(type_in("query", trace, "--format", "json", "SELECT 1 WHERE 0").out) == []
    assert json.loads(type_in("query", trace, "--format", "json", "CREATE TABLE t (a)").out) == []


def test_json_with_one_name_for_two_columns_is_refused(type_in: Callable, trace: Path) -> None:
    typed = type_in("query", trace, "--format", "json", "SELECT 1 AS a, 2 AS a")
    assert (typed.code, typed.out) == (2, "")
    assert typed.err == "vlmtrace: error: two columns are called 'a': name them apart with AS\n"


def test_csv_is_exact(type_in: Callable, hostile: Path) -> None:
    typed = type_in("query", hostile, "--format", "csv", f"{ARGUMENT} UNION ALL SELECT NULL UNION ALL SELECT 'a\n\"b'")
    assert list(csv.reader(io.StringIO(typed.out, newline=""))) == [["path"], [HOSTILE], [""], ['a\n"b']]


def test_what_a_trace_has_in_it_cannot_act_on_a_terminal(
    type_in: Callable, hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = "�[31mred�1m�txt.[bold]x[/bold],�'"
    assert type_in("query", hostile, ARGUMENT).out.splitlines() == ["path", shown]
    typed = type_in("query", hostile, "--format", "json", ARGUMENT)
    assert typed.out.isascii()
    assert json.loads(typed.out) == [{"path": HOSTILE}]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert type_in("query", hostile, "--format", "csv", ARGUMENT).out == f'path\n"{shown}"\n'
    named = f'SELECT 1 AS "{HOSTILE.replace(chr(9), "")}"'
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    out = type_in("query", hostile, named).out
    assert out.splitlines()[0].isprintable()
    assert len(out.splitlines()) == 2


def test_a_long_table_ends_and_says_how_much_is_left(type_in: Callable, trace: Path) -> None:
    many = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 2500) SELECT n FROM t"
    typed = type_in("query", trace, many)
    assert len(typed.out.splitlines()) == 1_001
    assert typed.err == "1,500 more rows: --format csv or json has them all\n"
    assert len(type_in("query", trace, "--format", "csv", many).out.splitlines()) == 2_501


def test_sql_comes_from_stdin_too(type_in: Callable, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("SELECT count(*) AS steps\nFROM vlm_step;\n"))
    assert type_in("query", trace, "-").out == "steps\n    4\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(" \n"))
    typed = type_in("query", trace, "-")
    assert (typed.code, typed.err) == (
        2,
        "vlmtrace: error: there is no SQL to run: give it behind the trace, or '-' to read it from stdin\n",
    )


def test_a_wrong_query_and_a_wrong_file_are_one_line(type_in: Callable, trace: Path) -> None:
    typed = type_in("query", trace, "SELECT a FROM nowhere")
    assert (typed.code, typed.out) == (1, "")
    assert typed.err == ("vlmtrace: error: the query failed at line 1, column 1: no such table: nowhere\n")
    assert type_in("query", "missing", "SELECT 1").err == (
        "vlmtrace: error: cannot read 'missing': No such file or directory\n"
    )


def test_another_trace_processor_can_be_named(type_in: Callable, trace: Path, folder: Path) -> None:
    shell = install_shell(folder / "bin")
    typed = type_in("query", "--trace-processor", shell, trace, "SELECT count(*) AS steps FROM vlm_step")
    assert (typed.code, typed.out) == (0, "steps\n    4\n")


def test_ctrl_c_works_again_as_before_afterwards(type_in: Callable, trace: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    type_in("query", trace, "SELECT 1")
    type_in("query", trace, "SELEC")
    assert signal.getsignal(signal.SIGINT) is before

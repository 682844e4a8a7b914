"""``vlmtrace report``: where the page is written, and what is refused before any work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import vlmtrace
from tests.cli.conftest import Typed
from tests.synthetic import Shape, recording

Type = Callable[..., Typed]


@pytest.fixture
def trace(folder: Path) -> Path:
    return vlmtrace.save(recording(Shape(), Shape()), folder / "run.pftrace")


def test_the_page_lies_beside_the_trace(type_in: Type, trace: Path) -> None:
    done = type_in("report", trace)
    page = trace.with_name("run.html")
    assert (done.code, done.out) == (0, "")
    assert f"Wrote {page}" in done.err
    assert f"Next: open {page} in a browser" in done.err
    assert page.read_text() == vlmtrace.report_page([trace])


def test_without_a_name_the_newest_trace_is_read(type_in: Type, trace: Path) -> None:
    assert type_in("report").code == 0
    assert Path("run.html").exists()


def test_several_traces_are_one_page(type_in: Type, trace: Path) -> None:
    other = vlmtrace.save(recording(Shape(), device=None), trace.with_name("other.json.gz"))
    assert type_in("report", trace, other, "-q") == Typed(0, "", "")
    text = Path("report.html").read_text()
    assert "run.pftrace" in text
    assert "other.json.gz" in text
    assert type_in("report", other).code == 0
    assert other.with_name("other.html").exists()


def test_a_page_that_exists_is_kept_unless_forced(type_in: Type, trace: Path) -> None:
    page = trace.with_name("mine.html")
    page.write_text("mine")
    done = type_in("report", trace, "-o", page)
    assert done.code == 1
    assert "exists: give another name, or --force" in done.err
    assert page.read_text() == "mine"
    assert type_in("report", trace, "-o", page, "--force").code == 0
    assert page.read_text().startswith("<!doctype html>")


def test_a_page_goes_to_stdout(type_in: Type, trace: Path) -> None:
    done = type_in("report", trace, "-o", "-")
    assert (done.code, done.err) == (0, "")
    assert done.out == vlmtrace.report_page([trace])
    assert not trace.with_name("run.html").exists()


def test_a_missing_extra_is_one_line(type_in: Type, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    done = type_in("report", trace)
    assert done.code == 1
    assert done.err.splitlines() == [
        "vlmtrace: error: a report needs plotly, which is not installed: pip install 'vlmtrace[report]'"
    ]
    assert not trace.with_name("run.html").exists()


def test_what_is_no_trace_is_refused(type_in: Type, folder: Path) -> None:
    notes = folder / "notes.pftrace"
    notes.write_text("notes")
    assert type_in("report", notes).code == 1
    assert not notes.with_name("notes.html").exists()

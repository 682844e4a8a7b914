"""The summary as Markdown."""

from __future__ import annotations

import re

from tests.report.goldens import cold_with_one_token, on_a_gpu, on_the_host
from tests.report.test_table import hostile
from vlmtrace.analysis.summary import summarise
from vlmtrace.report import lines, render
from vlmtrace.timeline.recording import Recording


def cells(made: Recording) -> list[list[str]]:
    """The table of the Markdown, as a reader of GitHub's dialect takes it apart."""
    rows = [line for line in render(summarise(made), "markdown").splitlines() if line.startswith("|")]
    return [[cell.strip().replace("&nbsp;", " ") for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def test_the_table_parses_back_to_its_rows() -> None:
    for made in (on_a_gpu(), on_the_host(), cold_with_one_token()):
        heading, rule, *body = cells(made)
        assert heading == list(lines.headings(summarise(made)))
        assert all(re.fullmatch(r":--|--:", cell) for cell in rule)
        expected = [
            [row.tree + row.stage, row.calls, row.p50, row.p95, row.share, row.note]
            for row in lines.rows(summarise(made))
        ]
        assert body == expected


def test_a_hostile_name_breaks_no_line_and_forms_no_markup() -> None:
    text = render(summarise(hostile()), "markdown")
    assert "\\[bold red\\]" in text
    assert all(line.isprintable() for line in text.splitlines())


def test_numbers_and_names_make_no_reference_and_no_mention() -> None:
    text = render(summarise(on_a_gpu()), "markdown")
    assert re.search(r"[#@]\w", text) is None
    assert "generation #<!-- -->2" in text


def test_the_hosts_clock_is_in_the_title() -> None:
    assert "host clock (no GPU)" in render(summarise(on_the_host()), "markdown").splitlines()[0]

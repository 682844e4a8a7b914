"""The summary on a terminal."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import Console

from tests.analysis.altered import with_drafts, with_generation
from tests.report.goldens import cold_with_one_token, on_a_gpu, on_the_host
from tests.synthetic import MS, Shape, recording
from vlmtrace.analysis.summary import summarise
from vlmtrace.errors import UsageError
from vlmtrace.report import FORMATS, SummaryTable, render
from vlmtrace.timeline.recording import Recording

HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold red]x[/] \u202e:boom: " + "y" * 500


def hostile() -> Recording:
    """A recording in which everything foreign is out to do harm."""
    made = recording(Shape(), Shape())
    model = replace(made.models[0], name=HOSTILE, dtype=HOSTILE, attention=HOSTILE)
    made = with_generation(made, 0, mode=HOSTILE)
    made = with_generation(made, 1, error=HOSTILE, mode=HOSTILE)
    return replace(made, models=(model,), environment={"gpu": HOSTILE}, incomplete=HOSTILE)


def on_a_terminal(made: Recording, **environment: str) -> str:
    out = StringIO()
    console = Console(
        file=out, width=80, force_terminal=True, color_system="standard", legacy_windows=False, _environ=environment
    )
    console.print(SummaryTable(summarise(made)))
    return out.getvalue()


@pytest.mark.parametrize("made", [on_a_gpu(), on_the_host(), cold_with_one_token(), hostile()])
@pytest.mark.parametrize("width", [80, 120])
def test_every_line_fits_the_width(made: Recording, width: int) -> None:
    assert max(cell_len(line) for line in render(summarise(made), width=width).splitlines()) <= width


def test_a_recording_of_the_hosts_clock_says_so_in_its_title_and_its_footnote() -> None:
    text = render(summarise(on_the_host()))
    title, table = text.split("\n\n")[:2]
    assert "host clock (no GPU)" in title
    assert "host clock (no GPU): times are the host's" in table
    assert "GPU clock" not in text
    assert "bound by" not in text


def test_a_gpu_that_was_not_used_is_not_said_to_be_absent() -> None:
    made = replace(on_the_host(), environment={"gpu": "H100"})
    assert "host clock (GPU not used)" in render(summarise(made))


def test_foreign_text_is_printed_without_its_controls_and_its_markup_is_not_obeyed() -> None:
    text = render(summarise(hostile()))
    assert all(line.isprintable() for line in text.splitlines())
    assert "[bold red]x[/]" in text
    assert ":boom:" in text


def test_on_a_terminal_foreign_text_adds_no_escape_sequence() -> None:
    shown = on_a_terminal(hostile())
    assert "\x1b[1m" in shown
    for forbidden in ("\x1b[2J", "\x1b]", "\x07", "\u202e"):
        assert forbidden not in shown


def test_colours_are_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    summary = summarise(on_a_gpu())
    assert "\x1b" not in render(summary)
    assert max(map(cell_len, render(summary).splitlines())) > 40
    assert "\x1b[31m" in on_a_terminal(on_a_gpu())


def test_without_a_complete_generation_the_table_says_so() -> None:
    made = with_generation(recording(Shape()), 0, error="RuntimeError: boom")
    text = render(summarise(made))
    assert "0 generations (1 incomplete left out)" in text
    assert "no complete generation to show" in text
    assert "RuntimeError: boom" in text
    assert "Stage" not in text


def test_short_stages_get_the_decimals_that_tell_them_apart() -> None:
    assert " 10.0 " in render(summarise(recording(Shape())))
    assert " 2.45 " in render(summarise(recording(Shape(step=2_450_000))))
    assert " 0.245 " in render(summarise(recording(Shape(step=245_000, gap=300_000))))


def test_the_rest_of_a_device_without_a_name_is_the_models_device() -> None:
    assert "cuda:0" in render(summarise(replace(recording(Shape()), environment={}))).splitlines()[0]


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown summary format 'html': use one of table, json, markdown"):
        render(summarise(recording(Shape())), "html")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("made", [on_a_gpu(), on_the_host(), cold_with_one_token(), hostile()])
def test_every_format_renders_every_recording_to_whole_lines(made: Recording, format: str) -> None:  # noqa: A002
    text = render(summarise(made), format)
    assert text.endswith("\n")
    assert text.encode()
    assert "\x1b" not in text


def test_the_named_generations_sum_holds_in_print() -> None:
    shapes = [Shape(vision=30 * MS + 40_000, prefill=20 * MS + 40_000, setup=2 * MS + 40_000)]
    line = next(line for line in render(summarise(recording(*shapes))).splitlines() if "generation #" in line)
    parts, total = line.partition(": ")[2].split(" · ")[0].split(" = ")
    assert sum(map(Decimal, parts.split(" + "))) == Decimal(total)


def test_a_part_that_did_not_run_is_a_dash_in_the_sum() -> None:
    assert "generation #0: 30.0 + 20.0 + – + 3.8 = 53.8 ·" in render(summarise(cold_with_one_token()))


@pytest.mark.parametrize("format", ["table", "markdown"])
def test_drafts_have_a_line_with_what_was_proposed_and_how_much_of_it_accepted(format: str) -> None:  # noqa: A002
    made = recording(Shape(steps=1))
    drafted = render(summarise(with_drafts(made, (3_000, 1_000), (4, 3))), format)
    assert "drafts: 3,004 tokens proposed · 1,003 accepted (33.4 %)\n" in drafted
    assert "drafts: 0 tokens proposed · 0 accepted\n" in render(summarise(with_drafts(made, (0, 0), (0, 0))), format)
    assert "drafts" not in render(summarise(made), format)

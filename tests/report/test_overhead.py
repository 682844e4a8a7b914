"""What tracing added and why the detail was lowered, as a summary tells it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.report.goldens import measured
from tests.synthetic import Shape, recording
from vlmtrace.analysis.overhead import Overhead
from vlmtrace.analysis.summary import summarise
from vlmtrace.report import render
from vlmtrace.report.definitions import OVERHEAD
from vlmtrace.report.overhead import added_parts, lowered_text
from vlmtrace.timeline.recording import Lowered, OverheadPair


def test_nothing_is_said_where_nothing_was_measured_or_lowered() -> None:
    summary = summarise(recording(Shape()))
    tracing = json.loads(render(summary, "json"))["tracing"]
    assert (tracing["added"], tracing["lowered"]) == (None, None)
    for form in ("table", "markdown"):
        text = render(summary, form)
        assert "tracing added" not in text
        assert "lowered" not in text


@pytest.mark.parametrize(
    ("added", "parts"),
    [
        (
            Overhead(0.0021, -0.004, 0.009, 20),
            ["tracing added 0.21 % (95 %: −0.40 to 0.90 %, 20 pairs)"],
        ),
        (
            Overhead(0.013, -0.02, 0.04, 20),
            ["tracing added 1.3 % (95 %: −2.0 to 4.0 %, 20 pairs)",
             "unresolved: about 180 pairs (--repeats) would tell to ± 1 %"],
        ),
        (
            Overhead(0.25, 0.2, 0.3, 1_000),
            ["tracing added 25.0 % (95 %: 20.0 to 30.0 %, 1,000 pairs)"],
        ),
        (
            Overhead(-0.00001, -0.00002, 0.0, 1),
            ["tracing added 0.00 % (95 %: 0.00 to 0.00 %, 1 pair)"],
        ),
    ],
)  # fmt: skip
def test_the_share_is_told_with_its_interval_and_what_would_resolve_it(added: Overhead, parts: list[str]) -> None:
    assert added_parts(added) == parts


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_every_form_for_people_tells_both(form: str) -> None:
    text = " ".join(render(summarise(measured()), form).replace("\\", "").split())
    assert "tracing added 0.6 % (95 %: −0.7 to 1.8 %, 14 pairs)" in text
    assert "detail lowered from layer to stage: counted cost 2.1 % > 1 %" in text


def test_the_json_defines_every_key_of_what_was_added() -> None:
    tracing = json.loads(render(summarise(measured()), "json"))["tracing"]
    added = tracing["added"]
    assert added.keys() - {"unit", "definitions"} == OVERHEAD.keys() == added["definitions"].keys()
    assert added["low_share"] <= added["median_share"] <= added["high_share"]
    assert (added["pairs"], added["unit"]) == (14, "fraction of the untraced time")
    assert tracing["lowered"]["cost_share"] == 26 / 1_238
    assert (tracing["lowered"]["asked"], tracing["lowered"]["limit_share"]) == ("layer", 0.01)


def test_the_definitions_are_in_ascii() -> None:
    assert all(text.isascii() for text in OVERHEAD.values())


@pytest.mark.parametrize(
    ("counted", "limit", "says"),
    [
        (21_000, 10_000, "counted cost 2.1 % > 1 %"),
        (10_010, 10_000, "counted cost 1.001 % > 1 %"),
        (10_001, 10_000, "counted cost 1.0001 % > 1 %"),
        (600, 500, "counted cost 0.06 % > 0.05 %"),
    ],
)
def test_a_cost_just_above_the_limit_looks_unlike_it(counted: int, limit: int, says: str) -> None:
    told = lowered_text(Lowered("layer", counted, 1_000_000, limit), "module")
    assert told == f"detail lowered from layer to module: {says}"


def test_what_was_added_is_told_of_a_recording_without_a_whole_generation_too() -> None:
    made = recording(Shape())
    (one,) = made.generations
    broken = replace(made, generations=(replace(one, error="boom"),), overhead=(OverheadPair(100, 103),))
    assert json.loads(render(summarise(broken), "json"))["tracing"]["added"]["median_share"] == 0.03

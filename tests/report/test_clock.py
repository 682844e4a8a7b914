"""How a GPU's clock was laid on the host's, as text and as JSON values."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.analysis.altered import with_generation
from tests.analysis.test_clocks import with_clocks
from tests.report.goldens import on_a_gpu, on_the_host
from tests.synthetic import US, WARMED, Shape, recording
from vlmtrace.analysis.summary import summarise
from vlmtrace.report import render, view
from vlmtrace.report.clock import SHOWN
from vlmtrace.report.sections import Section
from vlmtrace.timeline.recording import Recording


def sections(made: Recording) -> tuple[Section, ...]:
    return view(summarise(made), ["clock"])


def clock(made: Recording) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(render(summarise(made), "json"))["clock"]
    return found


def test_the_hosts_clock_is_one_sentence() -> None:
    (section,) = sections(on_the_host())
    assert (section.rows, section.notes) == ((), ())
    ((sentence,),) = section.lines
    assert "the host's own clock" in sentence
    document = clock(on_the_host())
    assert (document["kind"], document["devices"], document["note"]) == ("host", [], sentence)


def test_a_device_is_shown_with_its_fit_and_a_row_for_each_generation() -> None:
    made = with_clocks(
        recording(Shape(role=WARMED), Shape(late=2_500)),
        {"bound_ns": 3 * US, "chain_ns": 70},
        {"bound_ns": 4 * US, "residual_ns": 400, "widened_ns": 55, "rate_ppb": -120},
    )
    (section,) = sections(made)
    assert section.title == "clock of GPU 0, laid on the host's"
    assert section.lines == (
        ("drift −0.12 to 20.00 ppm",),
        ("bound p50 3.5 µs, max 4 µs", "fit residual 400 ns", "chaining error 70 ns", "widened 1 of 2"),
        ("2 anchors", "width p50 10 µs, max 10 µs"),
    )
    assert section.rows == (
        ("#0 warm-up", "3 µs", "0 ns", "70 ns", "0 ns"),
        ("#1", "4 µs", "−2.5 µs", "30 ns", "55 ns"),
    )


def test_each_device_has_a_section_of_its_own() -> None:
    made = with_clocks(recording(Shape(), Shape()), {"device": 1}, {"device": 0})
    assert [section.title for section in sections(made)] == [f"clock of GPU {n}, laid on the host's" for n in (0, 1)]


def test_a_generation_that_broke_off_has_no_difference() -> None:
    made = with_generation(recording(Shape(), Shape()), 1, error="boom")
    assert [row[2] for row in sections(made)[0].rows] == ["0 ns", "–"]
    assert [one["wall_minus_device_ns"] for one in clock(made)["devices"][0]["generations"]] == [0, None]


def test_of_many_generations_those_with_the_widest_bounds_are_shown_in_order() -> None:
    count = SHOWN + 6
    made = with_clocks(
        recording(*[Shape(steps=0)] * count), *({"bound_ns": US + (at * 7) % count} for at in range(count))
    )
    (section,) = sections(made)
    shown = [int(row[0].removeprefix("#")) for row in section.rows]
    widest = sorted(range(count), key=lambda at: -((at * 7) % count))[:SHOWN]
    assert shown == sorted(widest)
    assert section.notes[-1] == (f"{SHOWN} of {count} generations, those with the widest bounds",)
    assert len(clock(made)["devices"][0]["generations"]) == count


def test_a_drift_that_nobody_could_tell_is_not_given_as_none() -> None:
    made = with_clocks(recording(), {"rate_ppb": 0})
    assert "too close together" in sections(made)[0].lines[0][0]
    assert clock(made)["devices"][0]["drift_ppb"] is None


def test_a_gpu_that_timed_no_generation_is_said_to_have_timed_none() -> None:
    made = recording()
    made = with_generation(replace(made, clocks=()), 0, clock=None)
    assert "no generation" in sections(made)[0].lines[0][0]


def test_the_json_gives_every_figure_in_nanoseconds_and_defines_it() -> None:
    document = clock(on_a_gpu())
    assert document["kind"] == "device"
    (device,) = document["devices"]
    assert device["bound_ns"] == {"p50": 5_000, "max": 5_000}
    assert device["drift_ppb"] == {"min": 20_000, "max": 20_000}
    assert device["anchor_width_ns"] == {"p50": 10_000, "max": 10_000}
    keys = set(device["generations"][0]) | set(device)
    structure = {"index", "role", "device", "generations", "widened_generations"}
    assert keys - structure <= set(document["definitions"])
    assert all(text.isascii() for text in document["definitions"].values())


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_the_clock_is_shown_below_everything_else_and_only_when_asked_for(form: str) -> None:
    summary = summarise(on_a_gpu())
    plain, asked = render(summary, form), render(summary, form, views=["clock"])
    assert asked.startswith(plain)
    assert "laid on the host's" in asked.removeprefix(plain)

"""The evidence of launch verdicts, and host-bound stretches, as text and as JSON values."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len

from tests.analysis.altered import with_generation
from tests.report.goldens import on_a_gpu, on_the_host
from tests.synthetic import MS, Shape, recording
from vlmtrace.analysis.summary import summarise
from vlmtrace.errors import UsageError
from vlmtrace.report import VIEWS, render, view
from vlmtrace.report.launch import SHOWN
from vlmtrace.report.sections import Section
from vlmtrace.timeline.recording import Recording


def sections(made: Recording) -> tuple[Section, ...]:
    return view(summarise(made), ["launch"])


def stretches(made: Recording) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(render(summarise(made), "json"))["host_bound_stretches"]
    return found


def test_each_judged_stage_is_shown_with_its_evidence() -> None:
    verdicts, _ = sections(recording(Shape(lead=6 * MS)))
    assert verdicts.rows == (
        ("vision", "mixed", "0.200", "0.0002", "0 of 1"),
        ("prefill", "mixed", "0.300", "0.0003", "0 of 1"),
        ("decode", "GPU-bound", "0.600", "0.0005", "0 of 4 steps"),
    )
    notes = " ".join(part for parts in verdicts.notes for part in parts)
    assert all(threshold in notes for threshold in ("0.5", "0.05", "0.25"))


def test_stretches_are_shown_longest_first_with_where_they_are() -> None:
    made = recording(Shape(lead=0, steps=1), Shape(lead=0, steps=0), Shape(lead=0))
    _, found = sections(made)
    assert found.title.startswith("host-bound stretches: 3, together 9")
    assert found.rows == (
        ("#2", "vision, prefill, steps 0–3", "94.50", "97.6 %"),
        ("#0", "vision, prefill, step 0", "61.50", "96.4 %"),
        ("#1", "vision, prefill", "51.00", "94.8 %"),
    )


def test_a_stretch_is_never_called_idle_time() -> None:
    _, found = sections(recording(Shape(lead=0)))
    assert "at the most" not in found.title
    assert "the most that the GPU can have waited" in found.notes[0][0]


def test_of_many_stretches_the_longest_are_shown_and_all_are_counted() -> None:
    made = recording(*[Shape(lead=0, steps=0)] * (SHOWN + 3))
    _, found = sections(made)
    assert len(found.rows) == SHOWN
    assert found.title.endswith(f"; the {SHOWN} longest")
    assert stretches(made)["count"] == SHOWN + 3
    assert len(stretches(made)["longest"]) == SHOWN + 3


def test_a_gpu_that_never_waited_has_no_stretch() -> None:
    made = recording(Shape(lead=18 * MS))
    assert sections(made)[1].lines == (("none",),)
    assert stretches(made)["longest"] == []


def test_the_hosts_clock_has_no_verdict_to_show() -> None:
    (section,) = sections(on_the_host())
    assert "no verdict" in section.lines[0][0]
    assert stretches(on_the_host()) is None


def test_without_a_complete_generation_there_is_nothing_to_judge() -> None:
    (section,) = sections(with_generation(recording(), 0, error="boom"))
    assert section.lines == (("nothing to judge",),)


def test_the_json_places_each_stretch_within_its_generation() -> None:
    document = stretches(recording(Shape(lead=0)))
    (one,) = document["longest"]
    assert one == {
        "generation": 0,
        "begin_ms": 2.0,
        "length_ms": 94.5,
        "share": pytest.approx(94.5 / 96.8),
        "stages": ["vision", "prefill", "decode.step"],
        "steps": {"first": 0, "last": 3},
    }
    assert (document["total_ms"], document["share"]) == (94.5, one["share"])
    assert all(text.isascii() for text in document["definitions"].values())


def test_an_unknown_view_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown view 'heat' of a summary: use one of stages, clock, launch"):
        render(summarise(recording()), views=["heat"])


@pytest.mark.parametrize("width", [80, 120])
def test_the_views_of_a_busy_recording_fit_the_width(width: int) -> None:
    wide = replace(Shape(lead=0), steps=1_200)
    text = render(summarise(recording(*[wide] * 3)), width=width, views=VIEWS)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "1,199" in text
    text = render(summarise(on_a_gpu()), width=width, views=VIEWS)
    assert "of 310 steps" in text


def test_markdown_draws_a_view_as_a_table() -> None:
    text = render(summarise(on_a_gpu()), "markdown", views=["launch"])
    assert "| stage | verdict | lead ÷ duration | ± ÷ duration | host-bound |" in text
    assert "| :-- | :-- | --: | --: | --: |" in text

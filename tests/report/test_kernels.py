"""The kernels of each stage, as text and as JSON values."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len

from tests.analysis.paired import Op, paired
from tests.report.goldens import with_kernels
from tests.report.test_table import HOSTILE
from tests.synthetic import MS, ORIGIN, US, Shape, recording
from vlmtrace.analysis.summary import summarise
from vlmtrace.report import FORMATS, render, view
from vlmtrace.report.definitions import KERNELS
from vlmtrace.report.kernel_document import LONGEST_NAME
from vlmtrace.report.kernels import NO_KERNELS, SHOWN
from vlmtrace.report.sections import Section
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording

VISION = ORIGIN + 8 * MS
STEP = ORIGIN + 59 * MS + 500 * US


def sections(made: Recording, baseline: Recording | None = None) -> dict[str, Section]:
    """The sections by the beginning of their titles."""
    found = view(summarise(made, baseline), ["kernels"])
    return {section.title.partition(",")[0].partition(":")[0]: section for section in found}


def document(made: Recording, baseline: Recording | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(render(summarise(made, baseline), "json"))["kernels"]
    return found


def many(count: int, **more: Any) -> list[Op]:
    """So many kernels of one vision, each with a name of its own and a microsecond longer than the one before."""
    return [
        Op(
            VISION + at * 100 * US,
            VISION + at * 100 * US + (at + 1) * US,
            names.VISION,
            name=f"k{at}",
            full=None,
            **more,
        )
        for at in range(count)
    ]


def test_a_trace_without_kernels_says_what_to_do() -> None:
    (section,) = view(summarise(recording()), ["kernels"])
    assert section.lines == ((NO_KERNELS,),)
    assert document(recording()) is None


def test_the_sum_over_the_stages_and_what_belongs_to_none_is_shown() -> None:
    lines = sections(with_kernels())["kernels of each stage"].lines
    assert ("63 in stages + 3 unattributed = 66 kernels in the report",) in lines
    assert ("unattributed: 3 elsewhere",) in lines
    rows = sections(with_kernels())["kernels of each stage"].rows
    assert sum(int(row[2]) for row in rows) == 63


def test_where_all_kernels_are_in_stages_no_reason_is_told() -> None:
    lines = sections(paired(recording(Shape()), many(2)))["kernels of each stage"].lines
    assert lines[1:] == (("2 in stages + 0 unattributed = 2 kernels in the report",),)


def test_what_is_outside_of_generate_is_told_by_what_launched_it() -> None:
    made = paired(recording(Shape()), [Op(ORIGIN, ORIGIN + US, "preprocess", None), Op(0, US, "my span", None)])
    section = sections(made)["kernels of each stage"]
    assert section.lines[-1] == ("outside of generate(): my span 1", "preprocess 1")
    assert section.rows[-1] == ("outside", "–", "2", "–", "–", "–", "–")


def test_several_devices_have_a_row_each() -> None:
    made = paired(recording(Shape()), [*many(1), *many(1, device=1, stream=9)])
    rows = sections(made)["kernels of each stage"].rows
    assert [row[0] for row in rows[:3]] == ["vision", "├ GPU 0", "└ GPU 1"]
    assert rows[0][3:5] == ("–", "–")
    assert rows[1][3:5] == rows[2][3:5] == ("0.001", "100.0 %")


def test_of_many_kernels_the_longest_are_shown_and_json_has_more() -> None:
    made = paired(recording(Shape()), many(SHOWN + 4))
    rows = sections(made)["the kernels that took longest"].rows
    assert [row[1] for row in rows] == [f"k{at}" for at in range(SHOWN + 3, 3, -1)]
    (vision,) = (stage for stage in document(made)["stages"] if stage["stage"] == "vision")
    assert len(vision["top"]) == SHOWN + 4


def test_kernels_that_share_a_short_name_are_told_apart_by_a_number_and_their_full_names() -> None:
    ops = [
        Op(VISION, VISION + 9 * US, names.VISION, name="gemm", full="gemm<1>"),
        Op(VISION + MS, VISION + MS + 5 * US, names.VISION, name="gemm", full="gemm<2>"),
        Op(VISION + 2 * MS, VISION + 2 * MS + US, names.VISION, name="alone", full="alone"),
    ]
    found = sections(paired(recording(Shape()), ops))
    assert [row[1] for row in found["the kernels that took longest"].rows] == ["gemm (1)", "gemm (2)", "alone"]
    assert found["their full names"].rows == (("gemm (1)", "gemm<1>"), ("gemm (2)", "gemm<2>"))


def test_without_copies_launches_or_marked_stages_there_are_no_empty_tables() -> None:
    made = paired(recording(Shape()), [Op(ORIGIN, ORIGIN + US, None, None)])
    assert list(sections(made)) == ["kernels of each stage"]


def test_a_kernel_outside_of_its_stages_events_is_below_nothing() -> None:
    made = paired(recording(Shape()), [Op(VISION - 3 * US, VISION + 30 * MS + 4 * US, names.VISION)])
    section = sections(made)["events against kernels"]
    assert section.rows == (("vision", "1", "−3 µs", "−3 µs", "−4 µs", "−4 µs"),)
    assert section.lines == (("the trace's clock ± 5 µs", "the report's clock ± 2 µs"),)


def test_a_baseline_is_compared_in_ms_and_percent() -> None:
    section = sections(paired(recording(Shape(vision=33 * MS)), ()), recording(Shape(), Shape(tail=MS)))[
        "against the baseline"
    ]
    assert section.title == "against the baseline: 1 generation under Nsight Systems, 2 without"
    rows = {row[0]: row[1:] for row in section.rows}
    assert rows["vision"] == ("33.000", "30.000", "+3.000", "+10.0 %")
    assert rows["tail"] == ("0.300", "0.650", "−0.350", "−53.8 %")


def test_the_json_has_every_figure_and_defines_it() -> None:
    found = document(with_kernels(), recording(Shape(vision=25 * MS)))
    step = next(stage for stage in found["stages"] if stage["stage"] == "decode.step")
    assert (found["kernels"], found["in_stages"], found["unattributed"]) == (66, 63, {"elsewhere": 3})
    assert sum(stage["kernels_in_all"] for stage in found["stages"]) == found["in_stages"]
    assert (found["report"]["clock_bound_ms"], found["trace_clock_bound_ms"]) == (0.002, 0.005)
    assert (step["kernels"], step["launches"], step["launch_ms"]) == (12, 8, pytest.approx(0.197))
    assert step["devices"] == [{"device": 0, "busy_ms": pytest.approx(33.984), "idle_share": pytest.approx(0.1504)}]
    assert step["top"][0]["share"] == pytest.approx(32 / 71.968)
    assert step["copies"] == [{"kind": "Memset", "count": 8, "bytes": 32_768, "total_ms": 4.0}]
    assert step["agreement"]["after_ms"] == {"p50": 1.0, "p95": 1.0}
    vision = next(one for one in found["inflation"]["stages"] if one["stage"] == "vision")
    assert vision == {"stage": "vision", "paired_ms": 30, "baseline_ms": 25, "difference_ms": 5, "share": 0.2}
    told = {"kernels", "unattributed", "outside", "inflation", *step} - {"stage", "kernels_in_all", "devices"}
    assert told <= set(KERNELS)
    assert found["definitions"] == KERNELS
    assert all(text.isascii() for text in KERNELS.values())


LONG = "a" * 1_000_000


@pytest.fixture(scope="module")
def hostile() -> Recording:
    """Kernels, copies, spans and a report whose names are out to do harm."""
    bad = [HOSTILE, "</script><script>alert(1)</script>", "a|b|c\n| d", LONG, "@somebody #1 `x` $y$", ""]
    ops = [
        Op(VISION + at * MS, VISION + (at + 1) * MS, names.VISION, name=text[:400_000], full=text)
        for at, text in enumerate(bad)
    ]
    ops += [Op(STEP, STEP + US, names.STEP, step=0, name=HOSTILE, copied=2**62)]
    ops += [Op(ORIGIN, ORIGIN + US, HOSTILE + LONG, None), Op(ORIGIN + US, ORIGIN + 2 * US, HOSTILE, 0)]
    made = paired(recording(Shape()), ops, report=HOSTILE + LONG, product=LONG, schema=HOSTILE)
    pairing = made.pairing
    assert pairing is not None
    return replace(made, pairing=replace(pairing, kernels=pairing.kernels + 1, unattributed={HOSTILE + LONG: 1}))


@pytest.mark.parametrize("form", FORMATS)
def test_hostile_names_are_harmless(hostile: Recording, form: str) -> None:
    text = render(summarise(hostile), form, views=["kernels"])
    assert all(line.isprintable() for line in text.splitlines())
    assert "\u202e" not in text
    assert len(text) < 100_000


def test_hostile_names_do_not_break_a_markdown_table(hostile: Recording) -> None:
    text = render(summarise(hostile), "markdown", views=["kernels"])
    assert "<script" not in text.replace("\\<", "")
    table = [line for line in text.splitlines() if "script" in line or "a\\|b" in line]
    assert table
    assert all(line.startswith("| ") and line.endswith(" |") for line in table)


def test_json_tells_names_exactly_but_of_a_length_that_can_be_read(hostile: Recording) -> None:
    (vision,) = (stage for stage in document(hostile)["stages"] if stage["stage"] == "vision")
    told = {kernel["full_name"] for kernel in vision["top"]}
    assert HOSTILE in told
    assert LONG[: LONGEST_NAME - 1] + "…" in told


@pytest.mark.parametrize("width", [80, 120])
def test_a_busy_recording_fits_the_width(hostile: Recording, width: int) -> None:
    for made in (hostile, with_kernels()):
        text = render(summarise(made), width=width, views=["kernels"])
        assert max(map(cell_len, text.splitlines())) <= width

"""The charts of a page: each drawn figure is one of the recording's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.analysis.layered import layered
from tests.analysis.test_late_tokens import without_tokens
from tests.kernels import HOSTILE, with_kernels
from tests.synthetic import MS, WARMED, Shape, recording
from vlmtrace.analysis.late_tokens import LateToken, late_tokens
from vlmtrace.analysis.layers import LayerGrid, layer_grids
from vlmtrace.analysis.measured import Measured
from vlmtrace.analysis.summary import Summary, summarise
from vlmtrace.report.html import layer_chart as layer
from vlmtrace.report.html import timeline_chart as timeline
from vlmtrace.report.html import token_chart as token
from vlmtrace.report.html.chart import Chart, ascending, label
from vlmtrace.report.html.colours import colour_of
from vlmtrace.report.html.first_token_chart import first_token
from vlmtrace.report.html.kernel_chart import busy_chart, longest_chart
from vlmtrace.report.html.lead_chart import lead_chart
from vlmtrace.timeline import names

THREE = (Shape(role=WARMED), Shape(), Shape(vision_inside=True))


def traces(chart: Chart | None) -> dict[str, Any]:
    assert chart is not None
    return {trace["name"]: trace for trace in chart.traces if isinstance(trace, dict) and "name" in trace}  # type: ignore[misc]


def nearest(summary: Summary) -> Measured:
    assert summary.nearest is not None
    return summary.nearest


def test_a_timeline_has_every_stage_where_it_lies() -> None:
    one = nearest(summarise(recording(Shape())))
    found = traces(timeline.timeline_chart(one))
    assert found["vision"]["y"] == ["stages", "host launches"]
    assert found["vision"]["base"][0] == pytest.approx(2.005)
    assert found["vision"]["x"][0] == 30
    assert found["decode, step"]["x"] == [10] * 4 + [pytest.approx(9.9)] * 4
    assert found["gap"]["x"] == [1] * 3
    assert found["preprocess"]["base"] == [pytest.approx(-5.995)]


def test_a_prefill_with_a_vision_inside_is_drawn_around_it() -> None:
    one = nearest(summarise(recording(Shape(vision_inside=True))))
    found = traces(timeline.timeline_chart(one))["prefill"]
    drawn = [length for row, length in zip(found["y"], found["x"], strict=True) if row == "stages"]
    assert sum(drawn) == 20


def test_a_host_recording_has_no_row_of_launches() -> None:
    one = nearest(summarise(recording(Shape(), device=None)))
    assert timeline.timeline_chart(one).layout["yaxis"]["categoryarray"] == [  # type: ignore[index, call-overload]
        "around it, host",
        "stages",
        "steps",
        "parts",
    ]


def test_too_many_steps_are_drawn_together_from_the_first_to_the_last() -> None:
    one = nearest(summarise(recording(Shape(steps=3_000, gap=0))))
    chart = timeline.timeline_chart(one)
    steps = traces(chart)["decode, step"]
    drawn = [n for n, row in enumerate(steps["y"]) if row == "steps"]
    assert len(drawn) == timeline.MOST_BARS
    assert sum(steps["x"][n] for n in drawn) == pytest.approx(30_000)
    assert chart.notes


def test_the_parts_of_ttft_are_drawn_with_their_figures() -> None:
    one = nearest(summarise(recording(Shape())))
    way = first_token(one)
    assert way is not None
    assert (way.whole, way.total) == ("TTFT with preprocessing", "59.250")
    assert [row.ms for row in way.rows] == ["5.000", "0.995", "0.005", "2.000", "30.000", "1.000", "20.000", "0.250"]
    assert sum(trace["x"][0] for trace in way.chart.traces) == 59.25  # type: ignore[index, call-overload, misc]


def test_tokens_are_drawn_each_and_the_late_ones_marked_with_their_cause() -> None:
    made = without_tokens(recording(Shape(steps=12), Shape(steps=12)), 4, 5, 6)
    summary = summarise(made)
    found = traces(token.token_chart(summary.counted, late_tokens(made, summary.counted)))
    assert len(found["each generation"]["x"]) == 9 + 12
    assert (found["late"]["x"], found["late"]["y"], found["late"]["customdata"]) == ([4], [44], ["not known"])
    assert found["median"]["y"][1] == 11


def test_a_cause_is_told_with_its_length() -> None:
    late = LateToken(0, 4, 44 * MS, ((names.GC, 11 * MS), (names.COMPILE, 2 * MS)), 3)
    assert token.cause_text(late) == "gc 11 ms, compile 2 ms, the allocator ran out 3 × in this generation"


def test_of_many_tokens_the_range_is_drawn() -> None:
    summary = summarise(recording(Shape(steps=5_000), Shape(steps=5_000)))
    chart = token.token_chart(summary.counted, ())
    found = traces(chart)
    assert "each generation" not in found
    assert len(found["median"]["x"]) == token.MOST_BINS
    assert chart is not None
    assert len(chart.notes) == 2


def test_without_two_tokens_there_is_no_latency_to_draw() -> None:
    assert token.token_chart(summarise(recording(Shape(steps=0))).counted, ()) is None


def test_a_heat_map_has_a_cell_for_each_layer_and_step() -> None:
    made = layered(Shape(steps=4))
    summary = summarise(made)
    grid = layer_grids(made, summary.counted, nearest(summary))[-1]
    (trace,) = layer.layer_chart(grid).traces
    assert isinstance(trace, dict)
    assert (trace["x"], trace["y"]) == ([0, 1, 2, 3], [0, 1, 2])
    assert trace["z"] == [[pytest.approx(10 / 3, abs=1e-6)] * 4] * 3


def test_a_wide_heat_map_is_joined_to_means_and_holes_stay_holes() -> None:
    columns = 2 * layer.MOST_COLUMNS
    cells = tuple(tuple(None if column < 2 else (column % 2) * 2 * MS for column in range(columns)) for _ in range(2))
    chart = layer.layer_chart(LayerGrid(names.STEP, 0, (0, 1), tuple(range(columns)), cells))
    (trace,) = chart.traces
    assert isinstance(trace, dict)
    assert trace["z"] == [[None] + [1] * (layer.MOST_COLUMNS - 1)] * 2
    assert chart.notes


def test_the_lead_is_drawn_as_a_part_of_each_step() -> None:
    found = traces(lead_chart(summarise(recording(Shape(lead=2 * MS), Shape(lead=2 * MS))).counted))
    assert found["median"]["y"] == [20] * 4
    assert lead_chart(summarise(recording(device=None)).counted) is None


def test_busy_and_idle_of_a_stage_are_the_whole_of_it() -> None:
    summary = summarise(with_kernels(recording(*THREE)))
    assert summary.kernels is not None
    found = traces(busy_chart(summary.kernels))
    assert [a + b for a, b in zip(found["busy"]["x"], found["idle"]["x"], strict=True)] == pytest.approx(
        [100] * len(found["busy"]["x"])
    )
    known = {stage.stage: stage for stage in summary.kernels.stages}
    at = found["busy"]["y"].index("vision, GPU 0")
    idle = known[names.VISION].devices[0].idle_share
    assert idle is not None
    assert found["idle"]["x"][at] == pytest.approx(100 * idle, abs=0.001)
    assert found["busy"]["marker"]["color"][at] == colour_of(names.VISION)


def test_the_longest_kernels_are_drawn_under_names_that_are_no_markup() -> None:
    summary = summarise(with_kernels(recording(*THREE)))
    assert summary.kernels is not None
    chart = longest_chart(summary.kernels)
    assert chart is not None
    (trace,) = chart.traces
    assert isinstance(trace, dict)
    shown = trace["y"]
    assert isinstance(shown, list)
    assert len(set(map(str, shown))) == len(shown)
    assert trace["x"] == sorted(trace["x"], reverse=True)  # type: ignore[arg-type, type-var]
    assert "<" not in label(HOSTILE)
    assert len(label(HOSTILE, 20)) <= 20 + 2 * len("&lt;")


@pytest.mark.parametrize(("count", "most"), [(0, 5), (3, 5), (5, 5), (6, 5), (1_001, 100)])
def test_bins_hold_every_position_once(count: int, most: int) -> None:
    bins = ascending(range(count), most)
    assert [at for first, behind in bins for at in range(first, behind)] == list(range(count))
    assert len(bins) == min(count, most)


def test_stages_that_stand_side_by_side_have_colours_of_their_own() -> None:
    stages = (
        names.PREPROCESS,
        names.H2D,
        names.VISION,
        names.PREFILL,
        names.STEP,
        names.GAP,
        names.DETOKENIZE,
        "other",
    )
    assert len({colour_of(stage) for stage in stages}) == len(stages)
    assert colour_of(names.STEP) == colour_of(names.DECODE)

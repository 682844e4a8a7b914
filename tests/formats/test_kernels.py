"""Kernels and copies of a paired recording: their rows, and the calls that launched them."""

from __future__ import annotations

from collections import Counter as Tally
from dataclasses import replace
from pathlib import Path

import pytest

from tests import synthetic
from tests.importer import assert_clean
from tests.kernels import HOSTILE, Kernels, with_kernels
from tests.synthetic import ORIGIN, WARMED, Shape
from vlmtrace import formats
from vlmtrace.formats.arguments import SpanArguments
from vlmtrace.formats.launches import Launches, launches
from vlmtrace.formats.layout import layout_of
from vlmtrace.formats.slices import slices
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import COPIES, KERNELS, Recording, Track
from vlmtrace.timeline.spans import NONE, NewSpan, SpansBuilder

every_format = pytest.mark.parametrize("suffix", formats.FORMATS)

STAGES = Track("stages", 0, 5, "MainThread")
HOST = Track("host", None, 5, "MainThread")
ON_SEVEN = Track(KERNELS, 0, 5, "MainThread", stream=7)
CALL = {"call": "cudaLaunchKernel"}


def drawn_on(*tracks: Track, spans: tuple[NewSpan, ...] = ()) -> Recording:
    builder = SpansBuilder()
    for span in spans:
        builder.add(span)
    return replace(synthetic.recording(), generations=(), tracks=tracks, spans=builder.freeze()[0])


def kernel(track: int, axis: tuple[int, int], host: tuple[int, int], name: str = "k", **more: object) -> NewSpan:
    """Times count from the origin."""
    begin, end = axis
    called, back = host
    times = (ORIGIN + begin, ORIGIN + end), (ORIGIN + called, ORIGIN + back)
    return NewSpan(name, track, *times, **{"args": CALL, **more})  # type: ignore[arg-type]


def rows(recording: Recording) -> list[str]:
    layout = layout_of(recording)
    return [layout.full_title(row) for row in layout.rows]


def placed(recording: Recording, made: Launches) -> list[tuple[str, int]]:
    """What was launched first, and on which lane, for every launch in order."""
    pairs = zip(made.span, made.place, strict=True)
    return [(recording.spans[span].name, made.places[place][1]) for span, place in pairs]


def test_streams_come_in_the_order_of_their_numbers_behind_all_other_rows_and_copies_last() -> None:
    def on(kind: str, stream: int) -> Track:
        return replace(ON_SEVEN, kind=kind, stream=stream)

    shown = rows(drawn_on(on(COPIES, 7), on(KERNELS, 14), on(KERNELS, 7), on(KERNELS, 0), on(KERNELS, 7), STAGES, HOST))
    assert shown == [
        "GPU 0",
        "GPU 0 · Stages",
        "GPU 0 · Kernels, stream 0",
        "GPU 0 · Kernels, stream 7",
        "GPU 0 · Kernels, stream 7, lane 2",
        "GPU 0 · Kernels, stream 14",
        "GPU 0 · Copies, stream 7",
        "Host: MainThread",
        "! nothing-recorded",
        "Recording",
    ]


def test_kernels_of_a_thread_that_generates_nothing_open_no_group_on_a_device_that_has_one() -> None:
    other = replace(ON_SEVEN, thread=6, thread_name="worker")
    assert rows(drawn_on(other, STAGES))[:3] == ["GPU 0", "GPU 0 · Stages", "GPU 0 · Kernels, stream 7"]


def test_kernels_stand_with_their_own_thread_where_several_generate() -> None:
    worker = {"thread": 6, "thread_name": "worker"}
    shown = rows(drawn_on(STAGES, replace(STAGES, **worker), replace(ON_SEVEN, **worker)))
    assert "GPU 0 · worker · Kernels, stream 7" in shown
    assert not any(title.startswith("GPU 0 · MainThread · Kernels") for title in shown)


def test_a_device_without_stages_has_a_group_of_its_own_for_its_kernels() -> None:
    assert rows(drawn_on(STAGES, replace(ON_SEVEN, device=1)))[2:4] == ["GPU 1", "GPU 1 · Kernels, stream 7"]


def test_one_call_that_launched_many_is_one_launch_with_an_arrow_to_the_first() -> None:
    called = (0, 10)
    spans = (kernel(0, (40, 50), called), kernel(1, (20, 60), called, "first"), kernel(0, (60, 70), called))
    recording = drawn_on(ON_SEVEN, ON_SEVEN, HOST, spans=spans)
    assert placed(recording, launches(recording)) == [("first", 0)]
    flows = [
        (one.title, one.category, one.flow, one.arrives, one.leaves) for one in slices(recording, layout_of(recording))
    ]
    assert flows == [
        ("cudaLaunchKernel", "launch,derived", 1, False, True),
        ("first", "kernel", 1, True, False),
        ("k", "kernel", 2, False, False),
        ("k", "kernel", 3, False, False),
    ]


def test_calls_that_began_together_are_told_apart_by_end_generation_name_and_thread() -> None:
    base = synthetic.recording()
    generations = base.generations
    tracks = (ON_SEVEN, replace(ON_SEVEN, thread=6), *base.tracks)
    spans = (
        kernel(0, (100, 101), (0, 10)),
        kernel(0, (102, 103), (0, 20)),
        kernel(0, (104, 105), (0, 20), generation=0),
        kernel(0, (106, 107), (0, 20), args={"call": "cudaMemcpyAsync"}),
        kernel(1, (108, 109), (0, 20)),
        kernel(0, (110, 111), (0, 10)),
    )
    builder = SpansBuilder()
    for span in spans:
        builder.add(span)
    recording = replace(base, generations=generations, tracks=tracks, spans=builder.freeze()[0])
    assert len(launches(recording)) == 5


def test_what_has_no_call_or_is_no_operation_launches_nothing() -> None:
    spans = (kernel(0, (0, 10), (0, 10), args={}), NewSpan("mine", 1, (ORIGIN, ORIGIN + 9), args={"call": "me"}))
    assert len(launches(drawn_on(ON_SEVEN, Track("spans", 0, 5, "MainThread"), spans=spans))) == 0


def test_a_call_named_by_numbers_is_a_users_own_argument() -> None:
    assert len(launches(drawn_on(ON_SEVEN, spans=(kernel(0, (0, 10), (0, 10), args={"call": 3}),)))) == 0


def test_a_call_that_cuts_across_a_stages_launch_makes_room_whichever_came_first() -> None:
    stage = NewSpan(names.VISION, 0, (ORIGIN + 60, ORIGIN + 90), (ORIGIN + 10, ORIGIN + 50))
    spans = (
        stage,
        kernel(1, (100, 101), (5, 15), "before"),
        kernel(1, (102, 103), (20, 30), "inside"),
        kernel(1, (104, 105), (45, 55), "behind"),
    )
    recording = drawn_on(STAGES, ON_SEVEN, HOST, spans=spans)
    assert placed(recording, launches(recording)) == [("before", 1), (names.VISION, 0), ("inside", 0), ("behind", 1)]


def test_the_number_of_a_kernel_is_a_step_whatever_it_is_called() -> None:
    spans = tuple(kernel(0, (at, at + 5), (at, at + 5), name, number=at) for at, name in ((0, "layer"), (9, "gemm")))
    arguments = SpanArguments(drawn_on(ON_SEVEN, spans=spans))
    assert [arguments.of(row, "")["step"] for row in range(2)] == [0, 9]


def test_a_kernel_without_a_step_has_no_number() -> None:
    recording = drawn_on(ON_SEVEN, spans=(kernel(0, (0, 5), (0, 5)),))
    assert recording.spans.number[0] == NONE
    assert "step" not in SpanArguments(recording).of(0, "k")


@every_format
@pytest.mark.parametrize("graphs", [True, False])
def test_a_paired_recording_is_clean_and_every_call_has_its_arrow(tmp_path: Path, suffix: str, graphs: bool) -> None:
    recording = with_kernels(
        synthetic.recording(Shape(role=WARMED), Shape(vision_inside=True, steps=1)), Kernels(graphs=graphs)
    )
    path = tmp_path / f"trace{suffix}"
    path.write_bytes(b"".join(formats.write(recording, suffix)))
    processor = assert_clean(path, recording)
    calls = {
        (span.host_begin, span.host_end)
        for span in recording.spans
        if recording.tracks[span.track].stream is not None and recording.spans.arg(span.row, "call") is not None
    }
    arrows = processor.query(
        "select a.name as call, count(*) as n from flow join slice a on a.id = slice_out "
        "join slice b on b.id = slice_in where b.category in ('kernel', 'copy') group by 1"
    )
    found = {row["call"]: row["n"] for row in arrows}
    assert sum(found.values()) == len(calls)
    assert found.get("cudaGraphLaunch", 0) == (5 if graphs else 0)
    assert formats.read(path) == recording


@every_format
def test_kernels_that_seem_to_begin_before_their_call_have_no_arrow(tmp_path: Path, suffix: str) -> None:
    recording = with_kernels(synthetic.recording(), Kernels(shift=synthetic.MS))
    path = tmp_path / f"trace{suffix}"
    path.write_bytes(b"".join(formats.write(recording, suffix)))
    processor = assert_clean(path, recording)
    late = processor.value("select count(*) from slice where category = 'launch,derived' and name like 'cuda%'")
    arrows = processor.value("select count(*) from flow join slice b on b.id = slice_in where b.category = 'kernel'")
    assert 0 < arrows < late


def test_sql_finds_the_kernels_of_a_stage_by_their_arguments(tmp_path: Path) -> None:
    recording = with_kernels(synthetic.recording(Shape(steps=2)))
    path = tmp_path / "trace.pftrace"
    path.write_bytes(b"".join(formats.write(recording, ".pftrace")))
    processor = assert_clean(path, recording)
    found = processor.query(
        "select extract_arg(arg_set_id, 'debug.stage') as stage, extract_arg(arg_set_id, 'debug.step') as step, "
        "count(*) as n from slice where category = 'kernel' group by 1, 2"
    )
    wanted = Tally(
        (recording.spans.arg(span.row, "stage"), span.number)
        for span in recording.spans
        if recording.tracks[span.track].kind == KERNELS
    )
    assert {(row["stage"], row["step"]): row["n"] for row in found} == wanted
    assert {("decode.step", 1), ("decode.gap", 0), ("vision", None), (None, None)} <= wanted.keys()


def test_a_hostile_name_of_a_kernel_is_shown_as_well_as_it_can_be_and_kept(tmp_path: Path) -> None:
    recording = with_kernels(synthetic.recording())
    path = tmp_path / "trace.pftrace"
    path.write_bytes(b"".join(formats.write(recording, ".pftrace")))
    processor = assert_clean(path, recording)
    (shown,) = processor.query("select name, extract_arg(arg_set_id, 'debug.name') as full from slice "
                               "where category = 'kernel' and name like 'void%'")  # fmt: skip
    assert len(shown["name"]) == 120
    assert shown["name"].startswith("void kernel<\"a\", 'b'>(</script>,\ufffd\ufffd é")
    assert HOSTILE in {span.name for span in formats.read(path).spans}


@every_format
def test_a_paired_recording_is_written_to_the_same_bytes_once_it_was_loaded(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"trace{suffix}"
    path.write_bytes(b"".join(formats.write(with_kernels(synthetic.recording()), suffix)))
    assert b"".join(formats.write(formats.read(path), suffix)) == path.read_bytes()

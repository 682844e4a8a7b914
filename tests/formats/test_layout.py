"""The rows of a recording, and the slices on them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

from hypothesis import HealthCheck, given, settings

from tests import synthetic
from tests.strategies import recordings
from tests.synthetic import MS, ORIGIN, US, Shape
from vlmtrace.formats.launches import launches
from vlmtrace.formats.layout import COUNTERS, GROUP, LEAD, layout_of
from vlmtrace.formats.slices import Slices, closing, series, slices
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Counter, Recording, Track
from vlmtrace.timeline.spans import NewSpan, SpansBuilder

drawn = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def titles(recording: Recording) -> list[str]:
    layout = layout_of(recording)
    return [f"{layout.processes[row.process].title} / {layout.full_title(row)}" for row in layout.rows]


def with_tracks(*tracks: Track) -> Recording:
    spans, _ = SpansBuilder().freeze()
    return replace(synthetic.recording(), generations=(), tracks=tracks, spans=spans)


def lanes(recording: Recording) -> dict[str, int]:
    """The lane of each launch, by the name of what it launched."""
    made = launches(recording)
    return {
        recording.spans[span].name: made.places[place][1] for span, place in zip(made.span, made.place, strict=True)
    }


def test_ranks_devices_threads_and_kinds_are_shown_in_that_order() -> None:
    recording = with_tracks(
        Track("host", None, 9, "MainThread", rank=1),
        Track("stages", 0, 9, "MainThread", rank=1),
        Track("layers", 1, 5, "MainThread", rank=0),
        Track("stages", 1, 5, "MainThread", rank=0),
        Track("stages", 0, 6, "worker", rank=0),
        Track("stages", 0, 5, "MainThread", rank=0),
        Track("spans", None, 5, "MainThread", rank=0),
        Track("host", None, 5, "MainThread", rank=0),
    )
    assert titles(recording) == [
        "rank 0 · tiny / GPU 0 · worker",
        "rank 0 · tiny / GPU 0 · worker · Stages",
        "rank 0 · tiny / GPU 0 · MainThread",
        "rank 0 · tiny / GPU 0 · MainThread · Stages",
        "rank 0 · tiny / GPU 1",
        "rank 0 · tiny / GPU 1 · Stages",
        "rank 0 · tiny / GPU 1 · Layers",
        "rank 0 · tiny / CPU",
        "rank 0 · tiny / CPU · Spans",
        "rank 0 · tiny / Host: MainThread",
        "rank 1 · tiny / GPU 0",
        "rank 1 · tiny / GPU 0 · Stages",
        "rank 1 · tiny / Host: MainThread",
        "rank 0 · tiny / ! nothing-recorded",
        "rank 0 · tiny / Recording",
    ]


def test_rows_of_the_same_name_are_told_apart() -> None:
    track = Track("spans", None, 5, "MainThread")
    assert titles(with_tracks(track, track))[1:3] == [
        "tiny · host clock / CPU · Spans",
        "tiny · host clock / CPU · Spans 2",
    ]


def test_a_recording_of_the_host_clock_says_so_and_has_no_launches() -> None:
    recording = synthetic.recording(device=None)
    layout = layout_of(recording)
    assert [process.title for process in layout.processes] == ["tiny · host clock"]
    assert len(layout.launches) == 0
    assert not any(one.arrives or one.leaves or one.derived for one in slices(recording, layout))


def test_a_generation_is_titled_with_its_tokens_and_its_role() -> None:
    recording = synthetic.recording(Shape(role=synthetic.WARMED), Shape(role=synthetic.COLD), Shape())
    generations = list(recording.generations)
    generations[2] = replace(generations[2], inputs={}, error="KeyboardInterrupt")
    recording = replace(recording, generations=tuple(generations))
    found = [one.title for one in slices(recording, layout_of(recording)) if one.title.startswith("generate")]
    assert [title for title in found if "launches" not in title] == [
        "generate #0 64 img / 100 → 5 (warm-up)",
        "generate #1 64 img / 100 → 5 (cold)",
        "generate #2 → 5 (incomplete)",
    ]
    assert "generate #2 → launches" in found


def test_a_launch_that_cuts_across_a_host_span_goes_to_a_lane_of_its_own() -> None:
    builder = SpansBuilder()
    builder.add(NewSpan(names.WAIT, 1, (ORIGIN + 5, ORIGIN + 15)))
    builder.add(NewSpan(names.VISION, 0, (ORIGIN + 20, ORIGIN + 30), (ORIGIN, ORIGIN + 10)))
    builder.add(NewSpan(names.PREFILL, 0, (ORIGIN + 30, ORIGIN + 40), (ORIGIN + 6, ORIGIN + 9)))
    tracks = (Track("stages", 0, 5, "MainThread"), Track("host", None, 5, "MainThread"))
    recording = replace(with_tracks(*tracks), spans=builder.freeze()[0])
    assert lanes(recording) == {names.VISION: 1, names.PREFILL: 0}
    assert "tiny / Host: MainThread, launches" in titles(recording)


def test_a_launch_that_outlives_the_host_span_it_began_in_goes_to_a_lane_of_its_own() -> None:
    builder = SpansBuilder()
    builder.add(NewSpan(names.WAIT, 1, (ORIGIN, ORIGIN + 10)))
    builder.add(NewSpan(names.VISION, 0, (ORIGIN + 20, ORIGIN + 30), (ORIGIN + 5, ORIGIN + 15)))
    tracks = (Track("stages", 0, 5, "MainThread"), Track("host", None, 5, "MainThread"))
    recording = replace(with_tracks(*tracks), spans=builder.freeze()[0])
    assert lanes(recording) == {names.VISION: 1}


def test_launches_of_a_thread_without_host_spans_have_a_row() -> None:
    builder = SpansBuilder()
    builder.add(NewSpan(names.VISION, 0, (ORIGIN + 20, ORIGIN + 30), (ORIGIN, ORIGIN + 10)))
    recording = replace(with_tracks(Track("stages", 0, 5, "MainThread")), spans=builder.freeze()[0])
    assert "tiny / Host: MainThread" in titles(recording)


@drawn
@given(recording=recordings())
def test_slices_of_one_row_nest_or_lie_apart_and_close_inner_first(recording: Recording) -> None:
    layout = layout_of(recording)
    open_slices: defaultdict[int, list[object]] = defaultdict(list)
    at = None
    count = 0
    drawn_slices = Slices(recording, layout)
    for item in closing(drawn_slices):
        ends = item < 0
        one = drawn_slices[~item if ends else item]
        time = one.end if ends else one.begin
        assert at is None or time >= at
        at = time
        if ends:
            assert open_slices[one.row].pop() == one
        else:
            open_slices[one.row].append(one)
        count += not ends
    assert not any(open_slices.values())
    assert count == len(recording.spans) + len(layout.launches)


@drawn
@given(recording=recordings())
def test_every_track_and_counter_has_one_row_under_its_group(recording: Recording) -> None:
    layout = layout_of(recording)
    assert sorted(layout.of_track) == list(range(len(recording.tracks)))
    assert sorted(layout.of_counter) == list(range(len(recording.counters)))
    assert len({(row.process, row.group, row.title) for row in layout.rows}) == len(layout.rows)
    for number, row in enumerate(layout.rows):
        assert row.number == number
        assert row.group is None or (row.group < number and layout.rows[row.group].kind == GROUP)


def test_counters_are_shown_with_the_rank_that_knows_their_device() -> None:
    tracks = (
        Track("generations", 0, 5, "MainThread", rank=0),
        Track("generations", 1, 6, "MainThread", rank=1),
    )
    kinds = [("lead", 1), ("heat", 7), ("kv", 0)]
    counters = tuple(
        Counter(name, "", device, *(type(synthetic.recording().spans.begin)("q"),) * 2) for name, device in kinds
    )
    layout = layout_of(replace(with_tracks(*tracks), counters=counters))
    shown = [(row.process, row.title) for row in layout.rows if row.kind in COUNTERS]
    assert shown == [
        (0, "tokens"),
        (0, "lead"),
        (0, "GPU 0 kv"),
        (1, "tokens"),
        (1, "lead"),
        (1, "GPU 1 lead"),
        (1, "GPU 7 heat"),
    ]


def test_tokens_are_counted_for_each_generation_anew() -> None:
    recording = synthetic.recording(Shape(steps=1), Shape(steps=0))
    tokens, *_ = series(recording, layout_of(recording))
    begins = [recording.generate_span(generation).begin for generation in recording.generations]
    marks = [span.begin for span in recording.spans.named(names.TOKEN)]
    assert list(tokens.times) == [begins[0], *marks[:2], begins[1], marks[2]]
    assert list(tokens.values) == [0, 1, 2, 0, 1]
    assert marks[2] > begins[1] + MS


def test_latencies_are_what_lies_between_the_token_marks_of_one_generation() -> None:
    recording = synthetic.recording(Shape(steps=3, gap=1_000_700), Shape(steps=1))
    found = {one.row.title: one for one in series(recording, layout_of(recording))}
    marks = [[span.end for span in recording.spans.named(names.TOKEN) if span.generation == at] for at in (0, 1)]
    begins = [recording.generate_span(one).begin for one in recording.generations]
    assert list(found["ITL"].times) == [begins[0], *marks[0][1:], begins[1], *marks[1][1:]]
    waits = [[round((end - before) / 1_000) for before, end in pairwise(own)] for own in marks]
    assert list(found["ITL"].values) == [0, *waits[0], 0, *waits[1]]
    assert found["ITL"].row.unit == "µs"


def test_where_no_second_token_came_there_is_no_latency() -> None:
    recording = synthetic.recording(Shape(steps=0), Shape(steps=0))
    assert [row.title for row in layout_of(recording).rows if row.kind in COUNTERS] == ["tokens", "lead"]


def leads(recording: Recording) -> dict[str, list[tuple[int, int]]]:
    found = (one for one in series(recording, layout_of(recording)) if one.row.kind == LEAD)
    return {one.row.title: list(zip(one.times, one.values, strict=True)) for one in found}


def test_the_lead_is_sampled_once_at_each_mark_of_a_stage_in_whole_microseconds() -> None:
    recording = synthetic.recording(Shape(steps=1, lead=200_700, late=3 * US))
    stages = (names.GENERATE, names.VISION, names.PREFILL, names.STEP)
    generate, vision, prefill, step = (next(recording.spans.named(name)) for name in stages)
    assert leads(recording)["lead"] == [
        (generate.begin, 5),
        (vision.begin, 100),
        (vision.end, 201),
        (prefill.begin, 100),
        (prefill.end, 201),
        (step.begin, 100),  # shared with the decode's
        (step.end, 201),
        (generate.end, 8),
    ]


def test_the_hosts_clock_has_no_lead() -> None:
    assert leads(synthetic.recording(device=None)) == {}


def test_each_thread_and_device_has_a_lead_of_its_own() -> None:
    builder = SpansBuilder()
    for track in range(3):
        begin = ORIGIN + track * MS
        builder.add(NewSpan(names.GENERATE, track, (begin, begin + MS), (begin - (track + 1) * US, begin + MS)))
    tracks = (
        Track("generations", 0, 5, "MainThread"),
        Track("generations", 1, 5, "MainThread"),
        Track("generations", 0, 6, "worker"),
    )
    recording = replace(with_tracks(*tracks), spans=builder.freeze()[0])
    assert {title: samples[0][1] for title, samples in leads(recording).items()} == {
        "lead · GPU 0 · MainThread": 1,
        "lead · GPU 1 · MainThread": 2,
        "lead · GPU 0 · worker": 3,
    }


@drawn
@given(recording=recordings())
def test_leads_are_in_time_order_and_within_a_microsecond_of_a_marks(recording: Recording) -> None:
    spans = recording.spans
    marks = {(span.begin, span.begin - span.host_begin) for span in spans} | {(s.end, s.lead_end) for s in spans}
    for samples in leads(recording).values():
        assert [time for time, _ in samples] == sorted(time for time, _ in samples)
        assert all(any(at == time and abs(ns - 1_000 * lead) <= 500 for at, ns in marks) for time, lead in samples)

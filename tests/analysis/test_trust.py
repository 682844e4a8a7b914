"""How far the times of a device can be believed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.analysis.altered import with_generation
from tests.analysis.test_clocks import with_clocks
from tests.synthetic import MS, ORIGIN, US, Shape, recording
from vlmtrace.analysis.findings import Finding, Slug
from vlmtrace.analysis.summary import summarise
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording, Track
from vlmtrace.timeline.spans import NewSpan, SpansBuilder

QUEUED = Shape(lead=8 * MS)


def found(made: Recording) -> dict[Slug, Finding]:
    return {finding.slug: finding for finding in summarise(made).findings}


def test_a_device_that_has_work_left_at_the_return_is_told_with_its_generations() -> None:
    finding = found(recording(*[QUEUED] * 4, replace(QUEUED, late=1_200 * US)))[Slug.WALL_MISMATCH]
    assert finding.evidence == (
        "host wall − device is beyond the clock's bound + 50 µs in 1 of 5 generations: #4 −1.20 ms"
    )
    assert "when generate() returned" in finding.remedy


def test_a_device_that_had_work_before_the_entry_is_told_with_another_remedy() -> None:
    made = recording(*[replace(QUEUED, late=-2 * MS)] * 5)
    finding = found(made)[Slug.WALL_MISMATCH]
    assert "in 5 of 5 generations: #0 +2.00 ms, #1 +2.00 ms, #2 +2.00 ms and 2 more" in finding.evidence
    assert "before generate()" in finding.remedy


@pytest.mark.parametrize(("late", "told"), [(55 * US, False), (55 * US + 1, True), (-55 * US, False)])
def test_the_wall_may_differ_by_the_bound_and_50_microseconds(late: int, told: bool) -> None:
    assert (Slug.WALL_MISMATCH in found(recording(replace(QUEUED, late=late)))) is told


def test_a_bound_of_more_than_a_quarter_of_a_stage_is_wide() -> None:
    made = recording(*[QUEUED] * 5)
    wide = with_clocks(made, *[{"bound_ns": 2_500 * US + 5}] * 5)
    finding = found(wide)[Slug.WIDE_CLOCK]
    assert finding.evidence.startswith("the clock's bound (up to ± 2.5 ms) is 25 % of decode.step:")
    assert Slug.WIDE_CLOCK not in found(with_clocks(made, *[{"bound_ns": 2_500 * US}] * 5))


def test_a_widened_clock_is_told_with_its_worst_generation() -> None:
    made = with_clocks(recording(QUEUED, QUEUED, QUEUED), {"widened_ns": 3}, {}, {"widened_ns": 3_100})
    finding = found(made)[Slug.CLOCK_WIDENED]
    assert "in 2 of 3 generations, by 3.1 µs in #2" in finding.evidence


def test_a_clock_that_was_widened_for_what_is_not_counted_is_not_told() -> None:
    made = with_clocks(recording(QUEUED, QUEUED), {"widened_ns": 3}, {})
    assert Slug.CLOCK_WIDENED not in found(with_generation(made, 0, error="boom"))


def at_once(*tracks: Track, apart: int = 0) -> Recording:
    """One generation of 10 ms on each track, each begun 5 ms (and ``apart``) after the one before."""
    base = recording(*[Shape()] * len(tracks))
    builder = SpansBuilder()
    for index, _ in enumerate(tracks):
        begin = ORIGIN + index * (5 * MS + apart)
        root = builder.add(NewSpan(names.GENERATE, index, (begin, begin + 10 * MS), generation=index))
        builder.add(NewSpan(names.OTHER_SETUP, index, (begin, begin + 10 * MS), parent=root, generation=index))
    spans, _ = builder.freeze()
    rows = [span.row for span in spans.named(names.GENERATE)]
    generations = tuple(replace(one, span=row) for one, row in zip(base.generations, rows, strict=True))
    return replace(base, spans=spans, tracks=tracks, generations=generations)


MAIN, WORKER = Track("generations", 0, 1, "MainThread"), Track("generations", 0, 2, "worker")


def test_threads_that_generate_on_one_gpu_at_once_are_named() -> None:
    finding = found(at_once(MAIN, WORKER))[Slug.SHARED_STREAM]
    assert "2 counted generations shared a GPU" in finding.evidence
    assert "#0 (MainThread) and #1 (worker) overlap on GPU 0" in finding.evidence


@pytest.mark.parametrize(
    "tracks",
    [
        (MAIN, replace(WORKER, device=1)),
        (MAIN, replace(WORKER, rank=1)),
        (replace(MAIN, device=None), replace(WORKER, device=None)),
    ],
)
def test_what_runs_elsewhere_is_not_shared(tracks: tuple[Track, Track]) -> None:
    assert Slug.SHARED_STREAM not in found(at_once(*tracks))


def test_one_thread_after_the_other_shares_nothing() -> None:
    assert Slug.SHARED_STREAM not in found(at_once(MAIN, WORKER, apart=5 * MS))


def test_a_long_generation_is_held_against_every_later_one() -> None:
    made = at_once(WORKER, MAIN, MAIN, apart=-4 * MS)
    assert "3 counted generations" in found(made)[Slug.SHARED_STREAM].evidence


def test_a_good_device_is_trusted() -> None:
    assert found(recording(*[QUEUED] * 6)) == {}

"""Work that was done again, or that holds up the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.analysis.altered import rebuilt, with_inputs
from tests.synthetic import MS, Shape, recording
from vlmtrace.analysis.findings import Finding, Slug
from vlmtrace.analysis.summary import summarise
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Json, Recording
from vlmtrace.timeline.spans import NewSpan, Span

QUEUED = Shape(lead=8 * MS)


def found(made: Recording) -> dict[Slug, Finding]:
    return {finding.slug: finding for finding in summarise(made).findings}


def within(made: Recording, home: Span, begin: int) -> NewSpan:
    """A vision of 1 ms inside the span ``home``, ``begin`` ns after its begin."""
    stages = [track.kind for track in made.tracks].index("stages")
    at = (home.begin + begin, home.begin + begin + MS)
    return NewSpan(names.VISION, stages, at, parent=home.row, generation=home.generation)


def with_vision_in_steps(made: Recording) -> Recording:
    return rebuilt(made, more=tuple(within(made, step, 0) for step in made.spans.named(names.STEP)))


def with_more_visions(count: int, **inputs: Json) -> Recording:
    """Five generations with so many visions in each prefill, beside the one before it."""
    made = recording(*[QUEUED] * 5)
    more = [within(made, prefill, 2 * at * MS) for prefill in made.spans.named(names.PREFILL) for at in range(count)]
    return with_inputs(rebuilt(made, more=tuple(more)), **inputs)


def test_a_vision_in_every_step_is_repeated_and_recomputes_the_prefill() -> None:
    findings = found(with_vision_in_steps(recording(*[QUEUED] * 5)))
    repeated, recomputed = findings[Slug.VISION_REPEATED], findings[Slug.PREFILL_RECOMPUTED]
    assert repeated.evidence == "vision ran 20 times inside 20 decode steps (generation #0)"
    assert recomputed.evidence.startswith("no cache in 5 of 5 generations")
    assert "(step p50 10 ms, prefill p50 20 ms)" in recomputed.evidence
    assert repeated.remedy == recomputed.remedy == "keep the cache on (use_cache=True)"


def test_more_visions_than_images_are_repeated() -> None:
    finding = found(with_more_visions(2, images=2))[Slug.VISION_REPEATED]
    assert finding.evidence == "vision ran 3 times for 2 images (generation #0)"


@pytest.mark.parametrize(
    "inputs",
    [
        {"images": 3},
        {},  # nobody knows how many images there were
        {"images": 1, "shapes": {"pixel_values_videos": [1, 4, 3, 8, 8]}},
        {"images": 1, "shapes": {"pixel_values": [1, 3, 3, 8, 8]}},  # three tiles
    ],
)
def test_visions_that_images_or_videos_may_explain_are_not_repeated(inputs: dict[str, Json]) -> None:
    assert Slug.VISION_REPEATED not in found(with_more_visions(2, **inputs))


def test_a_projector_that_runs_apart_from_its_encoder_looks_at_nothing_again() -> None:
    made = recording(*[QUEUED] * 5)
    looks = [replace(within(made, span, 0), args={"encoder_ns": MS}) for span in made.spans.named(names.PREFILL)]
    projects = [within(made, span, 2 * MS) for span in made.spans.named(names.PREFILL)]
    assert Slug.VISION_REPEATED not in found(with_inputs(rebuilt(made, more=(*looks, *projects)), images=1))


@pytest.mark.parametrize("vision_inside", [False, True])
def test_one_vision_for_one_image_is_as_it_should_be(vision_inside: bool) -> None:
    assert found(recording(*[replace(QUEUED, vision_inside=vision_inside)] * 5)) == {}


def test_inputs_or_workload_that_turn_the_cache_off_recompute_the_prefill() -> None:
    made = recording(*[QUEUED] * 5)
    for without in (with_inputs(made, use_cache=False), replace(made, workload={"use_cache": False})):
        assert "no cache in 5 of 5 generations" in found(without)[Slug.PREFILL_RECOMPUTED].evidence
    assert Slug.PREFILL_RECOMPUTED not in found(with_inputs(made, use_cache=True))


def test_without_a_step_nothing_is_recomputed() -> None:
    made = with_inputs(recording(*[replace(QUEUED, steps=0)] * 5), use_cache=False)
    assert Slug.PREFILL_RECOMPUTED not in found(made)


def test_slow_steps_alone_prove_no_missing_cache() -> None:
    assert Slug.PREFILL_RECOMPUTED not in found(recording(*[replace(QUEUED, step=QUEUED.prefill)] * 5))


@pytest.mark.parametrize("device", [0, None])
def test_preprocessing_longer_than_vision_is_slow(device: int | None) -> None:
    finding = found(recording(*[Shape(vision=4 * MS)] * 5, device=device))[Slug.SLOW_PREPROCESSING]
    assert finding.evidence == "preprocess p50 5 ms is longer than vision p50 4 ms"


def test_preprocessing_as_long_as_vision_is_not_slow() -> None:
    assert Slug.SLOW_PREPROCESSING not in found(recording(*[Shape(vision=5 * MS)] * 5))

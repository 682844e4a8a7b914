"""Reasons to distrust or act on a number."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.analysis.altered import rebuilt, with_generation, with_inputs
from tests.synthetic import COLD, MS, Shape, recording
from vlmtrace.analysis.findings import Finding, Slug
from vlmtrace.analysis.summary import summarise
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import FoundStage, Recording, SyncSite

FIVE = (Shape(lead=8 * MS),) * 5


def found(made: Recording) -> dict[Slug, Finding]:
    return {finding.slug: finding for finding in summarise(made).findings}


def blind(made: Recording) -> Recording:
    """The same without its vision, as a model might run that nobody knows how to look into."""
    renamed = {names.VISION: names.OTHER_SETUP}
    spans = made.spans
    strings = tuple(renamed.get(text, text) for text in spans.strings)
    return replace(made, spans=replace(spans, strings=strings))


def test_a_good_recording_has_no_findings() -> None:
    assert found(recording(*FIVE)) == {}


def test_fewer_than_five_timed_generations_are_few() -> None:
    finding = found(recording(*FIVE[:4]))[Slug.FEW_REPEATS]
    assert finding.evidence.startswith("4 generations counted")
    assert "--repeats" in finding.remedy


def test_warm_up_does_not_make_up_for_few_repeats() -> None:
    assert Slug.FEW_REPEATS in found(recording(*FIVE[:4], Shape(role=COLD)))


def test_a_decode_that_waits_for_the_host_is_told_with_its_steps() -> None:
    finding = found(recording(*(Shape(lead=0),) * 5))[Slug.HOST_BOUND_DECODE]
    assert "20 of 20 steps" in finding.evidence
    assert finding.remedy == "try --cache static"


def test_a_compiled_decode_is_not_told_to_compile() -> None:
    made = recording(*(Shape(lead=0),) * 5)
    for index in range(5):
        made = with_generation(made, index, mode="compiled")
    assert found(made)[Slug.HOST_BOUND_DECODE].remedy == "try a larger --batch"


def test_the_host_clock_gives_no_launch_finding() -> None:
    assert found(recording(*FIVE, device=None)) == {}


def test_generations_of_one_token_are_told() -> None:
    finding = found(recording(*FIVE, Shape(steps=0)))[Slug.ONE_TOKEN_OUTPUT]
    assert "1 of 6 generations" in finding.evidence


def test_a_generation_that_broke_off_is_told_with_its_reason() -> None:
    made = with_generation(recording(*FIVE, Shape()), 5, error="RuntimeError: boom")
    finding = found(made)[Slug.INCOMPLETE]
    assert finding.evidence == "1 generation left out: RuntimeError: boom"


def test_a_recording_that_ended_early_between_generations_is_told() -> None:
    finding = found(replace(recording(*FIVE), incomplete="interrupted"))[Slug.INCOMPLETE]
    assert finding.evidence == "the recording ended early: interrupted"


def test_a_part_found_by_its_name_alone_is_told() -> None:
    made = recording(*FIVE)
    guess = FoundStage(names.PROJECTOR, "model.bridge", "named like one", guess=True)
    model = replace(made.models[0], stages=(*made.models[0].stages, guess))
    finding = found(replace(made, models=(model,)))[Slug.GUESSED_STAGE]
    assert "'model.bridge'" in finding.evidence
    assert finding.remedy == "confirm with --stage vision.projector=PATH"


def test_images_without_a_vision_stage_ask_for_its_name() -> None:
    finding = found(blind(recording(*FIVE)))[Slug.NO_VISION]
    assert "--stage vision=" in finding.remedy


def test_text_alone_is_said_to_be_text_alone() -> None:
    finding = found(with_inputs(blind(recording(*FIVE)), batch=1))[Slug.NO_VISION]
    assert "no image went in" in finding.evidence


def test_a_model_without_a_vision_part_is_not_asked_for_an_image() -> None:
    made = with_inputs(blind(recording(*FIVE)), batch=1)
    model = replace(made.models[0], class_name="LlamaForCausalLM", stages=())
    finding = found(replace(made, models=(model,)))[Slug.NO_VISION]
    assert "none was found in LlamaForCausalLM" in finding.evidence
    assert "--stage vision=" in finding.remedy


@pytest.mark.parametrize(
    "name",
    ["pixel_values", "pixel_values_videos", "image_pixel_values", "image_patches", "flattened_patches", "images"],
)
def test_pixels_that_nobody_can_count_went_in_all_the_same(name: str) -> None:
    made = with_inputs(blind(recording(*FIVE)), batch=1, shapes={"input_ids": [1, 8], name: [1, 8, 12]})
    assert "images went in" in found(made)[Slug.NO_VISION].evidence


@pytest.mark.parametrize("name", ["image_embeds_position_mask", "cross_attention_mask", "mm_token_type_ids"])
def test_what_only_tells_where_images_would_be_is_no_image(name: str) -> None:
    made = with_inputs(blind(recording(*FIVE)), batch=1, shapes={"input_ids": [1, 8], name: [1, 8]})
    assert "no image went in" in found(made)[Slug.NO_VISION].evidence


def test_models_counted_together_are_told() -> None:
    made = recording(*FIVE)
    made = with_generation(replace(made, models=made.models * 2), 3, model=1)
    assert "2 models" in found(made)[Slug.SEVERAL_MODELS].evidence


def test_a_synchronisation_in_a_stage_is_told_with_its_line_and_count_per_generation() -> None:
    sites = (
        SyncSite("a/tower.py", 7, "Tower.forward", names.ENCODER, 20),
        SyncSite("a/model.py", 9, "Model.merge", names.MERGE, 4),
        SyncSite("a/model.py", 1, "Model.join", names.VISION, 3),
    )
    finding = found(replace(recording(*FIVE), syncs=sites, audited=2))[Slug.SYNC_IN_STAGE]
    assert "11.5 times in vision, 2 times in prefill per generation" in finding.evidence
    assert "a/tower.py:7 (Tower.forward)" in finding.evidence


def test_the_synchronisations_between_stages_are_no_finding() -> None:
    between = tuple(SyncSite("a/model.py", 9, "sample", stage, 4) for stage in (names.GAP, *names.OTHER_PARTS))
    assert found(replace(recording(*FIVE), syncs=between, audited=1)) == {}


def test_findings_come_in_the_order_of_their_list() -> None:
    made = recording(Shape(steps=0), Shape(lead=0))
    made = replace(rebuilt(made), incomplete="interrupted")
    order = list(Slug)
    slugs = [finding.slug for finding in summarise(made).findings]
    assert len(slugs) > 2
    assert slugs == sorted(slugs, key=order.index)


def compiled(made: Recording) -> Recording:
    return replace(made, generations=tuple(replace(g, mode="compiled") for g in made.generations))


def test_finer_detail_of_compiled_steps_is_not_separable() -> None:
    assert Slug.NOT_SEPARABLE not in found(compiled(recording(*FIVE, detail="stage")))
    evidence = found(compiled(recording(*FIVE, detail="layer")))[Slug.NOT_SEPARABLE].evidence
    assert evidence.startswith("layers and head of the compiled steps ran inside compiled code in 5 of 5 generations")


def test_a_vision_inside_compiled_code_is_told_as_that_and_not_as_missing() -> None:
    made = found(compiled(blind(recording(*FIVE, detail="stage"))))
    assert made[Slug.NOT_SEPARABLE].evidence.startswith("vision ran inside compiled code")
    assert Slug.NO_VISION not in made


@pytest.mark.parametrize(
    ("version", "told"),
    [("5.0.0", False), ("5.23.1", False), ("5.24.0.dev0", True), ("4.57.1", True), ("6.0", True), (None, False)],
)
def test_a_transformers_version_outside_of_what_is_tested_is_told(version: str | None, told: bool) -> None:
    made = replace(recording(*[Shape()] * 5), environment={"transformers": version})
    assert (Slug.UNTESTED_VERSION in found(made)) == told

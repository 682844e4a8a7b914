"""Words alone, several images, videos and batches: vision is told where something saw them, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest
import torch

import vlmtrace
from tests.conformance.check import check
from tests.tiny.models import (
    NEEDS_IMAGE,
    TinyModel,
    build,
    build_text,
    buildable,
    twice,
    with_images,
    with_video,
    without_image,
)
from vlmtrace.timeline import names

pytestmark = pytest.mark.conformance

OWN_PROMPTS: Final = frozenset(
    ("blip", "gemma4", "gemma4_unified", "git", "granite_docling", "idefics", "instructblip", "kosmos-2", "kosmos-2.5",
     "lfm2_vl", "minicpm_ocr", "minicpmv4_6", "minicpmv4_7", "mllama", "molmo2", "molmo_layout", "nemotron_h_omni",
     "phi4_multimodal", "pix2struct", "pp_formulanet", "t5gemma2", "udop", "video_llama_3", "vision-encoder-decoder")
)  # fmt: skip
"""Types that take one image, or several in another form than one after another."""
VIDEO: Final = (
    "cohere_compass", "cosmos3_edge", "cosmos3_omni", "dots3_note", "exaone4_5", "hyperclovax_vision_v2", "kimi_k25",
    "lfm3_vl", "minimax_m3_vl", "muse_glimmer", "muse_spark", "qwen2_5_omni", "qwen2_5_omni_thinker", "qwen2_5_vl",
    "qwen2_vl", "qwen3_5", "qwen3_5_moe", "qwen3_omni_moe", "qwen3_omni_moe_thinker", "qwen3_vl", "qwen3_vl_moe",
    "qwen4_exp", "video_llama_3",
)  # fmt: skip
"""Types that take a video as they take an image."""
LANGUAGE: Final = (
    "bart", "bloom", "falcon", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "gpt_oss", "llama", "mamba", "mistral",
    "mixtral", "olmo2", "opt", "phi3", "qwen2", "qwen3", "qwen3_moe",
)  # fmt: skip


def known(*types: str) -> list[str]:
    return sorted({*types} & {*buildable()})


def assert_seen(tiny: TinyModel) -> None:
    """All is told as it ran, and something saw what was given."""
    verdicts = check(tiny)
    assert verdicts.problems == ()
    assert (verdicts.tokens, verdicts.vision) == ("right", "right")
    assert verdicts.encoder in ("right", "guess")


@pytest.mark.parametrize("model_type", sorted(set(buildable()) - NEEDS_IMAGE))
def test_words_alone_have_no_vision(model_type: str) -> None:
    verdicts = check(without_image(build(model_type)))
    assert verdicts.problems == ()
    assert (verdicts.vision, verdicts.encoder, verdicts.projector) == ("none", "none", "none")


@pytest.mark.parametrize("model_type", sorted(set(buildable()) - OWN_PROMPTS))
def test_two_images_in_one_prompt_are_seen(model_type: str) -> None:
    assert_seen(with_images(build(model_type), 2))


@pytest.mark.parametrize("beside_image", [False, True], ids=["alone", "behind an image"])
@pytest.mark.parametrize("model_type", known(*VIDEO))
def test_a_video_is_vision_as_an_image_is(model_type: str, beside_image: bool) -> None:
    assert_seen(with_video(build(model_type), beside_image=beside_image))


@pytest.mark.parametrize(
    ("model_type", "places"), [("llava_onevision", 9), ("llava_next_video", 8), ("video_llava", 34)]
)
def test_a_video_of_frames_is_vision_as_an_image_is(model_type: str, places: int) -> None:
    tiny = build(model_type)
    config = tiny.model.config
    video = getattr(config, "video_token_id", None) or config.video_token_index
    ids = torch.tensor([[5, 6, *[video] * places, 7, 8]])
    frames = {"pixel_values_videos": torch.randn(1, 2, 3, 32, 32)}
    assert_seen(replace(tiny, inputs={"input_ids": ids, "attention_mask": torch.ones_like(ids), **frames}))


@pytest.mark.parametrize(
    "model_type",
    known("blip-2", "fuyu", "gemma3", "idefics3", "instructblip", "kosmos-2", "llava", "mllama", "molmo_layout",
          "pix2struct", "qwen2_5_vl", "qwen3_vl", "vision-encoder-decoder"),
)  # fmt: skip
def test_a_batch_is_seen_at_once_and_counts_the_tokens_of_each(model_type: str) -> None:
    assert_seen(twice(build(model_type)))


@pytest.mark.parametrize("model_type", LANGUAGE)
def test_a_language_model_has_every_stage_but_vision(model_type: str) -> None:
    verdicts = check(build_text(model_type))
    assert verdicts.problems == ()
    assert (verdicts.tokens, verdicts.stages, verdicts.layers, verdicts.lm_head) == ("right",) * 4
    assert (verdicts.vision, verdicts.encoder, verdicts.projector) == ("none", "none", "none")


def test_a_tower_that_was_never_made_is_told() -> None:
    tiny = build("gemma4")
    tiny.model.model.vision_tower = tiny.model.model.embed_vision = None
    blind = without_image(tiny)
    with vlmtrace.trace(tiny.model) as session:
        blind.generate(4)
    (model,) = session.recording.models
    assert not any(part.stage in (names.ENCODER, names.PROJECTOR) for part in model.stages)
    assert "model.vision_tower is None" in model.notes


def test_a_later_turn_has_the_image_in_its_cache_and_no_vision() -> None:
    tiny = build("llava")
    with vlmtrace.trace(tiny.model) as session:
        first = tiny.model.generate(**tiny.inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
        ids = torch.cat([first.sequences, torch.tensor([[9, 10]])], dim=1)
        tiny.model.generate(ids, past_key_values=first.past_key_values, max_new_tokens=4, do_sample=False)
    spans = session.recording.spans
    assert [span.generation for span in spans.named(names.VISION)] == [0]
    assert [span.generation for span in spans.named(names.PREFILL)] == [0, 1]

"""Words alone, several images and videos: vision is told where something saw them, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.conformance.check import check
from tests.tiny.models import NEEDS_IMAGE, build, buildable, with_images, without_image

pytestmark = pytest.mark.conformance


@pytest.mark.parametrize("model_type", sorted(set(buildable()) - NEEDS_IMAGE))
def test_words_alone_have_no_vision(model_type: str) -> None:
    verdicts = check(without_image(build(model_type)))
    assert verdicts.problems == ()
    assert (verdicts.vision, verdicts.encoder, verdicts.projector) == ("none", "none", "none")


@pytest.mark.parametrize(
    "model_type", ["llava", "qwen2_5_vl", "qwen3_vl", "gemma3", "internvl", "idefics3", "llama4", "glm4v", "paligemma"]
)
def test_two_images_in_one_prompt_are_one_vision(model_type: str) -> None:
    verdicts = check(with_images(build(model_type), 2))
    assert verdicts.problems == ()
    assert (verdicts.vision, verdicts.encoder, verdicts.projector) == ("right", "right", "right")


@pytest.mark.parametrize(
    ("model_type", "places"),
    [("qwen2_vl", 4), ("qwen2_5_vl", 4), ("llava_onevision", 9), ("llava_next_video", 8), ("video_llava", 34)],
)
def test_a_video_is_vision_as_an_image_is(model_type: str, places: int) -> None:
    tiny = build(model_type)
    config = tiny.model.config
    video = getattr(config, "video_token_id", None) or config.video_token_index
    ids = torch.tensor([[5, 6, *[video] * places, 7, 8]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": torch.randn(1, 2, 3, 32, 32),
    }
    if "image_grid_thw" in tiny.inputs:
        inputs["pixel_values_videos"] = tiny.inputs["pixel_values"]
        inputs["video_grid_thw"] = tiny.inputs["image_grid_thw"]
        inputs["mm_token_type_ids"] = 2 * (ids == video).long()
    verdicts = check(replace(tiny, inputs=inputs))
    assert verdicts.problems == ()
    assert (verdicts.vision, verdicts.encoder, verdicts.projector) == ("right", "right", "right")

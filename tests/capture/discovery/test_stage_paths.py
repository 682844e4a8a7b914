"""Stage paths: what ``--stage NAME=MODULE.PATH`` replaces, and what a wrong one says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.capture.discovery.expected_parts import found_in
from tests.models import build
from vlmtrace.capture.discovery.search import discover
from vlmtrace.errors import UsageError
from vlmtrace.timeline import names


def test_a_given_vision_path_takes_the_encoders_place_and_feature_methods_stay() -> None:
    model = build("llava").model
    anatomy = discover(model, {"vision": ("model.vision_tower.encoder",)})
    (encoder,) = anatomy.encoders
    assert (encoder.path, encoder.how, encoder.guess) == ("model.vision_tower.encoder", "--stage", False)
    assert [found.method for found in anatomy.feature_methods] == ["get_image_features"]
    assert [part.path for part in anatomy.projectors] == ["model.multi_modal_projector"]
    assert anatomy.vision_layers[0].path == "model.vision_tower.encoder.layers.0"


def test_vision_and_vision_encoder_are_the_same_stage() -> None:
    model = build("molmo_layout").model
    path = ("model.vision_backbone.image_vit",)
    assert found_in(discover(model, {"vision": path})) == found_in(discover(model, {"vision.encoder": path}))


def test_a_given_vision_path_makes_a_vision_stage_where_no_feature_method_runs() -> None:
    anatomy = discover(build("molmo_layout").model, {"vision": ("model.vision_backbone",)})
    (vision,) = (found for found in anatomy.stages() if found.stage == names.VISION)
    assert (vision.path, vision.how, vision.guess) == ("model.vision_backbone", "their calls", False)


def test_a_given_projector_inside_the_encoder_is_an_inner_one() -> None:
    anatomy = discover(build("qwen2_vl").model, {"vision.projector": ("model.visual.merger.mlp",)})
    assert anatomy.projectors == ()
    assert [part.path for part in anatomy.inner_projectors] == ["model.visual.merger.mlp"]


def test_given_language_parts_take_the_place_of_thosefound_in() -> None:
    given = {
        "language_model": ("model.transformer",),
        "layer": ("model.transformer.blocks",),
        "lm_head": ("model.transformer.ln_f",),
    }
    anatomy = discover(build("molmo_layout").model, given)
    assert anatomy.language_model is not None
    assert anatomy.lm_head is not None
    assert (anatomy.language_model.path, anatomy.lm_head.path) == ("model.transformer", "model.transformer.ln_f")
    assert anatomy.entry is anatomy.layers[0]
    assert [part.path for part in anatomy.layers] == ["model.transformer.blocks.0", "model.transformer.blocks.1"]
    assert {part.how for part in (anatomy.language_model, anatomy.lm_head, *anatomy.layers)} == {"--stage"}


def test_a_vision_path_can_be_given_to_a_model_in_which_none_isfound_in() -> None:
    class Eyes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.retina, self.brain = nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2)])

    anatomy = discover(Eyes(), {"vision": ("retina",)})
    assert [part.path for part in anatomy.encoders] == ["retina"]
    assert not any("text-only" in note for note in anatomy.notes)


def test_a_wrong_stage_path_is_one_line_that_says_where_it_ends() -> None:
    with pytest.raises(UsageError) as caught:
        discover(build("llava").model, {"vision": ("model.vison_tower",)})
    message = str(caught.value)
    assert "\n" not in message
    assert "'model.vison_tower'" in message
    assert "'model' (LlavaModel) has no 'vison_tower'" in message
    assert "model.vision_tower" in message.split("nearest: ")[1]


@pytest.mark.parametrize(
    ("stage", "path", "message"),
    [
        (
            "eyes",
            "model",
            "--stage 'eyes' is no stage that can be set: "
            "choose from vision, vision.encoder, vision.projector, language_model, layer, lm_head",
        ),
        (
            "layer",
            "model.language_model.norm",
            "--stage layer=model.language_model.norm: a LlamaRMSNorm holds no numbered modules: "
            "name the list that holds the blocks",
        ),
        (
            "vision",
            "zzz",
            "--stage vision=zzz: no module 'zzz', LlavaForConditionalGeneration has no 'zzz': it holds: model, lm_head",
        ),
        (
            "lm_head",
            "",
            "--stage lm_head=: no module '', LlavaForConditionalGeneration has no '': it holds: model, lm_head",
        ),
    ],
)
def test_a_wrong_stage_is_one_line_with_what_to_do(stage: str, path: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        discover(build("llava").model, {stage: (path,)})
    assert str(caught.value) == message


def test_a_path_that_ends_in_a_leaf_says_that_it_holds_nothing() -> None:
    with pytest.raises(UsageError, match=r"'h' \(Linear\) has no 'retina': it holds: no modules"):
        discover(nn.ModuleDict({"h": nn.Linear(2, 2)}), {"vision": ("h.retina",)})


def test_one_language_model_can_be_given_and_no_more() -> None:
    with pytest.raises(UsageError, match="--stage language_model names 2 modules: name one"):
        discover(build("llava").model, {"language_model": ("model", "model.language_model")})


def test_a_given_list_stands_for_the_modules_in_it_since_a_list_is_never_called() -> None:
    anatomy = discover(build("qwen3_vl").model, {"vision.projector": ("model.visual.deepstack_merger_list",)})
    paths = [f"model.visual.deepstack_merger_list.{i}" for i in range(2)]
    assert [part.path for part in anatomy.inner_projectors] == paths


def test_several_vision_paths_are_all_encoders_in_the_order_given() -> None:
    given = ("model.vision_tower.encoder.layers.1", "model.vision_tower.embeddings")
    assert tuple(part.path for part in discover(build("llava").model, {"vision": given}).encoders) == given


def test_a_path_may_name_the_shells_that_torch_prints_and_is_shown_without_them() -> None:
    model = nn.ModuleDict({"tower": torch.compile(nn.Sequential(nn.Linear(2, 2)))})
    (encoder,) = discover(model, {"vision": ("tower._orig_mod.0",)}).encoders
    assert encoder.path == "tower.0"


@pytest.mark.parametrize(
    "path",
    [
        "module.model.vision_tower",
        "_orig_mod.module.model.vision_tower",
        "base_model.model.model.vision_tower",  # of a LoRA model
        "base_model.model.vision_tower",  # of a prompt-tuned one
    ],
)
def test_a_path_may_count_from_a_wrapper_that_generate_does_not_see(path: str) -> None:
    (encoder,) = discover(build("llava").model, {"vision": (path,)}).encoders
    assert encoder.path == "model.vision_tower"


def test_a_path_to_a_shared_module_is_shown_as_its_first_path() -> None:
    shared = nn.Linear(2, 2)
    (encoder,) = discover(nn.ModuleDict({"first": shared, "second": shared}), {"vision": ("second",)}).encoders
    assert encoder.path == "first"
    assert encoder.module is shared

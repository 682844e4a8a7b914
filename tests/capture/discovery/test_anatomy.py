"""The anatomy: what a person is told will be traced."""

from __future__ import annotations

import pytest
from torch import nn

from tests.models import build
from vlmtrace.capture.discovery.anatomy import Anatomy, Part
from vlmtrace.capture.discovery.search import discover
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import FoundStage


def _part(path: str, how: str = "found", *, guess: bool = False) -> Part:
    return Part(nn.Identity(), path, how, guess)


@pytest.mark.parametrize(
    ("paths", "shown"),
    [
        (["layers.0", "layers.1", "layers.2"], ["layers × 3"]),
        (["layers.0"], ["layers.0"]),
        (["a.layers.0", "a.layers.1", "b.layers.0", "b.layers.1"], ["a.layers × 2", "b.layers × 2"]),
        (["merger", "list.0", "list.1"], ["merger", "list × 2"]),
        (["list.0", "list.1", "list"], ["list × 2", "list"]),
        ([], []),
    ],
)
def test_numbered_siblings_are_one_entry(paths: list[str], shown: list[str]) -> None:
    stages = Anatomy(nn.Identity(), layers=tuple(map(_part, paths))).stages()
    assert [(found.stage, found.path) for found in stages] == [(names.LAYER, path) for path in shown]


def test_one_guess_makes_a_group_of_siblings_a_guess() -> None:
    (found,) = Anatomy(nn.Identity(), layers=(_part("h.0"), _part("h.1", guess=True))).stages()
    assert found == FoundStage(names.LAYER, "h × 2", "found", True)


def test_the_stages_of_a_qwen_model_stand_in_the_order_in_which_they_run() -> None:
    stages = discover(build("qwen2_vl").model).stages()
    assert [(found.stage, found.path) for found in stages] == [
        (names.VISION, "model.get_image_features"),
        (names.VISION, "model.get_video_features"),
        (names.ENCODER, "model.visual"),
        (names.VISION_LAYER, "model.visual.blocks × 2"),
        (names.PROJECTOR, "model.visual.merger"),
        (names.PREFILL, "generate"),
        (names.DECODE, "generate"),
        (names.LAYER, "model.language_model.layers × 2"),
        (names.LM_HEAD, "lm_head"),
    ]


def test_a_model_whose_generate_calls_no_feature_method_sees_through_its_encoder_and_projectors() -> None:
    stages = {found.stage: found for found in discover(build("blip-2").model).stages()}
    assert stages[names.VISION].path == "vision_model + qformer + language_projection"
    assert stages[names.VISION].how == "their calls"
    assert stages[names.PREFILL].path == stages[names.DECODE].path == "language_model.generate"


def test_the_entry_is_the_language_model_where_it_is_apart_and_else_its_first_block() -> None:
    root, block, core = nn.Identity(), _part("lm.h.0"), _part("lm")
    assert Anatomy(root, language_model=core, layers=(block,)).entry is core
    assert Anatomy(root, language_model=core, layers=(block,), encoders=(_part("lm.eyes"),)).entry is block
    assert Anatomy(root, language_model=Part(root, "", "found"), layers=(block,)).entry is block
    assert Anatomy(root, language_model=Part(nn.ModuleDict(), "lm", "found"), layers=(block,)).entry is block
    assert Anatomy(root).entry is None

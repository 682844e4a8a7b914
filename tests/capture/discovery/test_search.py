"""Discovery: expected parts of many model types, wrapped models, and models that are odd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from tests.capture.discovery.expected_parts import BARE, TINY, found_in, lists
from tests.models import NAMES, TEXT_ONLY, bare, build
from tests.tiny import models as tiny
from vlmtrace.capture.discovery.anatomy import Anatomy, Part
from vlmtrace.capture.discovery.search import discover
from vlmtrace.timeline import names


def _every_part(anatomy: Anatomy) -> list[Part]:
    single = [part for part in (anatomy.language_model, anatomy.lm_head) if part is not None]
    lists = (anatomy.encoders, anatomy.projectors, anatomy.inner_projectors, anatomy.layers, anatomy.vision_layers)
    return [*single, *anatomy.generating, *(part for parts in lists for part in parts)]


@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_model_has_the_parts_that_its_code_shows(name: str) -> None:
    assert found_in(discover(build(name).model)) == TINY[name]


@pytest.mark.parametrize("model_type", sorted(BARE))
def test_a_model_type_has_the_parts_that_its_code_shows(model_type: str) -> None:
    assert found_in(discover(bare(model_type))) == BARE[model_type]


@pytest.mark.parametrize("name", NAMES)
def test_every_part_is_the_module_at_its_path(name: str) -> None:
    anatomy = discover(build(name).model)
    for part in _every_part(anatomy):
        assert anatomy.root.get_submodule(part.path) is part.module
        assert part.how
    for found in anatomy.feature_methods:
        assert anatomy.root.get_submodule(found.path) is found.owner


@pytest.mark.parametrize("name", NAMES)
def test_the_stages_are_those_that_the_model_has_parts_for(name: str) -> None:
    tiny = build(name)
    stages = {found.stage for found in discover(tiny.model).stages()}
    assert stages == tiny.has | {names.PREFILL, names.DECODE}


def test_layers_are_the_decoder_blocks_in_order() -> None:
    anatomy = discover(build("qwen2_vl").model)
    assert [part.path for part in anatomy.layers] == [f"model.language_model.layers.{i}" for i in range(2)]
    assert [part.path for part in anatomy.vision_layers] == [f"model.visual.blocks.{i}" for i in range(2)]


@pytest.mark.parametrize(
    ("name", "generating"),
    [
        ("llava", [""]),
        ("molmo_layout", [""]),
        ("llama4", [""]),
        ("blip-2", ["", "language_model"]),
        ("instructblip", ["", "language_model"]),
        ("kosmos-2", ["", "text_model"]),
    ],
)
def test_the_module_whose_generate_the_models_own_calls_generates_too(name: str, generating: list[str]) -> None:
    assert [part.path for part in discover(build(name).model).generating] == generating


def test_an_omni_models_thinker_sees_and_generates_and_its_talker_does_not() -> None:
    anatomy = discover(bare("qwen2_5_omni"))
    assert [part.path for part in anatomy.generating] == ["", "thinker"]
    assert [part.path for part in anatomy.encoders] in (["thinker.visual"], ["thinker.model.visual"])
    assert anatomy.lm_head is not None
    assert anatomy.lm_head.path == "thinker.lm_head"
    assert all(part.path.startswith("thinker.") for part in anatomy.layers)


class DataParallelLike(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class TunerLike(nn.Module):
    """As PEFT's tuners: one child, and every other attribute is the child's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)


class PeftLike(nn.Module):
    def __init__(self, base_model: nn.Module) -> None:
        super().__init__()
        self.base_model = base_model
        self.peft_config = {"default": None}

    def get_base_model(self) -> nn.Module:
        return self.base_model


@pytest.mark.parametrize(
    "wrap",
    [
        DataParallelLike,
        torch.compile,
        lambda model: PeftLike(TunerLike(model)),
        PeftLike,
        lambda model: DataParallelLike(torch.compile(PeftLike(TunerLike(model)))),
    ],
    ids=["data parallel", "compiled", "LoRA", "prompt tuning", "all at once"],
)
@pytest.mark.parametrize("name", ["llava", "blip-2"])
def test_a_wrapped_model_is_found_as_if_it_were_bare(name: str, wrap: Any) -> None:
    model = build(name).model
    anatomy = discover(wrap(model))
    assert anatomy.root is model
    assert found_in(anatomy) == TINY[name]


def test_an_encoder_compiled_in_place_is_the_compiled_module_under_its_plain_path() -> None:
    with torch.device("meta"):
        model = transformers.LlavaForConditionalGeneration(build("llava").model.config)
    tower = model.model.vision_tower
    model.model.vision_tower = torch.compile(tower)
    anatomy = discover(model)
    assert found_in(anatomy) == TINY["llava"]
    assert anatomy.encoders[0].module is model.model.vision_tower
    assert anatomy.encoders[0].module is not tower
    assert anatomy.vision_layers[0].path == "model.vision_tower.encoder.layers.0"


@pytest.mark.parametrize("name", TEXT_ONLY)
def test_a_text_only_model_says_so(name: str) -> None:
    anatomy = discover(build(name).model)
    assert anatomy.notes == ("no vision part found: traced as a text-only model",)
    assert (anatomy.encoders, anatomy.projectors, anatomy.feature_methods) == ((), (), ())


def test_a_tower_that_is_none_is_named() -> None:
    with torch.device("meta"):
        config = transformers.Gemma4Config()
        config.text_config.num_hidden_layers = 2
        config.vision_config = config.audio_config = None
        model = transformers.Gemma4ForConditionalGeneration(config)
    anatomy = discover(model)
    assert anatomy.encoders == ()
    assert "model.vision_tower is None" in anatomy.notes
    assert len(anatomy.layers) == 2


def test_a_tokeniser_is_traced_by_what_its_encode_runs_since_its_own_forward_never_does() -> None:
    anatomy = discover(bare("chameleon"))
    assert [part.how for part in anatomy.encoders] == ["touched by encode() of model.vqmodel"] * 3
    assert anatomy.vision_layers[0].path == "model.vqmodel.encoder.down.0"
    assert anatomy.notes == ()


class _Opaque(nn.Module):
    """A tower without children, used through a method of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))

    def look(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels @ self.weight


def test_a_tower_of_which_only_a_method_runs_and_no_module_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = bare("paligemma")
    model.model.vision_tower = _Opaque()
    monkeypatch.setattr(type(model.model), "get_image_features", lambda self, pixels: self.vision_tower.look(pixels))
    assert "model.vision_tower is called through look(): its own forward never runs" in discover(model).notes


def test_in_an_encoder_of_words_and_image_only_the_patches_are_vision_and_that_is_said() -> None:
    anatomy = discover(tiny.build("udop").model)
    assert [(part.path, part.guess) for part in anatomy.encoders] == [("encoder.embed_patches", True)]
    assert anatomy.notes == (
        "encoder reads the image and words together: it runs before prefill and has no stage of its own",
    )


def test_a_projector_that_is_named_without_any_encoder_is_noted() -> None:
    anatomy = discover(build("llama").model, {"vision.projector": ["lm_head"]})
    assert "name it too (--stage vision=PATH)" in " ".join(anatomy.notes)


def test_a_core_called_through_forward_is_noted_and_its_first_block_is_the_entry() -> None:
    anatomy = discover(build("molmo_layout").model)
    assert anatomy.notes == ("model is called through forward(): its calls cannot be seen",)
    assert anatomy.entry is anatomy.layers[0]
    assert [part.guess for part in anatomy.encoders] == [True]


@pytest.mark.parametrize(
    ("class_name", "layers"),
    [
        ("GPT2LMHeadModel", "transformer.h"),
        ("OPTForCausalLM", "model.decoder.layers"),
        ("T5ForConditionalGeneration", "decoder.block"),
        ("BartForConditionalGeneration", "model.decoder.layers"),
        ("MambaForCausalLM", "backbone.layers"),
        ("WhisperForConditionalGeneration", "model.decoder.layers"),
        ("GPTNeoXForCausalLM", "gpt_neox.layers"),
    ],
)
def test_a_language_model_of_another_layout_has_its_blocks_found_and_no_vision(class_name: str, layers: str) -> None:
    cls = getattr(transformers, class_name)
    with torch.device("meta"):
        anatomy = discover(cls(cls.config_class()))
    assert lists(anatomy.layers) == layers
    assert (anatomy.encoders, anatomy.projectors, anatomy.feature_methods) == ((), (), ())
    assert any("text-only" in note for note in anatomy.notes)


class Stubborn(nn.Module):
    """Every look-up raises."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 2)])
        self.register_module("visual", None)

    def get_decoder(self) -> nn.Module:
        raise NotImplementedError

    get_encoder = get_output_embeddings = get_input_embeddings = get_decoder

    def get_image_features(self) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("model", [nn.Module(), nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)), Stubborn()])
def test_whatever_is_no_model_is_looked_at_without_an_error_and_with_notes(model: nn.Module) -> None:
    anatomy = discover(model)
    assert anatomy.root is model
    assert f"{type(model).__name__} has no generate()" in anatomy.notes
    assert anatomy.generating == ()

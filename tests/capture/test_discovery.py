"""Discovery against models of real classes: expected paths, and what really runs when they generate."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from tests.models import NAMES, TEXT_ONLY, VISION_MODELS, bare, build
from vlmtrace.capture.anatomy import Anatomy, Part
from vlmtrace.capture.discovery import discover
from vlmtrace.capture.module_tree import within
from vlmtrace.errors import UsageError
from vlmtrace.timeline import names


@dataclass(frozen=True)
class Expected:
    """Paths, as people know them from the model's code; lists stand for the modules in them."""

    encoders: str
    projectors: str = ""
    inner: str = ""
    language_model: str = "model.language_model"
    layers: str = "model.language_model.layers"
    lm_head: str = "lm_head"
    methods: str = "model.get_image_features"


_BLIP = {
    "language_model": "language_model",
    "layers": "language_model.model.decoder.layers",
    "lm_head": "language_model.lm_head",
}
_TEXT_MODEL = {"language_model": "model.text_model", "layers": "model.text_model.layers"}
_CORE = {"language_model": "model", "layers": "model.layers"}
_IMAGES = "model.get_image_features"
_BOTH = f"{_IMAGES} model.get_video_features"

TINY = {
    "llava": Expected("model.vision_tower", "model.multi_modal_projector"),
    "llava_next": Expected("model.vision_tower", "model.multi_modal_projector"),
    "llava_onevision": Expected("model.vision_tower", "model.multi_modal_projector", methods=_BOTH),
    "qwen2_vl": Expected("model.visual", inner="model.visual.merger", methods=_BOTH),
    "qwen2_5_vl": Expected("model.visual", inner="model.visual.merger", methods=_BOTH),
    "qwen3_vl": Expected("model.visual", inner="model.visual.merger model.visual.deepstack_merger_list", methods=_BOTH),
    "internvl": Expected("model.vision_tower", "model.multi_modal_projector"),
    "gemma3": Expected("model.vision_tower", "model.multi_modal_projector"),
    "paligemma": Expected("model.vision_tower", "model.multi_modal_projector"),
    "idefics3": Expected("model.vision_model", "model.connector", **_TEXT_MODEL),
    "smolvlm": Expected("model.vision_model", "model.connector", **_TEXT_MODEL),
    "mllama": Expected("model.vision_model", "model.multi_modal_projector", methods=""),
    "blip-2": Expected("vision_model", "qformer language_projection", methods="", **_BLIP),
    "instructblip": Expected(
        "vision_model",
        "qformer language_projection",
        methods="get_image_features",
        **{**_BLIP, "language_model": "language_model.model.decoder"},
    ),
    "kosmos-2": Expected(
        "vision_model",
        "image_to_text_projection",
        "",
        "text_model",
        "text_model.model.layers",
        "text_model.lm_head",
        "",
    ),
    "llama4": Expected(
        "vision_model",
        "multi_modal_projector",
        "",
        "language_model",
        "language_model.model.layers",
        "language_model.lm_head",
        "get_image_features",
    ),
    "molmo_layout": Expected(
        "model.vision_backbone",
        inner="model.vision_backbone.image_pooling_2d model.vision_backbone.image_projector",
        language_model="model",
        layers="model.transformer.blocks",
        lm_head="model.transformer.ff_out",
        methods="",
    ),
    "llama": Expected("", methods="", **_CORE),
}

BARE = {
    "aria": Expected("model.vision_tower", "model.multi_modal_projector"),
    "blip": Expected(
        "vision_model",
        "",
        "",
        "text_decoder",
        "text_decoder.bert.encoder.layer",
        "text_decoder.cls.predictions.decoder",
        "",
    ),
    "chameleon": Expected("model.vqmodel", **_CORE),
    "cohere2_vision": Expected("model.vision_tower", "model.multi_modal_projector"),
    "deepseek_vl": Expected("model.vision_model", "model.aligner"),
    "emu3": Expected("model.vqmodel", **_TEXT_MODEL),
    "ernie4_5_vl_moe": Expected("model.vision_tower", "model.resampler_model", methods=_BOTH),
    "florence2": Expected(
        "model.vision_tower", "model.multi_modal_projector", layers="model.language_model.decoder.layers"
    ),
    "fuyu": Expected("model.vision_embed_tokens"),
    "git": Expected("git.image_encoder", "git.visual_projection", "", "git", "git.encoder.layer", "output", ""),
    "glm4v": Expected("model.visual", inner="model.visual.merger model.visual.downsample", methods=_BOTH),
    "got_ocr2": Expected("model.vision_tower", "model.multi_modal_projector"),
    "idefics": Expected("model.vision_model", methods="", **_CORE),
    "idefics2": Expected("model.vision_model", "model.connector", **_TEXT_MODEL),
    "instructblipvideo": Expected(
        "vision_model",
        "qformer language_projection",
        methods="get_video_features",
        **{**_BLIP, "language_model": "language_model.model.decoder"},
    ),
    "janus": Expected("model.vision_model", "model.aligner"),
    "kosmos-2.5": Expected(
        "vision_model",
        "image_to_text_projection",
        "",
        "text_model",
        "text_model.model.layers",
        "text_model.lm_head",
        "",
    ),
    "lfm2_vl": Expected("model.vision_tower", "model.multi_modal_projector"),
    "lighton_ocr": Expected("model.vision_encoder", "model.vision_projection"),
    "mistral3": Expected("model.vision_tower", "model.multi_modal_projector"),
    "ovis2": Expected("model.vision_tower", "model.visual_embeddings_table"),
    "paddleocr_vl": Expected("model.visual", "model.projector"),
    "pix2struct": Expected("encoder", "", "", "decoder", "decoder.layer", "decoder.lm_head", ""),
    "t5gemma2": Expected(
        "model.encoder.vision_tower",
        "model.encoder.multi_modal_projector",
        "",
        "model.decoder",
        "model.decoder.layers",
        "lm_head.out_proj",
        "model.encoder.get_image_features",
    ),
    "video_llama_3": Expected("model.vision_model", "model.projector", methods=_BOTH),
    "video_llava": Expected("model.image_tower model.video_tower", "model.multi_modal_projector", methods=_BOTH),
    "vipllava": Expected("model.vision_tower", "model.multi_modal_projector"),
}
if hasattr(transformers, "Molmo2Config"):  # since transformers 5.20
    BARE["molmo2"] = Expected("model.vision_tower", "model.multi_modal_projector", methods=_BOTH)


def _lists(parts: tuple[Part, ...]) -> str:
    return " ".join(dict.fromkeys(re.sub(r"\.\d+$", "", part.path) for part in parts))


def _found(anatomy: Anatomy) -> Expected:
    assert anatomy.language_model is not None
    assert anatomy.lm_head is not None
    return Expected(
        _lists(anatomy.encoders),
        _lists(anatomy.projectors),
        _lists(anatomy.inner_projectors),
        anatomy.language_model.path,
        _lists(anatomy.layers),
        anatomy.lm_head.path,
        " ".join(f"{found.path}.{found.method}".lstrip(".") for found in anatomy.feature_methods),
    )


def _every_part(anatomy: Anatomy) -> list[Part]:
    single = [part for part in (anatomy.language_model, anatomy.lm_head) if part is not None]
    lists = (anatomy.encoders, anatomy.projectors, anatomy.inner_projectors, anatomy.layers, anatomy.vision_layers)
    return [*single, *anatomy.generating, *(part for parts in lists for part in parts)]


@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_model_has_the_parts_that_its_code_shows(name: str) -> None:
    assert _found(discover(build(name).model)) == TINY[name]


@pytest.mark.parametrize("model_type", sorted(BARE))
def test_a_model_type_has_the_parts_that_its_code_shows(model_type: str) -> None:
    assert _found(discover(bare(model_type))) == BARE[model_type]


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


# What really runs, seen without discovery


@dataclass(frozen=True)
class Seen:
    """Calls of every module path in one generate(), and the modules that ran inside each feature method called."""

    calls: Counter[str]
    inside: Mapping[str, set[str]]


@contextmanager
def _watching(model: nn.Module) -> Iterator[Seen]:
    seen = Seen(Counter(), {})
    open_methods: list[str] = []
    hooks = []
    patched: list[tuple[nn.Module, str]] = []

    def ran(path: str, *_: Any) -> None:
        seen.calls[path] += 1
        for method in open_methods:
            seen.inside[method].add(path)

    def watched(function: Any, key: str) -> Any:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            seen.inside.setdefault(key, set())
            open_methods.append(key)
            try:
                return function(*args, **kwargs)
            finally:
                open_methods.pop()

        return call

    for path, module in model.named_modules():
        hooks.append(module.register_forward_hook(functools.partial(ran, path)))
        for method in ("get_image_features", "get_video_features"):
            if hasattr(module, method):
                setattr(module, method, watched(getattr(module, method), f"{path}.{method}".lstrip(".")))
                patched.append((module, method))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
        for module, method in patched:
            delattr(module, method)


@functools.cache
def _generated(name: str, tokens: int) -> Seen:
    tiny = build(name)
    with _watching(tiny.model) as seen:
        tiny.model.generate(**tiny.inputs, max_new_tokens=tokens, do_sample=False)
    return seen


def _constant(name: str) -> set[str]:
    """Paths of the modules that ran, and no more often for four tokens than for one."""
    one, four = _generated(name, 1).calls, _generated(name, 4).calls
    return {path for path, count in one.items() if four[path] == count}


@pytest.mark.parametrize("name", VISION_MODELS)
def test_encoders_and_projectors_run_once_for_an_image_however_many_tokens_follow(name: str) -> None:
    anatomy = discover(build(name).model)
    constant = _constant(name)
    for part in (*anatomy.encoders, *anatomy.projectors, *anatomy.inner_projectors, *anatomy.vision_layers):
        assert part.path in constant, part.path


@pytest.mark.parametrize("name", NAMES)
def test_language_layers_and_head_run_once_a_token(name: str) -> None:
    anatomy = discover(build(name).model)
    one, four = _generated(name, 1).calls, _generated(name, 4).calls
    assert anatomy.lm_head is not None
    assert anatomy.entry is not None
    for part in (*anatomy.layers, anatomy.lm_head, anatomy.entry):
        assert (one[part.path], four[part.path]) == (1, 4), part.path


@pytest.mark.parametrize("name", VISION_MODELS)
def test_nothing_that_runs_once_for_an_image_is_left_out(name: str) -> None:
    model = build(name).model
    anatomy = discover(model)
    parts = (*anatomy.encoders, *anatomy.projectors)
    # Cross-attention blocks of the language model project the image's keys and values once.
    left = {
        path
        for path in _constant(name)
        if next(model.get_submodule(path).parameters(), None) is not None
        and not any(within(path, part.path) for part in (*parts, *anatomy.layers))
    }
    assert left == set()


@pytest.mark.parametrize("name", VISION_MODELS)
def test_the_feature_methods_found_are_those_that_a_generation_calls(name: str) -> None:
    anatomy = discover(build(name).model)
    called = set(_generated(name, 1).inside)
    found = {f"{f.path}.{f.method}".lstrip(".") for f in anatomy.feature_methods if f.method == "get_image_features"}
    assert found <= called
    assert bool(found) == bool(called)


@pytest.mark.parametrize("name", VISION_MODELS)
def test_encoders_run_inside_the_feature_method_and_language_layers_never_do(name: str) -> None:
    anatomy = discover(build(name).model)
    inside = _generated(name, 4).inside
    for found in anatomy.feature_methods:
        ran = inside.get(f"{found.path}.{found.method}".lstrip("."), set())
        if found.method == "get_image_features":
            assert {part.path for part in anatomy.encoders} <= ran
        assert not ran & {part.path for part in anatomy.layers}


# Overrides


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
    assert _found(discover(model, {"vision": path})) == _found(discover(model, {"vision.encoder": path}))


def test_a_given_vision_path_makes_a_vision_stage_where_no_feature_method_runs() -> None:
    anatomy = discover(build("molmo_layout").model, {"vision": ("model.vision_backbone",)})
    (vision,) = (found for found in anatomy.stages() if found.stage == names.VISION)
    assert (vision.path, vision.how, vision.guess) == ("model.vision_backbone", "their calls", False)


def test_a_given_projector_inside_the_encoder_is_an_inner_one() -> None:
    anatomy = discover(build("qwen2_vl").model, {"vision.projector": ("model.visual.merger.mlp",)})
    assert anatomy.projectors == ()
    assert [part.path for part in anatomy.inner_projectors] == ["model.visual.merger.mlp"]


def test_given_language_parts_take_the_place_of_those_found() -> None:
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


def test_a_vision_path_can_be_given_to_a_model_in_which_none_is_found() -> None:
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


# Wrappers


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
@pytest.mark.parametrize("name", ["llava", "blip-2", "molmo_layout", "llama"])
def test_a_wrapped_model_is_found_as_if_it_were_bare(name: str, wrap: Any) -> None:
    model = build(name).model
    anatomy = discover(wrap(model))
    assert anatomy.root is model
    assert _found(anatomy) == TINY[name]


def test_an_encoder_compiled_in_place_is_the_compiled_module_under_its_plain_path() -> None:
    with torch.device("meta"):
        model = transformers.LlavaForConditionalGeneration(build("llava").model.config)
    tower = model.model.vision_tower
    model.model.vision_tower = torch.compile(tower)
    anatomy = discover(model)
    assert _found(anatomy) == TINY["llava"]
    assert anatomy.encoders[0].module is model.model.vision_tower
    assert anatomy.encoders[0].module is not tower
    assert anatomy.vision_layers[0].path == "model.vision_tower.encoder.layers.0"


# Odd models


@pytest.mark.parametrize("name", TEXT_ONLY)
def test_a_text_only_model_says_so(name: str) -> None:
    anatomy = discover(build(name).model)
    assert anatomy.notes == ("no vision part found: traced as a text-only model",)
    assert not (anatomy.encoders or anatomy.projectors or anatomy.feature_methods)


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


def test_a_module_used_only_through_one_of_its_methods_is_noted() -> None:
    anatomy = discover(bare("chameleon"))
    assert anatomy.notes == ("model.vqmodel is called through encode(): its own forward never runs",)


def test_a_core_called_through_forward_is_noted_and_its_first_block_is_the_entry() -> None:
    anatomy = discover(build("molmo_layout").model)
    assert anatomy.notes == ("model is called through forward(): hooks on it never fire",)
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
    assert _lists(anatomy.layers) == layers
    assert not (anatomy.encoders or anatomy.projectors or anatomy.inner_projectors or anatomy.feature_methods)
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


def test_discovery_runs_nothing_and_changes_nothing() -> None:
    model = build("qwen2_vl").model
    before = {path: dict(vars(module)) for path, module in model.named_modules()}
    with _watching(model) as seen:
        discover(model)
    assert not seen.calls
    assert not seen.inside
    assert {path: dict(vars(module)) for path, module in model.named_modules()} == before

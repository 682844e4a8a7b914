"""Every model type of transformers that takes images and text, and one that brings its own code: tiny, random weights,
the inputs for one image.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, SiglipVisionConfig

from tests.tiny.changes import IMAGE
from tests.tiny.pictures import pixels
from tests.tiny.remote_code import MOLMO_LAYOUT, molmo_layout
from tests.tiny.shrinking import class_of, known_types, shrunk_config, tiny_config

__all__ = [
    "LEFT_OUT", "NEEDS_IMAGE", "PICTURES", "TIMM_TOWERS", "TinyModel", "build", "build_text", "buildable", "twice",
    "with_images", "with_video", "without_image",
]  # fmt: skip

PICTURES: Final = (
    "pixel_values",
    "image_pixel_values",
    "high_res_pixel_values",
    "pixel_values_images",
    "image_patches",
    "flattened_patches",
    "pixel_values_videos",
    "images",
)
"""The inputs that hold an image's own numbers."""
TIMM_TOWERS: Final = ("fast_vlm", "gemma3n", "perception_lm")
"""Types whose tower is one of timm's, a package that needs torchvision: they get a SigLIP here."""
_ASKED_OF_TIMM: Final = ("vocab_size", "vocab_offset", "rms_norm_eps", "model_args")
_HEARING: Final = (
    "fun_asr_nano", "glmasr", "granite_speech", "granite_speech_plus", "kyutai_speech_to_text",
    "moss_transcribe_diarize", "nemo_speechlm", "qwen2_audio", "qwen3_asr", "vibevoice_asr", "voxtral",
    "voxtral_realtime",
)  # fmt: skip
LEFT_OUT: Final = {
    **dict.fromkeys(_HEARING, "takes sound and text, no image"),
    "diffusion_gemma": "makes no tokens one by one: it refines a whole block of them",
    "evolla": "takes proteins and text, no image",
    "inkling_mm_model": "needs scipy",
    "mistral4": "takes text alone",
    "pi0": "has no generate(): it answers with a robot's movements",
}
"""Types that are not built here, and why."""
NEEDS_IMAGE: Final = frozenset(
    ("blip", "blip-2", "idefics", "instructblip", "instructblipvideo", "kosmos-2", "pix2struct", "pp_formulanet",
     "vision-encoder-decoder")
)  # fmt: skip
"""Types whose generate() refuses to run on words alone."""
_OF_AN_IMAGE: Final = ("pixel_values", "image_grid_thw", "image_merge_sizes")
_SPEAK: Final = ("qwen2_5_omni", "qwen3_omni_moe")
"""Generate through an inner model, and would answer with sound too."""
_IMAGE_TOKENS: Final = (
    "image_token_id", "image_token_index", "image_patch_id", "media_placeholder_token_id", "img_context_token_id",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class TinyModel:
    """A model with CPU float32 weights and inputs of batch 1 with one image.

    ``wrapper`` is what a person holds where something was put around the model.
    """

    model: Any
    inputs: Mapping[str, Tensor]
    model_type: str
    wrapper: Any = None

    @property
    def held(self) -> Any:
        """The wrapper, or the model where there is none."""
        return self.model if self.wrapper is None else self.wrapper

    def generate(self, new_tokens: int, **changed: Any) -> Tensor:
        """Token ids of a greedy generation of exactly ``new_tokens``; ``changed`` takes the place of inputs."""
        if self.model_type in _SPEAK:
            silent = inspect.signature(self.model.generate).parameters.get("return_audio") is not None
            limits: dict[str, Any] = {"return_audio": False} if silent else {"generation_mode": "text"}
            limits["thinker_max_new_tokens"] = new_tokens
        else:
            limits = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
        inputs = {name: value.clone() if isinstance(value, Tensor) else value for name, value in self.inputs.items()}
        owner = self.held if hasattr(self.held, "generate") else self.model
        made = owner.generate(**{**inputs, **changed}, do_sample=False, **limits)
        return made[0] if isinstance(made, tuple) else made


def buildable() -> list[str]:
    """The model types that :func:`build` makes: what the installed transformers knows, and one with its own code."""
    return sorted({*known_types(), MOLMO_LAYOUT} - LEFT_OUT.keys())


def build(model_type: str) -> TinyModel:
    """The model and its inputs, the same each time."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        if model_type == MOLMO_LAYOUT:
            return TinyModel(*molmo_layout(), model_type)
        config = tiny_config(model_type)
        if model_type in TIMM_TOWERS:
            _take_a_siglip_tower(config)
        model = class_of(model_type)(config).eval()
        _shake(model)
        if hasattr(model, "speaker_map"):
            model.speaker_map = {"Chelsie": {}}
        return TinyModel(model, _inputs(model, model_type), model_type)


def without_image(tiny: TinyModel) -> TinyModel:
    """The same model asked with four words alone; its type is none of :data:`NEEDS_IMAGE`."""
    words = {name: value[:, :4] for name, value in tiny.inputs.items() if name == "bbox"}
    kinds = {name: torch.zeros(1, 4, dtype=torch.long) for name in tiny.inputs if name.endswith("token_type_ids")}
    return replace(tiny, inputs={**_around(), **words, **kinds})


def with_images(tiny: TinyModel, count: int) -> TinyModel:
    """The same model asked about as many images, each in its own places of one prompt."""
    places = tiny.inputs["input_ids"][0, 2:-2].tolist()
    inputs = {**tiny.inputs, **_around(*[*places, 9] * count)}
    for name, value in tiny.inputs.items():
        if name in (*PICTURES, "image_sizes", "image_grid_thw"):
            inputs[name] = torch.cat([value] * count, dim=int(name in PICTURES and value.shape[:2] == (1, 1)))
        elif name.endswith("token_type_ids"):
            inputs[name] = torch.cat([value[:, :2], *[value[:, 2:-1]] * count, value[:, -2:]], dim=1)
    return replace(tiny, inputs=inputs)


def with_video(tiny: TinyModel, *, beside_image: bool) -> TinyModel:
    """The same model asked about a video as long and as large as its image, alone or behind that image.

    For the types that take both as rows of patches.
    """
    config = getattr(tiny.model, "thinker", tiny.model).config
    image, video = config.image_token_id, config.video_token_id
    places = int((tiny.inputs["input_ids"] == image).sum())
    prompt = _around(*[*[image] * places, 9] * beside_image, *[video] * places)
    ids = prompt["input_ids"]
    inputs = {**prompt, "pixel_values_videos": tiny.inputs["pixel_values"].flip(0)}
    if beside_image:
        inputs |= {name: tiny.inputs[name] for name in _OF_AN_IMAGE if name in tiny.inputs}
    for name, same in (("image_grid_thw", "video_grid_thw"), ("image_merge_sizes", "video_merge_sizes")):
        if name in tiny.inputs:
            inputs[same] = tiny.inputs[name]
    if "mm_token_type_ids" in tiny.inputs:
        inputs["mm_token_type_ids"] = (ids == image).long() + 2 * (ids == video).long()
    return replace(tiny, inputs=inputs)


def twice(tiny: TinyModel) -> TinyModel:
    """The same model asked the same twice in one batch."""
    return replace(tiny, inputs={name: torch.cat([value, value]) for name, value in tiny.inputs.items()})


def build_text(model_type: str) -> TinyModel:
    """A language model that sees nothing, and four words."""
    default = AutoConfig.for_model(model_type)
    auto = AutoModelForSeq2SeqLM if default.is_encoder_decoder else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TinyModel(auto.from_config(shrunk_config(default)).eval(), _around(), model_type)


def _take_a_siglip_tower(config: Any) -> None:
    """In the place of one of timm's, a package that needs torchvision: same calls, other blocks."""
    known = {
        name: getattr(config.vision_config, name) for name in _ASKED_OF_TIMM if hasattr(config.vision_config, name)
    }
    patch = 4 if config.model_type == "fast_vlm" else 8
    type(config).validate = lambda self: None
    config.__dict__["vision_config"] = SiglipVisionConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=patch,
        **known,
    )


def _shake(model: Any) -> None:
    """What begins as one number everywhere (gates and projections of zeros) would let no image through."""
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.numel() > 1 and not (parameter - parameter.flatten()[0]).any():
            parameter.add_(0.02 * torch.randn_like(parameter))


def _inputs(model: Any, model_type: str) -> dict[str, Tensor]:
    model = getattr(model, "thinker", model)
    config, seen = model.config, pixels(model, model_type)
    if model_type in _PROMPTS:
        return {**_PROMPTS[model_type](config), **seen}
    token = _image_token(config)
    rows = _rows_of_features(model, model_type, seen)
    prompt = _around(*[token] * rows) if token is not None and rows else _around()
    return {**prompt, **seen, **_kinds(model, model_type, prompt["input_ids"] == token)}


def _prompt(*ids: int) -> dict[str, Tensor]:
    tokens = torch.tensor([ids])
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def _around(*places: int) -> dict[str, Tensor]:
    """Four words, the image's places in their middle."""
    return _prompt(5, 6, *places, 7, 8)


def _question() -> dict[str, Tensor]:
    ids = torch.tensor([[5, 6, 7]])
    return {"qformer_input_ids": ids, "qformer_attention_mask": torch.ones_like(ids)}


def _latent(config: Any) -> dict[str, Tensor]:
    places = torch.tensor([[0, 0, *[1] * config.latent_query_num, 0, 0]])
    return {**_around(*[9] * config.latent_query_num), "image_embeds_position_mask": places}


def _crossed(config: Any) -> dict[str, Tensor]:
    prompt = _prompt(5, config.image_token_index, 6, 7, 8)
    return {**prompt, "cross_attention_mask": torch.ones(1, 5, 1, 2, dtype=torch.long)}


_PROMPTS: Final[dict[str, Callable[[Any], dict[str, Tensor]]]] = {
    **dict.fromkeys(("pix2struct", "vision-encoder-decoder", "pp_formulanet"), lambda config: {}),
    **dict.fromkeys(("kosmos-2", "kosmos-2.5"), _latent),
    "idefics": lambda config: _around(),
    "instructblip": lambda config: {**_around(*[IMAGE] * config.num_query_tokens), **_question()},
    "instructblipvideo": lambda config: {**_around(*[IMAGE] * config.num_query_tokens), **_question()},
    "mllama": _crossed,
    "phi4_multimodal": lambda config: _around(*[config.vision_config.image_token_id] * 13),
    "udop": lambda config: {**_around(), "bbox": torch.rand(1, 4, 4)},
}
"""Where an image takes no places in the prompt, or others than features are made of it."""


def _kinds(model: Any, model_type: str, is_image: Any) -> dict[str, Tensor]:
    """What tells text from images, token by token, where a forward asks for it."""
    own = inspect.signature(model.forward).parameters
    asked = {*own, *inspect.signature(model.base_model.forward).parameters}
    made = {name: is_image.long() for name in ("mm_token_type_ids", "moe_mm_token_type_ids") if name in asked}
    if "token_type_ids" in own and model_type in ("gemma3", "shieldgemma2", "paligemma"):
        made["token_type_ids"] = torch.zeros_like(is_image.long()) if model_type == "paligemma" else is_image.long()
    return made


def _image_token(config: Any) -> int | None:
    for name in _IMAGE_TOKENS:
        if isinstance(value := getattr(config, name, None), int):
            return value
    return (getattr(config, "vocabulary_map", None) or {}).get("<image>")


def _rows_of_features(model: Any, model_type: str, seen: Mapping[str, Tensor]) -> int:
    """How many places one image takes in the prompt: as many as the model itself makes features of it."""
    owner = model.base_model if hasattr(model.base_model, "get_image_features") else model
    if not hasattr(owner, "get_image_features"):
        return 0
    config = model.config
    asked = inspect.signature(owner.get_image_features).parameters
    given: dict[str, Any] = {name: value for name, value in seen.items() if name in asked}
    if model_type == "fuyu":
        given = {"pixel_values": seen["image_patches"]}
    for name in ("vision_feature_layer", "vision_feature_layers", "vision_feature_select_strategy"):
        if name in asked:
            given[name] = getattr(config, name, "default" if name.endswith("strategy") else -1)
    return _rows(owner.get_image_features(**given))


def _rows(features: Any) -> int:
    found = getattr(features, "pooler_output", None)
    if found is None and (deep := getattr(features, "deepstack_features", None)):
        found = deep[0][1]
    if found is None:
        plain = isinstance(features, Tensor | list | tuple)
        found = features if plain else getattr(features, "last_hidden_state", None)
    if isinstance(found, list | tuple):
        return sum(_rows(one) for one in found)
    return int(found.shape[:-1].numel())

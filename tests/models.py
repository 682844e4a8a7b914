"""Tiny random-weight models of real transformers classes, each with one image's inputs ready for ``generate()``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel

from tests.molmo_layout import MolmoLayout, MolmoLayoutConfig
from vlmtrace.timeline import names

__all__ = ["NAMES", "TEXT_ONLY", "VISION_MODELS", "Tiny", "bare", "build"]

IMAGE: Final = 100
"""The placeholder token of an image in every model here."""
_VOCABULARY: Final = 128
_SIZE: Final = 32

_TEXT: Final = {
    "vocab_size": _VOCABULARY,
    "hidden_size": _SIZE,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_TOWER: Final = {
    "hidden_size": _SIZE,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
    "projection_dim": _SIZE,
}
_LLAMA: Final = {**_TEXT, "model_type": "llama"}
_QWEN2: Final = {**_TEXT, "model_type": "qwen2"}
_CLIP: Final = {**_TOWER, "model_type": "clip_vision_model"}
_SIGLIP: Final = {**_TOWER, "model_type": "siglip_vision_model"}
_MROPE: Final = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
_QWEN_TOWER: Final = {
    "depth": 2,
    "hidden_size": _SIZE,
    "out_hidden_size": _SIZE,
    "intermediate_size": 48,
    "num_heads": 4,
}


@dataclass(frozen=True, slots=True, eq=False)
class Tiny:
    """A model with eager CPU float32 weights, inputs of batch 1, and the stage names that it has parts for.

    No model here stops early: none has an end-of-sequence token.
    """

    model: PreTrainedModel
    inputs: Mapping[str, Tensor]
    has: frozenset[str]


_Made: TypeAlias = tuple[PreTrainedModel, dict[str, Tensor]]
_Recipe: TypeAlias = Callable[[], _Made]
_SPEAKS: Final = frozenset((names.LAYER, names.LM_HEAD))
_SEES: Final = frozenset((names.VISION, names.ENCODER, names.PROJECTOR, names.VISION_LAYER))
_RECIPES: dict[str, tuple[_Recipe, frozenset[str]]] = {}


def _tiny(name: str, sees: bool = True) -> Callable[[_Recipe], _Recipe]:
    def register(recipe: _Recipe) -> _Recipe:
        _RECIPES[name] = (recipe, _SPEAKS | _SEES if sees else _SPEAKS)
        return recipe

    return register


@lru_cache(maxsize=64)
def build(name: str, seed: int = 0) -> Tiny:
    """The model ``name`` (one of :data:`NAMES`) and its inputs; equal for equal seeds, one per process.

    Do not change what this returns: other tests get the same objects.
    """
    recipe, has = _RECIPES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, inputs = recipe()
    for module in model.modules():
        generation = getattr(module, "generation_config", None)
        if generation is not None:
            generation.eos_token_id, generation.pad_token_id = None, 0
    return Tiny(model.eval(), inputs, has)


def _model(class_name: str, **config: Any) -> PreTrainedModel:
    cls = getattr(transformers, class_name)
    return cls._from_config(cls.config_class(**config), attn_implementation="eager", dtype=torch.float32)


def _prompt(placeholders: int, token: int = IMAGE, *, before: tuple[int, ...] = (), after: tuple[int, ...] = ()) -> Any:
    ids = torch.tensor([[5, 6, *before, *[token] * placeholders, *after, 7, 8]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _square(size: int = 16) -> Tensor:
    return torch.randn(1, 3, size, size)


def _vl(class_name: str, inputs: dict[str, Tensor], **config: Any) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    return _model(class_name, **config), inputs


@_tiny("llama", sees=False)
def _llama() -> _Made:
    return _vl("LlamaForCausalLM", _prompt(0), **_TEXT)


@_tiny("llava")
def _llava() -> _Made:
    return _vl(
        "LlavaForConditionalGeneration",
        {**_prompt(16), "pixel_values": _square()},
        vision_config=_CLIP,
        text_config=_LLAMA,
        image_token_index=IMAGE,
    )


@_tiny("llava_next")
def _llava_next() -> _Made:
    return _tiles("LlavaNextForConditionalGeneration", _CLIP, _LLAMA)


@_tiny("llava_onevision")
def _llava_onevision() -> _Made:
    return _tiles("LlavaOnevisionForConditionalGeneration", _SIGLIP, _QWEN2)


def _tiles(class_name: str, tower: dict[str, Any], text: dict[str, Any]) -> _Made:
    """One square image as an overview and one tile: 2 × 16 patches, and a new-line feature after each of 4 rows."""
    return _vl(
        class_name,
        {**_prompt(36), "pixel_values": torch.randn(1, 2, 3, 16, 16), "image_sizes": torch.tensor([[16, 16]])},
        vision_config=tower,
        text_config=text,
        image_token_index=IMAGE,
        image_grid_pinpoints=[[16, 16]],
    )


@_tiny("qwen2_vl")
def _qwen2_vl() -> _Made:
    vision = {"depth": 2, "embed_dim": _SIZE, "hidden_size": _SIZE, "num_heads": 4, "mlp_ratio": 2, "patch_size": 4}
    return _qwen("Qwen2VLForConditionalGeneration", vision)


@_tiny("qwen2_5_vl")
def _qwen2_5_vl() -> _Made:
    windows = {"fullatt_block_indexes": [1], "window_size": 8, "patch_size": 4}
    return _qwen("Qwen2_5_VLForConditionalGeneration", {**_QWEN_TOWER, **windows})


@_tiny("qwen3_vl")
def _qwen3_vl() -> _Made:
    deep = {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16, "patch_size": 4}
    return _qwen("Qwen3VLForConditionalGeneration", {**_QWEN_TOWER, **deep})


def _qwen(class_name: str, vision: dict[str, Any]) -> _Made:
    """One image of 4 × 4 patches (two frames of 3 × 4 × 4 pixels each), merged 2 × 2 into 4 visual tokens."""
    prompt = _prompt(4, before=(IMAGE + 2,), after=(IMAGE + 3,))
    return _vl(
        class_name,
        {
            **prompt,
            "pixel_values": torch.randn(16, 2 * 3 * 4 * 4),
            "image_grid_thw": torch.tensor([[1, 4, 4]]),
            "mm_token_type_ids": (prompt["input_ids"] == IMAGE).long(),
        },
        vision_config=vision,
        text_config={**_TEXT, "rope_parameters": _MROPE},
        image_token_id=IMAGE,
        video_token_id=IMAGE + 1,
        vision_start_token_id=IMAGE + 2,
        vision_end_token_id=IMAGE + 3,
    )


@_tiny("internvl")
def _internvl() -> _Made:
    tower = {**_TOWER, "image_size": [16, 16], "patch_size": [4, 4]}
    return _vl(
        "InternVLForConditionalGeneration",
        {**_prompt(4), "pixel_values": _square()},
        vision_config=tower,
        text_config=_QWEN2,
        image_token_id=IMAGE,
    )


@_tiny("gemma3")
def _gemma3() -> _Made:
    prompt = _prompt(4)
    return _vl(
        "Gemma3ForConditionalGeneration",
        {**prompt, "pixel_values": _square(), "token_type_ids": (prompt["input_ids"] == IMAGE).long()},
        vision_config=_SIGLIP,
        text_config=_TEXT,
        mm_tokens_per_image=4,
        image_token_index=IMAGE,
        boi_token_index=IMAGE + 1,
        eoi_token_index=IMAGE + 2,
    )


@_tiny("paligemma")
def _paligemma() -> _Made:
    prompt = _prompt(16)
    return _vl(
        "PaliGemmaForConditionalGeneration",
        {**prompt, "pixel_values": _square(), "token_type_ids": torch.zeros_like(prompt["input_ids"])},
        vision_config={**_SIGLIP, "vision_use_head": False},
        text_config={**_TEXT, "model_type": "gemma"},
        projection_dim=_SIZE,
        hidden_size=_SIZE,
        image_token_index=IMAGE,
    )


@_tiny("idefics3")
def _idefics3() -> _Made:
    return _shuffled("Idefics3ForConditionalGeneration")


@_tiny("smolvlm")
def _smolvlm() -> _Made:
    return _shuffled("SmolVLMForConditionalGeneration")


def _shuffled(class_name: str) -> _Made:
    """16 patches, 2 × 2 of them folded into each of 4 visual tokens."""
    return _vl(
        class_name,
        {**_prompt(4), "pixel_values": torch.randn(1, 1, 3, 16, 16)},
        vision_config=_TOWER,
        text_config=_LLAMA,
        scale_factor=2,
        image_token_id=IMAGE,
        pad_token_id=0,
    )


@_tiny("mllama")
def _mllama() -> _Made:
    tower = {
        **_TOWER,
        "attention_heads": 4,
        "num_global_layers": 1,
        "max_num_tiles": 2,
        "supported_aspect_ratios": [[1, 1], [1, 2]],
        "intermediate_layers_indices": [0],
        "vision_output_dim": 2 * _SIZE,
    }
    prompt = _prompt(1)
    return _vl(
        "MllamaForConditionalGeneration",
        {
            **prompt,
            "pixel_values": torch.randn(1, 1, 2, 3, 16, 16),
            "aspect_ratio_ids": torch.ones(1, 1, dtype=torch.long),
            "aspect_ratio_mask": torch.ones(1, 1, 2, dtype=torch.long),
            "cross_attention_mask": torch.ones(1, prompt["input_ids"].shape[1], 1, 2, dtype=torch.long),
        },
        vision_config=tower,
        text_config={**_TEXT, "cross_attention_layers": [1]},
        image_token_index=IMAGE,
    )


@_tiny("blip-2")
def _blip_2() -> _Made:
    return _queried("Blip2ForConditionalGeneration", {**_prompt(4), "pixel_values": _square()})


@_tiny("instructblip")
def _instructblip() -> _Made:
    question = torch.tensor([[5, 6, 7]])
    inputs = {"qformer_input_ids": question, "qformer_attention_mask": torch.ones_like(question)}
    return _queried("InstructBlipForConditionalGeneration", {**_prompt(4), "pixel_values": _square(), **inputs})


def _queried(class_name: str, inputs: dict[str, Tensor]) -> _Made:
    """A query transformer draws 4 visual tokens out of the image; the language model generates by itself."""
    qformer = {**_TEXT, "encoder_hidden_size": _SIZE}
    text = {**_TEXT, "model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": _SIZE}
    return _vl(
        class_name,
        inputs,
        vision_config=_TOWER,
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=4,
        image_token_index=IMAGE,
    )


@_tiny("kosmos-2")
def _kosmos_2() -> _Made:
    prompt = _prompt(4)
    text = {"vocab_size": _VOCABULARY, "embed_dim": _SIZE, "layers": 2, "ffn_dim": 48, "attention_heads": 4}
    return _vl(
        "Kosmos2ForConditionalGeneration",
        {
            **prompt,
            "pixel_values": _square(),
            "image_embeds_position_mask": (prompt["input_ids"] == IMAGE).long(),
        },
        vision_config=_TOWER,
        text_config={**text, "max_position_embeddings": 256, "pad_token_id": 0},
        latent_query_num=4,
    )


@_tiny("llama4")
def _llama4() -> _Made:
    tower = {**_TOWER, "intermediate_size": 4 * _SIZE, "pixel_shuffle_ratio": 0.5, "vision_output_dim": _SIZE}
    widths = {"projector_input_dim": _SIZE, "projector_output_dim": _SIZE}
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size_mlp": 48}
    return _vl(
        "Llama4ForConditionalGeneration",
        {**_prompt(4), "pixel_values": _square()},
        vision_config={**tower, **widths},
        text_config={**_TEXT, **experts},
        image_token_index=IMAGE,
    )


@_tiny("molmo_layout")
def _molmo_layout() -> _Made:
    model = MolmoLayout(MolmoLayoutConfig(vocab_size=_VOCABULARY, hidden_size=_SIZE))
    images = {"images": torch.randn(1, 8, MolmoLayout.patch), "image_input_idx": torch.arange(2, 6)[None]}
    return model, {**_prompt(4), **images}


NAMES: Final = tuple(_RECIPES)
TEXT_ONLY: Final = tuple(name for name, (_, has) in _RECIPES.items() if names.VISION not in has)
VISION_MODELS: Final = tuple(name for name, (_, has) in _RECIPES.items() if names.VISION in has)


def bare(model_type: str) -> PreTrainedModel:
    """A model of transformers' default configuration, few layers, on the meta device: structure and no weights."""
    config = AutoConfig.for_model(model_type, **_DEFAULTS_MISSING.get(model_type, {}))
    _thin(config)
    with torch.device("meta"):
        if model_type == "qwen2_5_omni":
            return transformers.Qwen2_5OmniForConditionalGeneration._from_config(config)
        return AutoModelForImageTextToText.from_config(config)


_DEFAULTS_MISSING: Final[dict[str, dict[str, Any]]] = {
    "chameleon": {"vocabulary_map": {"<image>": 5}},
    "emu3": {"vocabulary_map": {"<image>": 5, "<|extra_200|>": 6, "<|visual token 000000|>": 7}},
}


def _thin(config: PretrainedConfig) -> None:
    for name, value in vars(config).items():
        if isinstance(value, PretrainedConfig):
            _thin(value)
        elif name in ("num_hidden_layers", "depth", "encoder_layers", "decoder_layers") and isinstance(value, int):
            setattr(config, name, 2)

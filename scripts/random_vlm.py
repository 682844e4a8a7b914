#!/usr/bin/env python3
"""Generate with a vision-language model of a published shape and random weights: nothing is downloaded.

    vlmtrace record --random-weights -o qwen.pftrace -- scripts/random_vlm.py --shape qwen2.5-vl-7b

What a stage costs does not depend on what the weights say, so a real architecture at its real size, with random
weights, is enough to see where the time goes. The picture is random pixels, laid out as the model's own processor
would have; the prompt is random token ids around it. Greedy, and never stopped early.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import BatchFeature

MROPE = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]}
QWEN_IDS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}


@dataclass(frozen=True)
class Shape:
    """A model class, the arguments of its config, and what one picture becomes."""

    model: str
    config: dict[str, Any]
    inputs: Callable[[Any, int, int], dict[str, torch.Tensor]]


def qwen_inputs(config: Any, batch: int, side: int) -> dict[str, torch.Tensor]:
    """``side`` × ``side`` visual tokens a picture, each of 2 × 2 patches, two frames deep."""
    patches = 2 * side
    image = torch.full((batch, side * side), config.image_token_id)
    start = torch.full((batch, 1), config.vision_start_token_id)
    end = torch.full((batch, 1), config.vision_end_token_id)
    ids = torch.cat([text(config, batch, 15), start, image, end, text(config, batch, 5)], dim=1)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == config.image_token_id).long(),
        "pixel_values": torch.randn(batch * patches * patches, 3 * 2 * config.vision_config.patch_size**2),
        "image_grid_thw": torch.tensor([[1, patches, patches]] * batch),
    }


def llava_inputs(config: Any, batch: int, side: int) -> dict[str, torch.Tensor]:  # noqa: ARG001
    """One picture of the tower's own size: 24 × 24 visual tokens at 336 pixels."""
    vision = config.vision_config
    image = torch.full((batch, (vision.image_size // vision.patch_size) ** 2), config.image_token_id)
    ids = torch.cat([text(config, batch, 5), image, text(config, batch, 15)], dim=1)
    pixels = torch.randn(batch, 3, vision.image_size, vision.image_size)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def square_inputs(tokens: Callable[[Any], int]) -> Callable[[Any, int, int], dict[str, torch.Tensor]]:
    """One picture of the tower's own size, as so many ``tokens``."""

    def inputs(config: Any, batch: int, side: int) -> dict[str, torch.Tensor]:  # noqa: ARG001
        size = config.vision_config.image_size
        size = size[0] if isinstance(size, (list, tuple)) else size
        image = torch.full((batch, tokens(config)), config.image_token_id)
        ids = torch.cat([text(config, batch, 5), image, text(config, batch, 15)], dim=1)
        made = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if config.model_type == "gemma3":
            made["token_type_ids"] = (ids == config.image_token_id).long()
        return made | {"pixel_values": torch.randn(batch, 3, size, size)}

    return inputs


def idefics_inputs(config: Any, batch: int, side: int) -> dict[str, torch.Tensor]:  # noqa: ARG001
    """One picture, not split into tiles."""
    vision = config.vision_config
    tokens = (vision.image_size // vision.patch_size) ** 2 // config.scale_factor**2
    image = torch.full((batch, tokens), config.image_token_id)
    ids = torch.cat([text(config, batch, 5), image, text(config, batch, 15)], dim=1)
    pixels = torch.randn(batch, 1, 3, vision.image_size, vision.image_size)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def mllama_inputs(config: Any, batch: int, side: int) -> dict[str, torch.Tensor]:  # noqa: ARG001
    """One picture of one tile, which the language model looks at in its cross-attention layers."""
    vision = config.vision_config
    ids = torch.cat([torch.full((batch, 1), config.image_token_index), text(config, batch, 20)], dim=1)
    tiles, size = vision.max_num_tiles, vision.image_size
    seen = torch.zeros(batch, ids.shape[1], 1, tiles, dtype=torch.long)
    seen[..., 0] = 1
    shown = torch.zeros(batch, 1, tiles, dtype=torch.long)
    shown[..., 0] = 1
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(batch, 1, tiles, 3, size, size),
        "aspect_ratio_ids": torch.ones(batch, 1, dtype=torch.long),
        "aspect_ratio_mask": shown,
        "cross_attention_mask": seen,
    }


def text(config: Any, batch: int, length: int) -> torch.Tensor:  # noqa: ARG001
    """Ordinary token ids, below every special one."""
    return torch.randint(100, 30_000, (batch, length))


def qwen(text_config: dict[str, Any], vision_config: dict[str, Any]) -> Shape:
    config = {
        "text_config": {"vocab_size": 152064, "rope_parameters": MROPE, **text_config},
        "vision_config": {"out_hidden_size": text_config["hidden_size"], **vision_config},
        **QWEN_IDS,
    }
    return Shape("Qwen2_5_VLForConditionalGeneration", config, qwen_inputs)


QWEN_TOWER = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "fullatt_block_indexes": [7, 15, 23, 31],
}

SHAPES = {
    "qwen2.5-vl-7b": qwen(
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
        },
        QWEN_TOWER,
    ),
    "qwen2.5-vl-0.5b": qwen(
        {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "rope_parameters": {**MROPE, "mrope_section": [8, 12, 12]},
        },
        {**QWEN_TOWER, "depth": 12, "fullatt_block_indexes": [3, 7, 11]},
    ),
    "llava-1.5-7b": Shape(
        "LlavaForConditionalGeneration",
        {
            "image_token_index": 32000,
            "text_config": {
                "model_type": "llama",
                "vocab_size": 32064,
                "hidden_size": 4096,
                "intermediate_size": 11008,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "num_key_value_heads": 32,
                "max_position_embeddings": 4096,
            },
            "vision_config": {
                "model_type": "clip_vision_model",
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "image_size": 336,
                "patch_size": 14,
                "projection_dim": 768,
            },
        },
        llava_inputs,
    ),
}
LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
}
SIGLIP = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}

SHAPES["qwen3-vl-8b"] = Shape(
    "Qwen3VLForConditionalGeneration",
    {
        "text_config": {
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5_000_000.0, "mrope_section": [24, 20, 20]},
        },
        "vision_config": {
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_heads": 16,
            "patch_size": 16,
            "out_hidden_size": 4096,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [8, 16, 24],
        },
        **QWEN_IDS,
    },
    qwen_inputs,
)
SHAPES["internvl3-8b"] = Shape(
    "InternVLForConditionalGeneration",
    {
        "image_token_id": 151667,
        "tie_word_embeddings": False,
        "text_config": {
            "model_type": "qwen2",
            "tie_word_embeddings": False,
            "vocab_size": 151674,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
        },
        "vision_config": {"image_size": [448, 448], "patch_size": [14, 14]},
    },
    square_inputs(lambda config: config.image_seq_length),
)
SHAPES["gemma3-4b"] = Shape(
    "Gemma3ForConditionalGeneration",
    {
        "image_token_id": 262144,
        "text_config": {
            "vocab_size": 262208,
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
        },
        "vision_config": {"image_size": 896, "patch_size": 14, **SIGLIP},
    },
    square_inputs(lambda config: config.mm_tokens_per_image),
)
SHAPES["idefics3-8b"] = Shape(
    "Idefics3ForConditionalGeneration",
    {
        "image_token_id": 128257,
        "text_config": {"model_type": "llama", "vocab_size": 128259, "pad_token_id": 128002, **LLAMA_8B},
        "vision_config": {"image_size": 364, "patch_size": 14, **SIGLIP},
    },
    idefics_inputs,
)
SHAPES["mllama-11b"] = Shape(
    "MllamaForConditionalGeneration",
    {
        "image_token_index": 128256,
        "text_config": {
            "vocab_size": 128256,
            "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
            "pad_token_id": 128004,
            **LLAMA_8B,
            "num_hidden_layers": 40,
        },
        "vision_config": {"image_size": 560, "patch_size": 14, "max_num_tiles": 4},
    },
    mllama_inputs,
)

TINY = qwen(
    {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {**MROPE, "mrope_section": [2, 3, 3]},
    },
    {"depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "fullatt_block_indexes": [1]},
)
SHAPES["qwen2.5-vl-tiny"] = TINY


def build(shape: str, device: str, dtype: torch.dtype, attention: str = "sdpa", seed: int = 0) -> Any:
    """The model of that shape, its random weights made on the device."""
    cls = getattr(transformers, SHAPES[shape].model)
    torch.manual_seed(seed)
    with torch.device(device):
        model = cls._from_config(
            cls.config_class(**SHAPES[shape].config), dtype=dtype, attn_implementation=attention
        ).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def make_inputs(model: Any, shape: str, batch: int = 1, side: int = 23, seed: int = 0) -> BatchFeature:
    """Inputs for ``generate()`` on the host: ``batch`` prompts with one picture each."""
    torch.manual_seed(seed)
    return BatchFeature(SHAPES[shape].inputs(model.config, batch, side))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2.5-vl-7b")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--attn", default="sdpa")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--side", type=int, default=23, help="visual tokens along a picture's side (Qwen shapes)")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--cache", choices=("dynamic", "static"), default="dynamic")
    options = parser.parse_args()

    model = build(options.shape, options.device, getattr(torch, options.dtype), options.attn)
    inputs = make_inputs(model, options.shape, options.batch, options.side)
    cache = {"cache_implementation": "static"} if options.cache == "static" else {}
    for _ in range(options.repeats):
        on_device = inputs.to(options.device, getattr(torch, options.dtype))
        with torch.inference_mode():
            ids = model.generate(**on_device, max_new_tokens=options.max_new_tokens, do_sample=False, **cache)
    new = ids.shape[1] - inputs["input_ids"].shape[1]
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{options.shape}: {parameters / 1e9:.2f} G random parameters, {options.repeats} × {new} new tokens")


if __name__ == "__main__":
    main()

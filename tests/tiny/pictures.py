"""Pictures: what the processor of each model type would make of one small image, as random tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

__all__ = ["pixels"]


def pixels(model: Any, model_type: str) -> dict[str, Tensor]:
    """One image in the layout that the model's feature method and forward want."""
    model = getattr(model, "thinker", model)
    config = model.config
    vision = getattr(config, "vision_config", None) or config
    patch = _first(getattr(vision, "patch_size", None)) or 8
    size = _first(getattr(vision, "image_size", None)) or 32
    if model_type in _OWN:
        return _OWN[model_type](config, vision, patch)
    if "image_grid_thw" in _parameters(model):
        return _grid(vision, model_type, patch)
    return {"pixel_values": torch.randn(1, 3, size, size)}


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) else value


def _parameters(model: Any) -> set[str]:
    named = set(inspect.signature(model.forward).parameters)
    for owner in (model.base_model, model):
        if hasattr(owner, "get_image_features"):
            return named | set(inspect.signature(owner.get_image_features).parameters)
    return named


def _grid(vision: Any, model_type: str, patch: int) -> dict[str, Tensor]:
    """Patches in a row, and how many frames, rows and columns they were: a square of 2 × 2 merged ones."""
    side = 2 * (_first(getattr(vision, "spatial_merge_size", None)) or 2)
    frames = 1 if model_type == "ernie4_5_vl_moe" else (_first(getattr(vision, "temporal_patch_size", None)) or 1)
    channels = next(
        (found for name in ("in_channels", "in_chans", "num_channels") if (found := getattr(vision, name, None))), 3
    )
    flat = (channels * frames * patch * patch,)
    return {
        "pixel_values": torch.randn(side * side, *flat),
        "image_grid_thw": torch.tensor([[1, side, side]]),
    }


def _square(*before: int) -> Callable[[Any, Any, int], dict[str, Tensor]]:
    return lambda config, vision, patch: {"pixel_values": torch.randn(*before, 3, 32, 32)}


def _sized(*before: int) -> Callable[[Any, Any, int], dict[str, Tensor]]:
    return lambda config, vision, patch: {
        "pixel_values": torch.randn(*before, 3, 32, 32),
        "image_sizes": torch.tensor([[32, 32]]),
    }


def _flattened(config: Any, vision: Any, patch: int) -> dict[str, Tensor]:
    places = torch.ones(1, 16, 2)
    return {"flattened_patches": torch.cat([places, torch.randn(1, 16, vision.patch_embed_hidden_size)], -1)}


def _in_one_row(config: Any, vision: Any, patch: int) -> dict[str, Tensor]:
    return {
        "pixel_values": torch.randn(1, 3, patch, 16 * patch),
        "target_sizes": torch.tensor([[4, 4]], dtype=torch.int32),
    }


def _positions(side: int) -> Tensor:
    steps = torch.arange(side)
    return torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).view(1, side * side, 2)


def _square64(config: Any, vision: Any, patch: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(1, 3, 64, 64)}


_OWN: Final[dict[str, Callable[[Any, Any, int], dict[str, Tensor]]]] = {
    **dict.fromkeys(("llava_next", "llava_next_video", "llava_onevision", "granite4_vision"), _sized(1, 2)),
    **dict.fromkeys(("mistral3", "lighton_ocr", "mistral_large4", "emu3"), _sized(1)),
    **dict.fromkeys(("idefics2", "idefics3", "smolvlm", "perception_lm"), _square(1, 1)),
    **dict.fromkeys(("t5gemma2", "chameleon"), _square(1)),
    **dict.fromkeys(("minicpm_ocr", "minicpmv4_6", "minicpmv4_7"), _in_one_row),
    **dict.fromkeys(("kosmos-2.5", "pix2struct"), _flattened),
    "instructblipvideo": lambda config, vision, patch: {
        "pixel_values": torch.randn(1, 1, 3, vision.image_size, vision.image_size)
    },
    "idefics": lambda config, vision, patch: {
        "pixel_values": torch.randn(1, 1, 3, 32, 32),
        "image_attention_mask": torch.ones(1, 4, 1, dtype=torch.long),
    },
    "deepseek_vl_hybrid": lambda config, vision, patch: {
        "pixel_values": torch.randn(1, 3, 32, 32),
        "high_res_pixel_values": torch.randn(1, 3, 64, 64),
    },
    "deepseek_ocr2": _square64,
    "unlimited_ocr": _square64,
    "granite_docling": lambda config, vision, patch: {
        "pixel_values": torch.randn(1, 1, 3, 32, 32),
        "pixel_attention_mask": torch.ones(1, 1, dtype=torch.bool),
    },
    "kimi_k25": lambda config, vision, patch: {
        "pixel_values": torch.randn(16, 3, patch, patch),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
    },
    "inkling2": lambda config, vision, patch: {
        "pixel_values": torch.randn(4, 2 * patch, 2 * patch, 3),
        "image_grid_thw": torch.tensor([[1, 2, 2]]),
    },
    **dict.fromkeys(
        ("muse_glimmer", "muse_spark"),
        lambda config, vision, patch: {
            "pixel_values": torch.randn(16, 3 * patch * patch * vision.patch_temporal),
            "image_grid_thw": torch.tensor([[1, 4, 4]]),
        },
    ),
    "nemotron_h_omni": lambda config, vision, patch: {
        "pixel_values": torch.randn(16, 3 * patch * patch),
        "image_grid_hw": torch.tensor([[4, 4]]),
    },
    "fuyu": lambda config, vision, patch: {"image_patches": torch.randn(1, 4, 3 * config.patch_size**2)},
    **dict.fromkeys(
        ("gemma4", "diffusion_gemma"),
        lambda config, vision, patch: {
            "pixel_values": torch.randn(1, 64, 3 * patch * patch),
            "image_position_ids": _positions(8),
        },
    ),
    "phi4_multimodal": lambda config, vision, patch: {
        "image_pixel_values": torch.randn(1, 2, 3, 32, 32),
        "image_sizes": torch.tensor([[32, 32]]),
        "image_attention_mask": torch.ones(1, 2, 4, 4, dtype=torch.bool),
    },
    "gemma4_unified": lambda config, vision, patch: {
        "pixel_values": torch.randn(1, 16, 6912),
        "image_position_ids": _positions(4),
    },
    "lfm2_vl": lambda config, vision, patch: {
        "pixel_values": torch.randn(1, 16, 3 * patch * patch),
        "spatial_shapes": torch.tensor([[4, 4]]),
        "pixel_attention_mask": torch.ones(1, 16, dtype=torch.long),
    },
    "mllama": lambda config, vision, patch: {
        "pixel_values": torch.randn(1, 1, 2, 3, 32, 32),
        "aspect_ratio_ids": torch.ones(1, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.ones(1, 1, 2, dtype=torch.long),
    },
    "molmo2": lambda config, vision, patch: {
        "pixel_values": torch.randn(1, 16, 3 * patch * patch),
        "image_token_pooling": torch.arange(16).view(4, 4),
        "image_grids": torch.tensor([[2, 2, 0, 0]]),
    },
    "paddleocr_vl": lambda config, vision, patch: {
        "pixel_values": torch.randn(16, 3, patch, patch),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
    },
    "video_llama_3": lambda config, vision, patch: {
        "pixel_values": torch.randn(16, 3 * patch * patch),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
        "image_merge_sizes": torch.tensor([2]),
    },
    "video_llava": lambda config, vision, patch: {"pixel_values_images": torch.randn(1, 3, 32, 32)},
}

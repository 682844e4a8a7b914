"""Outcomes: what a generation was given and what it made, read before and after it without asking the device."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vlmtrace.timeline.recording import Json

__all__ = ["count_until_end", "end_tokens", "generated_ids", "inputs_of", "on_host", "output_of"]


def inputs_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Json]:
    """Shapes of the tensors handed to ``generate()``, the batch and the number of images where the shapes tell it."""
    tensors = {f"args.{i}": value for i, value in enumerate(args)} | dict(kwargs)
    nested = tensors.pop("inputs", None)
    if isinstance(nested, torch.Tensor):
        tensors["inputs"] = nested
    shapes: dict[str, Json] = {
        name: list(value.shape) for name, value in tensors.items() if isinstance(value, torch.Tensor)
    }
    made: dict[str, Json] = {"shapes": shapes}
    text = shapes.get("input_ids") or shapes.get("inputs") or shapes.get("args.0") or shapes.get("inputs_embeds")
    if isinstance(text, list) and text:
        made["batch"] = text[0]
    images = _images(shapes)
    if images is not None:
        made["images"] = images
    return made


def _images(shapes: Mapping[str, Json]) -> int | None:
    """One row per image in ``image_grid_thw`` and its like; else pixel values have one image per leading index."""
    for name in ("image_grid_thw", "image_sizes", "image_grids", "target_sizes", "spatial_shapes", "aspect_ratio_ids"):
        shape = shapes.get(name)
        if isinstance(shape, list) and shape:
            if name == "aspect_ratio_ids" and len(shape) == 2:
                return int(str(shape[0])) * int(str(shape[1]))
            return int(str(shape[0]))
    for name in ("pixel_values", "pixel_values_images", "images"):
        shape = shapes.get(name)
        if isinstance(shape, list) and len(shape) >= 4:
            return int(str(shape[0]))
    return None


def generated_ids(result: Any) -> torch.Tensor | None:
    """The token ids in what ``generate()`` answered: a tensor, or an output with ``sequences``."""
    ids = result if isinstance(result, torch.Tensor) else getattr(result, "sequences", None)
    return ids if isinstance(ids, torch.Tensor) and ids.dim() == 2 else None


def on_host(ids: torch.Tensor) -> torch.Tensor:
    """A copy in pinned memory, not waited for: it is whole once the stream has passed this point."""
    return ids.to("cpu", non_blocking=True) if ids.device.type == "cuda" else ids


def end_tokens(generation_config: Any) -> frozenset[int]:
    """The end-of-sequence ids that the generation stopped at."""
    ids = getattr(generation_config, "eos_token_id", None)
    if ids is None:
        return frozenset()
    return frozenset((ids,) if isinstance(ids, int) else (int(i) for i in ids))


def count_until_end(rows: Sequence[Sequence[int]], ends: frozenset[int]) -> tuple[int, ...]:
    """New tokens of each sequence up to and including its first end-of-sequence token; padding is never counted."""
    counts = []
    for row in rows:
        stop = next((at + 1 for at, token in enumerate(row) if token in ends), len(row))
        counts.append(stop)
    return tuple(counts)


def output_of(rows: Sequence[Sequence[int]]) -> dict[str, Json]:
    """A fingerprint of the new token ids: equal for equal outputs, and not the text."""
    digest = hashlib.sha256(repr([list(row) for row in rows]).encode()).hexdigest()
    return {"ids_sha256": digest, "sequences": len(rows)}

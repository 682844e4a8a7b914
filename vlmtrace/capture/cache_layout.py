"""Cache layout: how many bytes a KV cache takes by its length, from the shapes of its tensors alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["CacheLayout", "layout_of"]


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """``fixed`` bytes that are there from the first token on, and ``growing``: bytes for each position, by how many
    positions are kept at most (``None``: all)."""

    fixed: int
    growing: tuple[tuple[int | None, int], ...]

    def bytes_at(self, length: int) -> int:
        """What a cache of ``length`` positions takes, over all its sequences."""
        return self.fixed + sum(
            size * (length if limit is None else min(length, limit)) for limit, size in self.growing
        )


def layout_of(cache: Any) -> CacheLayout | None:
    """The layout of a cache of transformers after its first forward; ``None`` where it holds a layer of another kind
    than the plain ones: quantised, recurrent, offloaded or shared with an encoder."""
    layers = getattr(cache, "layers", None)
    if not isinstance(layers, list) or not layers or getattr(cache, "offloading", False):
        return None
    fixed = 0
    growing: dict[int | None, int] = {}
    for layer in layers:
        kind = type(layer).__name__
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if not isinstance(keys, torch.Tensor) or not isinstance(values, torch.Tensor) or keys.dim() != 4:
            return None
        size = keys.nbytes + values.nbytes
        positions = keys.shape[-2]
        if kind in {"StaticLayer", "StaticSlidingWindowLayer"}:
            fixed += size
        elif kind in {"DynamicLayer", "DynamicSlidingWindowLayer"} and positions:
            limit = layer.sliding_window - 1 if kind == "DynamicSlidingWindowLayer" else None
            growing[limit] = growing.get(limit, 0) + size // positions
        else:
            return None
    return CacheLayout(fixed, tuple(growing.items()))

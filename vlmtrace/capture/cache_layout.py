"""Cache layout: how many bytes a KV cache takes by its length, from the shapes of its tensors alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

__all__ = ["CacheLayout", "CacheLayouts"]


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


class _Share(NamedTuple):
    """What a layer takes: ``size`` bytes; where it ``grows``, for each position, of which it keeps up to ``limit``."""

    size: int
    grows: bool
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    """A layout, and how to know it again: what each layer says of itself, and one layer of each share, by its place."""

    makes: Sequence[tuple[Any, ...]]
    samples: Mapping[_Share, int]
    layout: CacheLayout

    def fits(self, layers: Sequence[Any]) -> bool:
        """Whether a cache with these layers is such a one."""
        return self.makes == _makes(layers) and all(_share(layers[at]) == share for share, at in self.samples.items())


class CacheLayouts:
    """The layouts of models' caches. ``model`` is any number of its own.

    Asking all tensors of a few dozen layers takes time at the end of each ``generate()``, many times as long as this. A
    model's layers are alike but for their windows: where those are as before, one layer of each share tells the rest.
    """

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}

    def of(self, model: int, cache: Any) -> CacheLayout | None:
        """The layout of a cache of transformers after its first forward; ``None`` where it holds a layer of another
        kind than the plain ones: quantised, recurrent, offloaded or shared with an encoder."""
        layers = getattr(cache, "layers", None)
        if not isinstance(layers, list) or not layers or getattr(cache, "offloading", False):
            return None
        known = self._known.get(model)
        if known is not None and known.fits(layers):
            return known.layout
        samples: dict[_Share, int] = {}
        fixed = 0
        growing: dict[int | None, int] = {}
        for at, layer in enumerate(layers):
            share = _share(layer)
            if share is None:
                return None
            samples.setdefault(share, at)
            if share.grows:
                growing[share.limit] = growing.get(share.limit, 0) + share.size
            else:
                fixed += share.size
        layout = CacheLayout(fixed, tuple(growing.items()))
        self._known[model] = _Known(_makes(layers), samples, layout)
        return layout


def _makes(layers: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The class of each layer, how many positions it has (where it is static), and how wide its window is."""
    return [
        (type(layer), getattr(layer, "max_cache_len", None), getattr(layer, "sliding_window", None)) for layer in layers
    ]


def _share(layer: Any) -> _Share | None:
    """A layer's share; ``None`` where it is of no plain kind, or empty."""
    kind = type(layer).__name__
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    if not isinstance(keys, torch.Tensor) or not isinstance(values, torch.Tensor) or keys.dim() != 4:
        return None
    size = keys.nbytes + values.nbytes
    if kind in {"StaticLayer", "StaticSlidingWindowLayer"}:
        return _Share(size, grows=False)
    positions = keys.shape[-2]
    if kind in {"DynamicLayer", "DynamicSlidingWindowLayer"} and positions:
        return _Share(
            size // positions, True, layer.sliding_window - 1 if kind == "DynamicSlidingWindowLayer" else None
        )
    return None

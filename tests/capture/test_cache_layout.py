"""The cache's layout against real caches of transformers: the bytes it says are the bytes they hold."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, MistralConfig, StaticCache
from transformers.cache_utils import DynamicSlidingWindowLayer

from vlmtrace.capture import cache_layout
from vlmtrace.capture.cache_layout import CacheLayout, CacheLayouts

CONFIG = LlamaConfig(num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, hidden_size=32)
WINDOW = 6
WINDOWED = MistralConfig(
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    hidden_size=32,
    sliding_window=WINDOW,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"],
)


def held(cache: Any) -> int:
    return sum(one.numel() * one.element_size() for layer in cache.layers for one in (layer.keys, layer.values))


def fill(cache: Any, tokens: int, batch: int = 2) -> None:
    for at in range(CONFIG.num_hidden_layers):
        new = torch.zeros(batch, 2, tokens, 8, dtype=torch.bfloat16)
        cache.update(new, new.clone(), at, {"cache_position": torch.arange(tokens)})


@pytest.mark.parametrize("kind", ["dynamic", "sliding", "static"])
def test_its_bytes_are_those_that_the_tensors_hold_at_each_length(kind: str) -> None:
    made = {
        "dynamic": DynamicCache,
        "sliding": _with_a_window,
        "static": lambda: StaticCache(config=CONFIG, max_cache_len=32),
    }
    cache = made[kind]()
    fill(cache, 4)
    layout = CacheLayouts().of(0, cache)
    assert layout is not None
    for length in range(5, 12):
        fill(cache, 1)
        assert layout.bytes_at(length) == held(cache) > 0, length
    later = CacheLayouts().of(0, cache)
    assert later is not None
    assert later.bytes_at(4) == layout.bytes_at(4)


def _with_a_window() -> DynamicCache:
    cache = DynamicCache(config=CONFIG)
    cache.layers[1] = DynamicSlidingWindowLayer(WINDOW)
    return cache


def test_a_layer_of_another_kind_makes_it_unknown() -> None:
    class QuantisedLayer(DynamicSlidingWindowLayer):
        """Keeps its tensors in a form of its own."""

    cache = DynamicCache(config=CONFIG)
    cache.layers[2] = QuantisedLayer(WINDOW)
    fill(cache, 4)
    assert CacheLayouts().of(0, cache) is None


@pytest.mark.parametrize("cache", [None, (), object(), DynamicCache(config=CONFIG)])
def test_what_is_no_filled_cache_has_none(cache: object) -> None:
    assert CacheLayouts().of(0, cache) is None


def test_a_cache_of_the_same_make_is_known_by_one_layer_of_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    layouts, looked = CacheLayouts(), []
    share = cache_layout._share
    monkeypatch.setattr(cache_layout, "_share", lambda layer: looked.append(layer) or share(layer))
    made = []
    for _ in range(2):
        looked.clear()
        cache = _with_a_window()
        fill(cache, 4)
        made.append(layouts.of(0, cache))
    assert made[0] is made[1]
    assert looked == cache.layers[:2], "of the two that grow without end, the first; and the one with a window"


def test_a_cache_of_another_make_is_looked_at_anew() -> None:
    layouts = CacheLayouts()
    makes: list[Callable[[], Any]] = [
        lambda: DynamicCache(config=CONFIG),
        _with_a_window,
        lambda: StaticCache(config=CONFIG, max_cache_len=32),
        lambda: StaticCache(config=CONFIG, max_cache_len=64),
        lambda: StaticCache(config=WINDOWED, max_cache_len=WINDOW),  # here layers with a window take what others do,
        lambda: StaticCache(config=WINDOWED, max_cache_len=64),  # and here they do not
    ]
    for batch, make in product((2, 3), makes):
        for model in (0, 1):
            cache = make()
            fill(cache, 4, batch)
            layout = layouts.of(model, cache)
            assert layout is not None
            fill(cache, 1, batch)
            fill(cache, 1, batch)
            assert layout.bytes_at(6) == held(cache)


def test_a_window_keeps_one_position_less_than_it_is_wide() -> None:
    assert CacheLayout(100, ((None, 3), (5, 2))).bytes_at(9) == 100 + 27 + 10

"""Discovery against what really runs: every module is hooked here, by itself, while a model generates."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from torch import nn

from tests.models import NAMES, VISION_MODELS, build
from vlmtrace.capture.discovery.module_tree import within
from vlmtrace.capture.discovery.search import discover


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


def test_discovery_runs_nothing_and_changes_nothing() -> None:
    model = build("qwen2_vl").model
    before = {path: dict(vars(module)) for path, module in model.named_modules()}
    with _watching(model) as seen:
        discover(model)
    assert not seen.calls
    assert not seen.inside
    assert {path: dict(vars(module)) for path, module in model.named_modules()} == before

"""Touches: what code uses, read from its bytecode."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vlmtrace.capture.discovery.touches import reach


class Core(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower, self.side = nn.Linear(2, 2), nn.Linear(2, 2)
        self.decoder = nn.ModuleList([nn.Linear(2, 2)])

    def features(self, x: Tensor) -> Tensor:
        return self.tower(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.side(self.features(x))


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.core, self.head, self.unused = Core(), nn.Linear(2, 2), nn.Linear(2, 2)
        self.towers = nn.ModuleList([nn.Linear(2, 2)])

    @property
    def shortcut(self) -> nn.Module:
        return self.core.tower

    def through_property(self, x: Tensor) -> Tensor:
        return self.shortcut(x)

    @logged
    @torch.no_grad()
    def decorated(self, x: Tensor) -> Tensor:
        return self.head(x)

    def in_a_comprehension(self, x: Tensor) -> list[Tensor]:
        return [self.head(row) for row in x]

    def in_a_closure(self, x: Tensor) -> Tensor:
        def inner() -> Tensor:
            return self.head(x)

        return inner()

    def of_a_list(self, x: Tensor) -> Tensor:
        for tower in self.towers:
            x = tower(x)
        return x

    def by_method(self, x: Tensor) -> Tensor:
        return self.core.features(x).to(self.head.weight.dtype)

    def by_forward(self, x: Tensor) -> Tensor:
        return self.core.forward(x)

    def round_and_round(self, x: Tensor) -> Tensor:
        return self.round_and_round(self.head(x))

    def same_name_elsewhere(self, config: Any) -> Any:
        return config.unused

    def features(self, x: Tensor) -> Tensor:
        return self.core.features(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.core(x))


def touched(method: str, *, follow_core: bool = True) -> list[str]:
    model = Model()
    paths = {id(module): path for path, module in model.named_modules()}
    trunk = {id(model), id(model.core)} if follow_core else {id(model)}
    return [f"{paths[id(t.module)]}{'.' + t.via + '()' if t.via else ''}" for t in reach(model, method, trunk).touches]


def test_a_forward_touches_what_the_modules_on_the_trunk_call() -> None:
    assert sorted(touched("forward")) == ["core.side", "core.tower", "head"]


def test_a_module_off_the_trunk_is_named_and_not_looked_into() -> None:
    assert sorted(touched("forward", follow_core=False)) == ["core", "head"]


def test_a_module_called_through_its_own_method_says_which() -> None:
    assert touched("by_method", follow_core=False) == ["core.features()", "head"]


def test_helper_methods_are_followed_on_the_trunk() -> None:
    assert touched("features") == ["core.tower"]


def test_properties_are_followed() -> None:
    assert touched("through_property") == ["core.tower"]


def test_decorators_do_not_hide_what_a_method_touches() -> None:
    assert touched("decorated") == ["head"]


def test_code_nested_in_a_method_counts() -> None:
    assert touched("in_a_comprehension") == touched("in_a_closure") == ["head"]


def test_a_list_of_modules_is_touched_as_the_list() -> None:
    assert touched("of_a_list") == ["towers"]


def test_a_method_that_calls_itself_ends() -> None:
    assert touched("round_and_round") == ["head"]


def test_an_attribute_of_another_object_is_not_taken_for_a_module() -> None:
    assert touched("same_name_elsewhere") == []


def test_a_method_that_is_not_there_touches_nothing() -> None:
    assert touched("nowhere") == []


def test_a_module_whose_forward_is_called_by_name_is_bypassed_and_followed() -> None:
    model = Model()
    result = reach(model, "by_forward", {id(model), id(model.core)})
    assert result.bypassed == {id(model.core)}
    assert {id(t.module) for t in result.touches} == {id(model.core.tower), id(model.core.side)}


def test_following_stops_where_it_is_told_to() -> None:
    model = Model()
    trunk = {id(model), id(model.core)}
    assert reach(model, "features", trunk, {(id(model), "features"), (id(model.core), "features")}).touches == []

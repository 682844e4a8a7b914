"""The module tree: paths, shells, shared modules."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vlmtrace.capture.discovery.module_tree import ModuleTree, children, peel, within

_NAMES = st.sampled_from(["a", "b", "ab", "0", "model"])
_TREES: st.SearchStrategy[Any] = st.recursive(
    st.none(), lambda inner: st.dictionaries(_NAMES, inner, max_size=3), max_leaves=12
)


def _module(shape: dict[str, Any] | None) -> nn.Module:
    module = nn.Module()
    for name, inner in (shape or {}).items():
        module.add_module(name, _module(inner))
    return module


class Shell(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


@given(_TREES)
def test_paths_and_modules_are_inverse_and_the_same_as_torchs_own(shape: dict[str, Any] | None) -> None:
    root = _module(shape)
    tree = ModuleTree(root)
    assert tree.modules == dict(root.named_modules())
    assert all(tree.path_of(module) == path for path, module in tree.modules.items())


@given(_TREES)
def test_below_a_path_and_on_the_way_to_it_are_the_two_sides_of_within(shape: dict[str, Any] | None) -> None:
    tree = ModuleTree(_module(shape))
    for path in tree.modules:
        assert [at for at, _ in tree.below(path)] == [at for at in tree.modules if at != path and within(at, path)]
        assert list(tree.ancestors(path)) == [m for at, m in tree.modules.items() if within(path, at)]


def test_a_path_that_only_begins_alike_is_not_within() -> None:
    assert not within("model.layers_extra", "model.layers")
    assert within("model.layers", "model.layers")
    assert within("model.layers.0", "")


def test_a_shared_module_keeps_its_first_path() -> None:
    root, shared = nn.Module(), nn.Linear(2, 2)
    root.first, root.second = shared, shared
    assert ModuleTree(root).path_of(shared) == "first"


def test_a_shell_inside_a_model_has_no_name_in_paths_and_stands_for_what_it_holds() -> None:
    root = nn.Module()
    root.tower = torch.compile(Shell(nn.Sequential(nn.Linear(2, 2))))
    tree = ModuleTree(root)
    assert list(tree.modules) == ["", "tower", "tower.0"]
    assert tree.modules["tower"] is root.tower
    assert tree.path_of(peel(root.tower)) == "tower"


def test_what_is_not_in_the_tree_has_no_path() -> None:
    tree = ModuleTree(nn.Linear(2, 2))
    assert tree.path_of(nn.Linear(2, 2)) is None
    assert tree.path_of(None) is None


def test_a_module_with_a_child_named_module_and_another_is_no_shell() -> None:
    shell = Shell(nn.Linear(2, 2))
    shell.head = nn.Linear(2, 2)
    assert peel(shell) is shell


def test_a_child_that_is_none_is_not_there() -> None:
    module = nn.Module()
    module.register_module("tower", None)
    assert children(module) == []

"""Stage paths: ``--stage NAME=MODULE.PATH`` resolved against a model, or an error that says where the path ends."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from torch import nn

from vlmtrace.capture.discovery.anatomy import Part
from vlmtrace.capture.discovery.module_tree import ModuleTree, children, peel
from vlmtrace.errors import UsageError
from vlmtrace.timeline import names

__all__ = ["LANGUAGE_MODEL", "given_parts", "unfolded"]

LANGUAGE_MODEL: Final = "language_model"
_STAGES: Final = (names.VISION, names.ENCODER, names.PROJECTOR, LANGUAGE_MODEL, names.LAYER, names.LM_HEAD)
_SINGLE: Final = (LANGUAGE_MODEL, names.LM_HEAD)
_WRAPPERS: Final = ("_orig_mod.", "module.", "_fsdp_wrapped_module.", "base_model.model.", "base_model.")
"""What stands in front of a path in ``named_modules()`` of torch's wrappers and PEFT's."""


def given_parts(tree: ModuleTree, overrides: Mapping[str, Sequence[str]]) -> dict[str, tuple[Part, ...]]:
    """The parts a person named, by stage name (``vision`` counts as ``vision.encoder``).

    Raises:
        UsageError: no such stage, no such module, two modules where there can be one, or a ``layer`` that holds none.
    """
    given: dict[str, tuple[Part, ...]] = {}
    for stage, paths in overrides.items():
        if stage not in _STAGES:
            raise UsageError(f"--stage {stage!r} is no stage that can be set", f"choose from {', '.join(_STAGES)}")
        key = names.ENCODER if stage == names.VISION else stage
        for path in paths:
            given[key] = (*given.get(key, ()), *_parts(tree, stage, path))
        if key in _SINGLE and len(given.get(key, ())) > 1:
            raise UsageError(f"--stage {stage} names {len(given[key])} modules", "name one")
    return given


def _parts(tree: ModuleTree, stage: str, path: str) -> tuple[Part, ...]:
    known = _known_path(tree, stage, path)
    part = Part(tree.modules[known], known, "--stage")
    if stage == LANGUAGE_MODEL:
        return (part,)
    parts = tuple(_elements(part)) if stage == names.LAYER else unfolded(part)
    if not parts:
        raise UsageError(
            f"--stage {stage}={path}: a {type(part.module).__name__} holds no numbered modules",
            "name the list that holds the blocks" if stage == names.LAYER else "name a module that is called",
        )
    return parts


def _known_path(tree: ModuleTree, stage: str, path: str) -> str:
    """The path under which the tree knows the module at ``path``, which may name shells or a shared module's twin.

    It may count from a wrapper around the root too, which somebody holds and ``generate()`` does not see.
    """
    for inner in _without_wrappers(path):
        at: nn.Module | None = tree.root
        for name in inner.split("."):
            at = None if at is None else _child(at, name)
        if at is not None:
            return tree.path_of(peel(at)) or ""
    raise _unknown(tree, stage, path)


def _child(module: nn.Module, name: str) -> nn.Module | None:
    return dict(children(module)).get(name, module._modules.get(name))


def _without_wrappers(path: str) -> Iterator[str]:
    """``path``, then what is left of it without the names of wrappers in front of it."""
    yield path
    for wrapper in _WRAPPERS:
        if path.startswith(wrapper):
            yield from _without_wrappers(path.removeprefix(wrapper))


def _unknown(tree: ModuleTree, stage: str, path: str) -> UsageError:
    """How far ``path`` leads, and what it may have been meant to be."""
    at, reached, name = tree.root, "", ""
    for name in path.split("."):
        child = _child(at, name)
        if child is None:
            break
        at, reached = child, f"{reached}.{name}" if reached else name
    where = f"{reached!r} ({type(peel(at)).__name__})" if reached else type(tree.root).__name__
    near = difflib.get_close_matches(path, filter(None, tree.modules), n=3, cutoff=0.5)
    inside = [f"{reached}.{known}" if reached else known for known, _ in children(at)]
    known = near or inside[:6] or ["no modules"]
    return UsageError(
        f"--stage {stage}={path}: no module {path!r}, {where} has no {name!r}",
        f"{'nearest' if near else 'it holds'}: {', '.join(known)}",
    )


def unfolded(part: Part) -> tuple[Part, ...]:
    """``part``, or for a list, which is never called itself, the modules it holds."""
    if not isinstance(peel(part.module), nn.ModuleList | nn.ModuleDict):
        return (part,)
    return tuple(leaf for element in _elements(part) for leaf in unfolded(element))


def _elements(part: Part) -> list[Part]:
    if not isinstance(peel(part.module), nn.ModuleList | nn.ModuleDict | nn.Sequential):
        return []
    return [Part(child, f"{part.path}.{name}", part.how, part.guess) for name, child in children(part.module)]

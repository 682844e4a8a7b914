"""The language side of a model: what generates, where the language model is, its blocks and its head."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Final

from torch import nn

from vlmtrace.capture.discovery.anatomy import Part
from vlmtrace.capture.discovery.module_tree import ModuleTree, children, peel, within
from vlmtrace.capture.discovery.stage_paths import LANGUAGE_MODEL, unfolded
from vlmtrace.capture.discovery.touches import class_function, reach
from vlmtrace.timeline import names

__all__ = ["FEATURE_METHODS", "SOUND", "VISION", "LanguageSide", "ask", "blocks_below", "overrides_generate"]

FEATURE_METHODS: Final = ("get_image_features", "get_video_features")
VISION: Final = re.compile(r"vision|visual|image|img|video|pixel|(^|_)(vit|vq)")
SOUND: Final = re.compile(r"audio|speech|sound|talker|wav")
OTHER_SIDES: Final = re.compile(f"{VISION.pattern}|{SOUND.pattern}")
_TEXT: Final = re.compile(r"text|language|decoder|llm|(^|_)lm$")
_BLOCKS: Final = re.compile(r"^(layers?|h|(res)?blocks?)$")
_HEAD: Final = re.compile(r"^(lm_head|output|decoder|ff_out|embed_out)$")


class LanguageSide:
    """One model's language side; each part is found on first use, since each leans on those before it."""

    def __init__(self, tree: ModuleTree, given: Mapping[str, tuple[Part, ...]]) -> None:
        self.tree = tree
        self.given = given

    @cached_property
    def generating(self) -> tuple[Part, ...]:
        """The root, if it can generate, and the modules inside whose ``generate()`` the root's own one calls."""
        root = self.tree.root
        if class_function(root, "generate") is None:
            return ()
        whole = Part(root, "", f"generate() of {type(root).__name__}")
        if not overrides_generate(root):
            return (whole,)
        inner = {
            id(peel(touch.module)): self.part(touch.module, "its generate() is called by the model's own")
            for touch in reach(root, "generate", {id(root)}).touches
            if touch.via == "generate"
        }
        speaking = [part for part in inner.values() if not SOUND.search(part.path)]
        return (whole, *(speaking or inner.values()))

    @cached_property
    def body(self) -> nn.Module:
        """The module that sees and speaks: the root, or the one inside it that does both (an omni thinker)."""
        for part in self.generating[1:]:
            inner = peel(part.module)
            if any(class_function(inner, method) is not None for method in FEATURE_METHODS):
                return inner
        return self.tree.root

    @cached_property
    def body_path(self) -> str:
        return self.tree.path_of(self.body) or ""

    @cached_property
    def language_model(self) -> Part:
        """What ``get_decoder()`` answers, or the whole core of a model whose language model is no module of its own."""
        if LANGUAGE_MODEL in self.given:
            return self.given[LANGUAGE_MODEL][0]
        path = self.tree.path_of(ask(self.body, "get_decoder"))
        if path is not None and path != self.body_path:
            return Part(self.tree.modules[path], path, "get_decoder()")
        core = self._core()
        for holder in (self.body, peel(core)):
            for name, child in children(holder):
                if _TEXT.search(name) and not SOUND.search(name) and _holds_list(child):
                    return self.part(child, f"named {name}", guess=True)
        return self.part(core, "the whole core")

    def _core(self) -> nn.Module:
        for core in (getattr(self.body, "base_model", None), self.body._modules.get("model")):
            if isinstance(core, nn.Module) and core is not self.body and self.tree.path_of(core) is not None:
                return core
        return self.body

    @cached_property
    def trunk(self) -> frozenset[int]:
        """Ids of the modules from the root to the language model: their code is read on, all others are parts."""
        return frozenset(map(id, self.tree.ancestors(self.language_model.path)))

    @cached_property
    def layers(self) -> tuple[Part, ...]:
        """The decoder blocks in order."""
        return self.given.get(names.LAYER) or blocks_below(self.tree, self.language_model.path, OTHER_SIDES)

    @cached_property
    def lm_head(self) -> Part | None:
        if names.LM_HEAD in self.given:
            return self.given[names.LM_HEAD][0]
        for owner in (self.body, *(peel(part.module) for part in reversed(self.generating))):
            path = self.tree.path_of(ask(owner, "get_output_embeddings"))
            if path is not None:
                return Part(self.tree.modules[path], path, "get_output_embeddings()")
        for path, module in reversed(list(self.tree.below(self.body_path))):
            if self._like_a_head(path, peel(module)):
                return Part(module, path, f"named {path.rpartition('.')[2]}", guess=True)
        return None

    def _like_a_head(self, path: str, module: nn.Module) -> bool:
        """A leaf with a weight and a head's name, neither in the blocks nor on the side of seeing or hearing."""
        if module._parameters.get("weight") is None or children(module) or not _HEAD.search(path.rpartition(".")[2]):
            return False
        return not (OTHER_SIDES.search(path) or any(within(path, p.path) for p in self.layers))

    def part(self, module: nn.Module, how: str, guess: bool = False) -> Part:
        """``module``, which is in the tree, as a part."""
        return Part(module, self.tree.path_of(module) or "", how, guess)


def blocks_below(tree: ModuleTree, path: str, avoid: re.Pattern[str] | None = None) -> tuple[Part, ...]:
    """The blocks below ``path``: of the outermost lists the one named like blocks, then with most parameters.

    Lists whose path below ``path`` ``avoid`` finds something in are left out, and those of an encoder come last where
    there is something to avoid: they belong to the other half of an encoder-decoder language model.
    """
    lists: list[tuple[str, nn.Module]] = []
    for at, module in tree.below(path):
        if not isinstance(peel(module), nn.ModuleList) or not children(module):
            continue
        if not (avoid and avoid.search(at[len(path) :])) and not any(within(at, outer) for outer, _ in lists):
            lists.append((at, module))

    def rank(candidate: tuple[str, nn.Module]) -> tuple[bool, bool, int]:
        at, module = candidate
        away = avoid is not None and "encoder" in at[len(path) :]
        size = sum(parameter.numel() for parameter in module.parameters())
        return not away, _BLOCKS.search(at.rpartition(".")[2]) is not None, size

    if not lists:
        return ()
    best, module = max(lists, key=rank) if len(lists) > 1 else lists[0]
    return unfolded(Part(module, best, f"blocks of {path or type(tree.root).__name__}"))


def overrides_generate(module: nn.Module) -> bool:
    """Whether a class of its own, and not transformers' mixin, defines ``generate()``."""
    owner = next((cls for cls in type(module).__mro__ if "generate" in vars(cls)), None)
    return owner is not None and owner.__name__ != "GenerationMixin"


def ask(module: nn.Module, method: str, *arguments: object) -> object:
    """What one of transformers' look-ups answers; ``None`` where it is missing or raises.

    Such a look-up walks attributes and may be overridden by anybody's remote code: whatever goes wrong in it means
    only that it has no answer.
    """
    function = getattr(module, method, None)
    try:
        return function(*arguments) if callable(function) else None
    except Exception:
        return None


def _holds_list(module: nn.Module) -> bool:
    return any(isinstance(inner, nn.ModuleList) for inner in module.modules())

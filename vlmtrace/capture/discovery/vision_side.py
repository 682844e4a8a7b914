"""The vision side of a model: the methods that make image features, the encoders and the projectors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Final

from torch import nn

from vlmtrace.capture.discovery.anatomy import FeatureMethod, Part
from vlmtrace.capture.discovery.language_side import (
    FEATURE_METHODS,
    SOUND,
    VISION,
    LanguageSide,
    ask,
    blocks_below,
    overrides_generate,
)
from vlmtrace.capture.discovery.module_tree import children, peel, within
from vlmtrace.capture.discovery.stage_paths import unfolded
from vlmtrace.capture.discovery.touches import Reach, Touch, class_function, reach
from vlmtrace.timeline import names

__all__ = ["VisionSide"]

_PROJECTOR: Final = re.compile(r"proj|merger|adapter|connector|align|resampl|pool|qformer|downsample|neck")
_INNER: Final = re.compile(r"merger|adapter|connector|projector|downsample|pooling_2d")
_PATCHES: Final = re.compile(f"{VISION.pattern}|patch")
_SEEN: Final = frozenset(("image", "video"))
_PIXELS: Final = frozenset(("pixel_values", "flattened_patches", "pixel_values_videos"))


class VisionSide:
    """One model's vision side, found with the language side as its background."""

    def __init__(self, language: LanguageSide) -> None:
        self.language = language
        self.tree = language.tree
        self.given = language.given
        self.joint: str | None = None
        """The path of an encoder that reads words and image together, once :attr:`encoders` has been asked for."""

    @cached_property
    def feature_methods(self) -> tuple[FeatureMethod, ...]:
        """The feature methods that a generation calls."""
        if len(self.language.generating) < 2 or self.language.body is not self.tree.root:
            return self._feature_owners
        # A model with its own generate() may have a feature method which that generate() never calls.
        return tuple(f for f in self._feature_owners if (id(f.owner), f.method) in self.running.followed)

    @cached_property
    def _feature_owners(self) -> tuple[FeatureMethod, ...]:
        return tuple(found for method in FEATURE_METHODS for found in self._owners_of(method))

    def _owners_of(self, method: str) -> list[FeatureMethod]:
        """The modules whose ``method`` does the work itself instead of handing it to another owner."""
        lists = {part.path.rpartition(".")[0] for part in self.language.layers}
        owners = {
            path: peel(module)
            for path, module in self.tree.modules.items()
            if class_function(peel(module), method) is not None
            and within(path, self.language.body_path)
            and not any(within(path, blocks) for blocks in lists)
        }
        stop = {(id(owner), method) for owner in owners.values()}
        used: list[str] = []
        found: list[FeatureMethod] = []
        for path, owner in owners.items():
            touches = reach(owner, method, self.language.trunk | {id(owner)}, stop).touches
            paths = [self._path(touch) for touch in touches if touch.via != method and _has_weights(touch.module)]
            if paths and not any(within(path, other) for other in used):
                used += paths
                found.append(FeatureMethod(owner, path, method, f"method of {type(owner).__name__}"))
        return found

    @cached_property
    def featured(self) -> list[Touch]:
        """What the feature methods touch, called or not."""
        return [
            touch
            for found in self._feature_owners
            for touch in reach(found.owner, found.method, self.language.trunk | {id(found.owner)}).touches
        ]

    @cached_property
    def running(self) -> Reach:
        """What the body's own ``generate()`` touches, else its ``forward``."""
        own = overrides_generate(self.language.body) and len(self.language.generating) > 1
        return reach(self.language.body, "generate" if own else "forward", self.language.trunk)

    @cached_property
    def encoders(self) -> tuple[Part, ...]:
        if names.ENCODER in self.given:
            return self.given[names.ENCODER]
        asked = self._asked_encoder()
        found = {} if asked is None else {asked.path: asked}
        for touch in self.featured:
            path = self._path(touch)
            if _sees_only(touch.module) and self._may_see(path) and not _PROJECTOR.search(_name(path)):
                found.setdefault(path, Part(touch.module, path, f"touched by {touch.where}"))
        if not found:
            found = {part.path: part for part in self._fallback_encoder()}
        return tuple(leaf for part in found.values() for inner in self._running_parts(part) for leaf in unfolded(inner))

    def _running_parts(self, part: Part) -> Iterable[Part]:
        """``part``, or what runs of it where only a method of its own is called and never its forward.

        An image tokeniser is such a part: ``encode()`` runs its encoder and its quantiser, and its decoder never runs.
        """
        vias = {t.via for t in (*self.featured, *self.running.touches) if t.module is part.module and not t.reads}
        if len(vias) != 1 or "" in vias:
            return (part,)
        (via,) = vias
        inner = peel(part.module)
        touched = {id(t.module): t for t in reach(inner, via, {id(inner)}).touches if _has_weights(t.module)}
        how = f"touched by {via}() of {part.path}"
        return [Part(t.module, self._path(t), how, part.guess) for t in touched.values() if not t.reads] or (part,)

    def _asked_encoder(self) -> Part | None:
        path = self.tree.path_of(ask(self.language.body, "get_encoder", "image"))
        if path is None or not self._may_see(path):
            return None
        return Part(self.tree.modules[path], path, "get_encoder(image)")

    def _fallback_encoder(self) -> Iterable[Part]:
        """Where transformers names no image encoder: what the code touches, then names."""
        touched = [t for t in self.featured if self._may_see(self._path(t))]
        named = [t for t in touched if VISION.search(_name(self._path(t)))] or touched
        for touch in named[:1]:
            return (Part(touch.module, self._path(touch), f"touched by {touch.where}"),)
        for touch in self.running.touches:
            path = self._path(touch)
            if VISION.search(_name(path)) and not _PROJECTOR.search(_name(path)) and self._may_see(path):
                return (Part(touch.module, path, f"touched by {touch.where}, named {_name(path)}", guess=True),)
        encoder = self.tree.path_of(ask(self.language.body, "get_encoder"))
        encoder = encoder if encoder != self.language.body_path else self._child_named_encoder()
        if encoder and _takes_pixels(self.language.body, self.tree.modules[encoder]):
            if self._may_see(encoder):
                return (Part(self.tree.modules[encoder], encoder, "get_encoder()"),)
            if found := self._eye_of(encoder):
                return (found,)
        for path, module in self.tree.below(self.language.body_path):
            if _sees_only(module) and self._may_see(path):
                return (Part(module, path, f"takes pixels, a {type(peel(module)).__name__}", guess=True),)
        return ()

    def _eye_of(self, encoder: str) -> Part | None:
        """In an encoder that reads words and image together: what makes embeddings of the image."""
        module = peel(self.tree.modules[encoder])
        for touch in reach(module, "forward", {id(module)}).touches:
            path = self._path(touch)
            if _PATCHES.search(_name(path)) and _has_weights(touch.module):
                self.joint = encoder
                return Part(touch.module, path, f"named {_name(path)}, touched by forward of {encoder}", guess=True)
        return None

    def _child_named_encoder(self) -> str | None:
        return self.tree.path_of(self.language.body._modules.get("encoder"))

    def _may_see(self, path: str) -> bool:
        """Whether the module at ``path`` can be an encoder: weights, and neither words, hearing nor blocks in it."""
        if id(peel(self.tree.modules[path])) in self.language.trunk or SOUND.search(path):
            return False
        module = self.tree.modules[path]
        blocks = (part.path for part in self.language.layers[:1])
        return _has_weights(module) and not self._reads_words(module) and not any(within(at, path) for at in blocks)

    def _reads_words(self, module: nn.Module) -> bool:
        """Whether an embedding of the words' own size is inside: the same one, or one whose weights are tied to it."""
        words = None if self._words is None else peel(self.tree.modules[self._words])
        size = getattr(getattr(words, "weight", None), "shape", None)
        tables = (peel(inner) for inner in module.modules())
        return any(
            table is words or (isinstance(table, nn.Embedding) and table.weight.shape == size) for table in tables
        )

    @cached_property
    def _words(self) -> str | None:
        return self.tree.path_of(ask(self.language.body, "get_input_embeddings"))

    @cached_property
    def projectors(self) -> tuple[Part, ...]:
        """What lies between the encoders and the language model."""
        if names.PROJECTOR in self.given:
            return tuple(part for part in self.given[names.PROJECTOR] if not self._inside_encoder(part.path))
        if not self.encoders:
            return ()
        found: dict[str, Part] = {}
        for touch in self.featured:
            path = self._path(touch)
            if self._may_project(path):
                found.setdefault(path, Part(touch.module, path, f"touched by {touch.where}"))
        for touch in (*self.running.touches, *self._beside_encoder()):
            path = self._path(touch)
            if self._may_project(path) and (VISION.search(_name(path)) or _PROJECTOR.search(_name(path))):
                found.setdefault(path, Part(touch.module, path, f"touched by {touch.where}, named {_name(path)}"))
        parts = found.values() or (() if self._inner else self._named_beside_encoder())
        return tuple(leaf for part in parts for leaf in unfolded(part))

    def _named_beside_encoder(self) -> list[Part]:
        """The last resort for a projector that no readable code touches: a sibling of the encoder, by its name."""
        holders = {part.path.rpartition(".")[0] for part in self.encoders}
        return [
            Part(module, path, f"named {_name(path)}, beside the encoder", guess=True)
            for path, module in self.tree.modules.items()
            if path and path.rpartition(".")[0] in holders
            if _PROJECTOR.search(_name(path)) and self._may_project(path)
        ]

    def _beside_encoder(self) -> list[Touch]:
        """What the module that holds an encoder found by name alone touches beside it."""
        holders = {path.rpartition(".")[0] for path in (part.path for part in self.encoders if part.guess)}
        holders = {path for path in holders if id(peel(self.tree.modules[path])) not in self.language.trunk}
        return [
            touch
            for path in sorted(holders)
            for touch in reach(self.tree.modules[path], "forward", {id(peel(self.tree.modules[path]))}).touches
        ]

    def _may_project(self, path: str) -> bool:
        module = self.tree.modules[path]
        if id(peel(module)) in self.language.trunk or SOUND.search(path) or not _has_weights(module):
            return False
        taken = [part.path for part in (*self.encoders, *self.language.layers)]
        taken += [path for path in (self._words, self._head_path) if path is not None]
        lm = self.language.language_model.path
        if not any(within(part.path, lm) for part in self.encoders):
            taken.append(lm)
        return not any(within(path, other) or within(other, path) for other in taken)

    @cached_property
    def _head_path(self) -> str | None:
        return None if self.language.lm_head is None else self.language.lm_head.path

    @cached_property
    def inner_projectors(self) -> tuple[Part, ...]:
        """Where nothing lies between encoder and language model: the encoder's own last part that does this work."""
        if names.PROJECTOR in self.given:
            return tuple(part for part in self.given[names.PROJECTOR] if self._inside_encoder(part.path))
        return () if self.projectors else self._inner

    @cached_property
    def _inner(self) -> tuple[Part, ...]:
        found: list[Part] = []
        for encoder in self.encoders:
            inner = peel(encoder.module)
            called = {id(peel(touch.module)) for touch in reach(inner, "forward", {id(inner)}).touches}
            for name, child in children(inner):
                if _INNER.search(name) or (name.startswith(("image_", "img_")) and _PROJECTOR.search(name)):
                    touched = id(peel(child)) in called
                    how = f"named {name} in the encoder" + (", touched by its forward" if touched else "")
                    found += unfolded(Part(child, f"{encoder.path}.{name}", how, guess=not touched))
        return tuple(found)

    @cached_property
    def vision_layers(self) -> tuple[Part, ...]:
        return tuple(block for part in self.encoders for block in blocks_below(self.tree, part.path))

    def _inside_encoder(self, path: str) -> bool:
        return any(within(path, encoder.path) for encoder in self.encoders)

    def _path(self, touch: Touch) -> str:
        return self.tree.path_of(touch.module) or ""


def _name(path: str) -> str:
    return path.rpartition(".")[2]


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _modalities(module: nn.Module) -> frozenset[str]:
    named = getattr(type(peel(module)), "input_modalities", ())
    return frozenset((named,) if isinstance(named, str) else named)


def _sees_only(module: nn.Module) -> bool:
    """Whether transformers says of the module's class that it takes images or videos and no text."""
    modalities = _modalities(module)
    return bool(modalities) and modalities <= _SEEN


def _takes_pixels(*modules: nn.Module) -> bool:
    return any(
        getattr(type(peel(module)), "main_input_name", "") in _PIXELS or not _SEEN.isdisjoint(_modalities(module))
        for module in modules
    )

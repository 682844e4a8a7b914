"""Discovery: find the parts of a vision-language model that are worth timing, without running it.

No table of models. What transformers itself answers is asked first (``get_decoder``, ``get_encoder``,
``get_output_embeddings``, ``get_*_features``); then what the code of these methods touches, read from its bytecode;
a module's name decides only where both are silent, and then the part is called a guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from torch import nn

from vlmtrace.capture.discovery.anatomy import Anatomy
from vlmtrace.capture.discovery.language_side import VISION, LanguageSide
from vlmtrace.capture.discovery.module_tree import ModuleTree, peel
from vlmtrace.capture.discovery.stage_paths import given_parts
from vlmtrace.capture.discovery.vision_side import VisionSide

__all__ = ["discover"]


def discover(model: nn.Module, overrides: Mapping[str, Sequence[str]] = MappingProxyType({})) -> Anatomy:
    """What to trace in ``model``; reads code and the module tree, never runs the model or touches a parameter's data.

    ``overrides`` maps a stage name (``vision``, ``vision.encoder``, ``vision.projector``, ``language_model``,
    ``layer``, ``lm_head``) to module paths that take the place of what would be found.

    Raises:
        UsageError: a stage name or a module path of ``overrides`` does not exist.
    """
    tree = ModuleTree(peel(model))
    language = LanguageSide(tree, given_parts(tree, overrides))
    vision = VisionSide(language)
    return Anatomy(
        root=tree.root,
        feature_methods=vision.feature_methods,
        encoders=vision.encoders,
        projectors=vision.projectors,
        inner_projectors=vision.inner_projectors,
        language_model=language.language_model,
        layers=language.layers,
        vision_layers=vision.vision_layers,
        lm_head=language.lm_head,
        generating=language.generating,
        notes=tuple(_notes(language, vision)),
    )


def _notes(language: LanguageSide, vision: VisionSide) -> Iterator[str]:
    """What a person should know before trusting the rest, one clause each."""
    tree = language.tree
    if not language.generating:
        yield f"{type(tree.root).__name__} has no generate()"
    if not vision.encoders:
        yield from (f"{path} is None" for path in _empty_towers(tree))
        if not vision.feature_methods:
            yield "no vision part found: traced as a text-only model"
    if not language.layers:
        yield "no decoder blocks found"
    if vision.encoders and vision.joint is not None:
        yield f"{vision.joint} reads the image and words together: it runs before prefill and has no stage of its own"
    if vision.projectors and not vision.encoders:
        yield "a projector is shown where an encoder runs, and there is none: name it too (--stage vision=PATH)"
    for part in (*vision.encoders, *vision.projectors):
        touches = [t for t in (*vision.featured, *vision.running.touches) if peel(t.module) is peel(part.module)]
        calls = [t.via for t in touches if not t.reads]
        if calls and all(calls):
            yield f"{part.path} is called through {calls[0]}(): its own forward never runs"
    for path, module in tree.modules.items():
        if path and id(peel(module)) in vision.running.bypassed:
            yield f"{path} is called through forward(): its calls cannot be seen"


def _empty_towers(tree: ModuleTree) -> Iterator[str]:
    """Attributes named like a vision tower that the model's constructor left at None."""
    for path, module in tree.modules.items():
        if path.count(".") > 1:
            continue
        inner = peel(module)
        held = {**vars(inner), **inner._modules}
        for name, value in held.items():
            if value is None and VISION.search(name) and not name.endswith(("_id", "_index", "_config", "_size")):
                yield f"{path}.{name}" if path else name

"""Attachment: listeners on one model for the time of one ``generate()``, and nothing left behind.

Only boundaries are announced here. Modules get forward hooks; what is not a module call is wrapped on the instance:
feature methods, ``_prefill`` (to tell prefill from decode in every mode), ``get_compiled_call`` (a compiled step is
timed at its call site, since hooks are traced into a graph or lost), the stopping criteria (one call per new token)
and the logits processors (whose making names the prompt's length).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from vlmtrace.capture.discovery.anatomy import Anatomy
from vlmtrace.capture.listeners import Listener
from vlmtrace.timeline import names
from vlmtrace.timeline.spans import NONE

__all__ = ["CURRENT", "Attachment", "Observed", "span_hooks"]

_VISION: Final = names.KIND_OF[names.VISION]
_ENCODER: Final = names.KIND_OF[names.ENCODER]
_PROJECTOR: Final = names.KIND_OF[names.PROJECTOR]
_VISION_LAYER: Final = names.KIND_OF[names.VISION_LAYER]
_PREFILL: Final = names.KIND_OF[names.PREFILL]
_MERGE: Final = names.KIND_OF[names.MERGE]
_STEP: Final = names.KIND_OF[names.STEP]
_LAYER: Final = names.KIND_OF[names.LAYER]
_LM_HEAD: Final = names.KIND_OF[names.LM_HEAD]
_TOKEN: Final = names.KIND_OF[names.TOKEN]

_is_compiling = torch.compiler.is_compiling


@dataclass(slots=True, eq=False)
class Observed:
    """What one generation in progress has shown of itself on the host; read by the hooks of its thread only."""

    listener: Listener
    between_tokens: Callable[[], None]
    generating: nn.Module
    in_prefill: bool = False
    seen_forward: bool = False
    forward_kind: int = NONE
    steps: int = 0
    vision_depth: int = 0
    prompt_tokens: int = NONE
    visual_tokens: int = 0
    mode: str = "eager"
    generation_config: Any = None


class _Current(threading.local):
    observed: Observed | None = None


CURRENT: Final = _Current()
"""The generation that this thread is in, if any."""


class Attachment:
    """Hooks and wrappers of one model at one detail. ``attach`` and ``detach`` nest; the last detach removes all."""

    def __init__(self, anatomy: Anatomy, detail: str) -> None:
        self._anatomy = anatomy
        self._detail = detail
        self._users = 0
        self._lock = threading.Lock()
        self._hooks: list[Any] = []
        self._language_hooks: list[Any] = []
        self._wrapped: list[tuple[nn.Module, str]] = []

    def attach(self) -> None:
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            try:
                self._hook_vision()
                self._hook_language()
                for part in self._anatomy.generating:
                    self._wrap_generating(part.module)
                for method in self._anatomy.feature_methods:
                    self._wrap(method.owner, method.method, _features)
            except BaseException:
                self._remove()
                self._users -= 1
                raise

    def detach(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._remove()

    def _remove(self) -> None:
        for handle in (*self._hooks, *self._language_hooks):
            handle.remove()
        self._hooks.clear()
        self._language_hooks.clear()
        for module, name in reversed(self._wrapped):
            module.__dict__.pop(name, None)
        self._wrapped.clear()

    def drop_language_hooks(self) -> None:
        """Before a compiled forward: hooks in its graph would break it, or make it again when they go."""
        while self._language_hooks:
            self._language_hooks.pop().remove()

    def _hook_vision(self) -> None:
        anatomy = self._anatomy
        for kind, parts in ((_ENCODER, anatomy.encoders), (_PROJECTOR, anatomy.projectors)):
            for number, part in enumerate(parts):
                self._hooks += span_hooks(part.module, kind, number)
        if self._detail != "stage":
            for number, part in enumerate(anatomy.inner_projectors, start=len(anatomy.projectors)):
                self._hooks += span_hooks(part.module, _PROJECTOR, number)
        if self._detail == "layer":
            for number, part in enumerate(anatomy.vision_layers):
                self._hooks += span_hooks(part.module, _VISION_LAYER, number)

    def _hook_language(self) -> None:
        anatomy = self._anatomy
        hooks = self._language_hooks
        for part in anatomy.generating:
            hooks += _forward_hooks(part.module)
        if self._detail == "stage":
            return
        if anatomy.entry is not None:
            hooks.append(anatomy.entry.module.register_forward_pre_hook(_language_entry, prepend=True))
        if anatomy.lm_head is not None:
            hooks += span_hooks(anatomy.lm_head.module, _LM_HEAD, NONE)
        if self._detail == "layer":
            for number, part in enumerate(anatomy.layers):
                hooks += span_hooks(part.module, _LAYER, number)

    def _wrap_generating(self, module: nn.Module) -> None:
        self._wrap(module, "_prefill", _prefill)
        self._wrap(module, "_get_logits_processor", _logits_processor)
        self._wrap(module, "_get_stopping_criteria", _stopping_criteria)
        self._wrap(module, "get_compiled_call", functools.partial(_compiled_call, self))

    def _wrap(self, module: nn.Module, name: str, wrapper: Callable[[nn.Module, Any], Any]) -> None:
        """Shadow a method on the instance. transformers reads signatures, which ``functools.wraps`` keeps."""
        original = getattr(module, name, None)
        if original is None or name in module.__dict__:
            return
        module.__dict__[name] = functools.wraps(original)(wrapper(module, original))
        self._wrapped.append((module, name))


def span_hooks(module: nn.Module, kind: int, number: int) -> Iterator[Any]:
    """Hooks outside of all others of the module: what they do (moving weights, say) belongs to the span."""

    def before(module: nn.Module, args: Any) -> None:  # noqa: ARG001
        if _is_compiling():
            return
        observed = CURRENT.observed
        if observed is not None:
            observed.listener.enter(kind, number)

    def after(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
        if _is_compiling():
            return
        observed = CURRENT.observed
        if observed is not None:
            observed.listener.leave(kind)

    yield module.register_forward_pre_hook(before, prepend=True)
    yield module.register_forward_hook(after, always_call=True)


def _forward_hooks(module: nn.Module) -> Iterator[Any]:
    """A forward of the generating model: a prefill, its chunk, or a step. Other models' forwards are their own."""

    def before(module: nn.Module, args: Any) -> None:  # noqa: ARG001
        if _is_compiling():
            return
        observed = CURRENT.observed
        if observed is not None and observed.generating is module:
            _enter_forward(observed)

    def after(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
        if _is_compiling():
            return
        observed = CURRENT.observed
        if observed is not None and observed.generating is module:
            _leave_forward(observed)

    yield module.register_forward_pre_hook(before, prepend=True)
    yield module.register_forward_hook(after, always_call=True)


def _enter_forward(observed: Observed) -> None:
    if observed.in_prefill or not observed.seen_forward:
        observed.seen_forward = True
        observed.forward_kind = _PREFILL
        observed.listener.enter(_PREFILL, observed.prompt_tokens)
    else:
        observed.forward_kind = _STEP
        observed.listener.enter(_STEP, observed.steps)
        observed.steps += 1


def _leave_forward(observed: Observed) -> None:
    observed.listener.leave(observed.forward_kind)


def _language_entry(module: nn.Module, args: Any) -> None:  # noqa: ARG001
    if _is_compiling():
        return
    observed = CURRENT.observed
    if observed is not None and observed.forward_kind == _PREFILL:
        observed.listener.point(_MERGE, NONE)


def _prefill(module: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
    def prefill(*args: Any, **kwargs: Any) -> Any:
        observed = CURRENT.observed
        if observed is None or observed.generating is not module:
            return original(*args, **kwargs)
        observed.in_prefill = True
        try:
            return original(*args, **kwargs)
        finally:
            observed.in_prefill = False

    return prefill


def _compiled_call(attachment: Attachment, module: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
    def get_compiled_call(*args: Any, **kwargs: Any) -> Any:
        compiled = original(*args, **kwargs)
        observed = CURRENT.observed
        if observed is None or observed.generating is not module:
            return compiled
        observed.mode = "compiled"

        def forward(*args: Any, **kwargs: Any) -> Any:
            attachment.drop_language_hooks()
            _enter_forward(observed)
            try:
                return compiled(*args, **kwargs)
            finally:
                _leave_forward(observed)

        return forward

    return get_compiled_call


def _logits_processor(module: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
    def get_logits_processor(*args: Any, **kwargs: Any) -> Any:
        observed = CURRENT.observed
        if observed is not None and observed.generating is module:
            observed.prompt_tokens = kwargs.get("input_ids_seq_length", NONE)
        return original(*args, **kwargs)

    return get_logits_processor


def _stopping_criteria(module: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
    def get_stopping_criteria(*args: Any, **kwargs: Any) -> Any:
        criteria = original(*args, **kwargs)
        observed = CURRENT.observed
        if observed is None or observed.generating is not module:
            return criteria
        observed.generation_config = kwargs.get("generation_config", args[0] if args else None)
        kind: type = type(criteria)
        return _marking(kind)(criteria)

    return get_stopping_criteria


@functools.cache
def _marking(kind: Any) -> Any:
    """The same list of criteria, which marks that a token has been appended before it asks whether to stop."""

    def call(self: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        observed = CURRENT.observed
        if observed is not None:
            observed.listener.point(_TOKEN, input_ids.shape[-1])
            observed.between_tokens()
        return kind.__call__(self, input_ids, *args, **kwargs)

    return type(kind.__name__, (kind,), {"__call__": call})


def _features(module: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:  # noqa: ARG001
    def features(*args: Any, **kwargs: Any) -> Any:
        observed = CURRENT.observed
        if _is_compiling() or observed is None:
            return original(*args, **kwargs)
        observed.vision_depth += 1
        if observed.vision_depth > 1:
            try:
                return original(*args, **kwargs)
            finally:
                observed.vision_depth -= 1
        observed.listener.enter(_VISION, NONE)
        try:
            made = original(*args, **kwargs)
        finally:
            observed.listener.leave(_VISION)
            observed.vision_depth -= 1
        observed.visual_tokens += _rows(made)
        return made

    return features


def _rows(features: Any) -> int:
    """How many embeddings an image became, from shapes alone."""
    pooled = getattr(features, "pooler_output", None)
    if pooled is None and not isinstance(features, (torch.Tensor, list, tuple)):
        pooled = getattr(features, "last_hidden_state", None)
    found = features if pooled is None else pooled
    if isinstance(found, torch.Tensor):
        return found.shape[:-1].numel()
    if isinstance(found, (list, tuple)):
        return sum(_rows(item) for item in found if isinstance(item, (torch.Tensor, list, tuple)))
    return 0

"""Attachment: listeners on one model for the time of one ``generate()``, and nothing left behind.

Only boundaries are announced here. Modules get forward hooks; what is not a module call is wrapped on the instance:
feature methods, ``_prefill`` (to tell prefill from decode in every mode), ``get_compiled_call`` and what
``module.compile()`` puts in place (compiled code is timed at its call site, since hooks are traced into a graph or
lost), the stopping criteria (called when a token has been appended) and the logits processors (whose making begins a
loop and names the prompt's length).
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final

import torch
from torch import nn

from vlmtrace.capture.discovery.anatomy import Anatomy, Part
from vlmtrace.capture.observed import CURRENT, Observed
from vlmtrace.capture.token_marks import logits_processor, stopping_criteria
from vlmtrace.timeline import names
from vlmtrace.timeline.spans import NONE

__all__ = ["Attachment", "span_hooks"]

_VISION: Final = names.KIND_OF[names.VISION]
_ENCODER: Final = names.KIND_OF[names.ENCODER]
_PROJECTOR: Final = names.KIND_OF[names.PROJECTOR]
_VISION_LAYER: Final = names.KIND_OF[names.VISION_LAYER]
_PREFILL: Final = names.KIND_OF[names.PREFILL]
_MERGE: Final = names.KIND_OF[names.MERGE]
_STEP: Final = names.KIND_OF[names.STEP]
_LAYER: Final = names.KIND_OF[names.LAYER]
_LM_HEAD: Final = names.KIND_OF[names.LM_HEAD]

_COMPILED: Final = "_compiled_call_impl"
"""Where ``module.compile()`` puts the compiled call, which then runs in place of hooks and forward."""

_is_compiling = torch.compiler.is_compiling


class Attachment:
    """Hooks and wrappers of one model at one detail.

    A context manager, entered by several threads at a time; whoever leaves last removes all.
    """

    def __init__(self, anatomy: Anatomy, detail: str) -> None:
        self._anatomy = anatomy
        self._detail = detail
        self._users = 0
        self._lock = threading.Lock()
        self._hooks: list[Any] = []
        self._language_hooks: list[Any] = []
        self._wrapped: list[tuple[nn.Module, str, Any]] = []

    def __enter__(self) -> Attachment:
        with self._lock:
            self._users += 1
            if self._users > 1:
                return self
            try:
                sees = not self._vision_is_compiled()
                if sees:
                    self._hook_vision()
                self._hook_language()
                for part in self._anatomy.generating:
                    self._wrap_generating(part.module)
                for method in self._anatomy.feature_methods if sees else ():
                    self._wrap(method.owner, method.method, _features)
            except BaseException:
                self._remove()
                self._users -= 1
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._remove()

    def _remove(self) -> None:
        for handle in (*self._hooks, *self._language_hooks):
            handle.remove()
        self._hooks.clear()
        self._language_hooks.clear()
        for module, name, before in reversed(self._wrapped):
            if before is None:
                module.__dict__.pop(name, None)
            else:
                module.__dict__[name] = before
        self._wrapped.clear()

    def drop_language_hooks(self) -> None:
        """Before a compiled forward: hooks in its graph would break it, or make it again when they go.

        They stay while another thread generates with the same model, perhaps eagerly.
        """
        with self._lock:
            while self._users == 1 and self._language_hooks:
                self._language_hooks.pop().remove()

    def _vision_is_compiled(self) -> bool:
        """Whether vision runs inside compiled code, where it cannot be seen and listeners cost a recompilation each.

        It does where the whole model is compiled, unless ``generate()`` encodes images before the first forward, as
        transformers does from 5.18 on for models whose forward takes ``mm_encoder_outputs``.
        """
        for part in self._anatomy.generating:
            if _is_compiled(part.module):
                kind = type(part.module)
                encodes_before = hasattr(kind, "_prepare_multimodal_encoder_kwargs_for_generation")
                if not (encodes_before and "mm_encoder_outputs" in inspect.signature(kind.forward).parameters):
                    return True
        return False

    def _hook_vision(self) -> None:
        anatomy = self._anatomy
        for kind, parts in ((_ENCODER, anatomy.encoders), (_PROJECTOR, anatomy.projectors)):
            for number, part in enumerate(parts):
                if part.module.__dict__.get(_COMPILED) is None:
                    self._hooks += span_hooks(part.module, kind, number)
                else:
                    self._wrap(part.module, _COMPILED, functools.partial(_compiled_span, kind, number))
        if anatomy.projectors:
            self._hooks.append(anatomy.projectors[-1].module.register_forward_hook(_note_projected))
        if self._detail != "stage":
            for number, part in enumerate(anatomy.inner_projectors, start=len(anatomy.projectors)):
                if not self._inside_compiled_encoder(part):
                    self._hooks += span_hooks(part.module, _PROJECTOR, number)
        if self._detail == "layer":
            for number, part in enumerate(anatomy.vision_layers):
                if not self._inside_compiled_encoder(part):
                    self._hooks += span_hooks(part.module, _VISION_LAYER, number, sampled=True)

    def _inside_compiled_encoder(self, part: Part) -> bool:
        """As :meth:`_inside_compiled`; a compiled model around it does not count, since vision may run before it."""
        encoders = self._anatomy.encoders
        return any(_is_compiled(one.module) and part.path.startswith(f"{one.path}.") for one in encoders)

    def _hook_language(self) -> None:
        anatomy = self._anatomy
        hooks = self._language_hooks
        for part in anatomy.generating:
            if part.module.__dict__.get(_COMPILED) is None:
                hooks += _forward_hooks(part.module)
            else:
                self._wrap(part.module, _COMPILED, _compiled_forward)
        if self._detail == "stage":
            return
        if anatomy.entry is not None and not self._inside_compiled(anatomy.entry):
            hooks.append(anatomy.entry.module.register_forward_pre_hook(_language_entry, prepend=True))
        if anatomy.lm_head is not None and not self._inside_compiled(anatomy.lm_head):
            hooks += span_hooks(anatomy.lm_head.module, _LM_HEAD, NONE, sampled=True)
        if self._detail == "layer":
            for number, part in enumerate(anatomy.layers):
                if not self._inside_compiled(part):
                    hooks += span_hooks(part.module, _LAYER, number, sampled=True)

    def _inside_compiled(self, part: Part) -> bool:
        """Whether a part runs in compiled code, where its hooks would show nothing and cost a recompilation."""
        module: nn.Module | None = self._anatomy.root
        for name in part.path.split("."):
            if module is None:
                return False
            if _is_compiled(module):
                return True
            module = module._modules.get(name)
        return False

    def _wrap_generating(self, module: nn.Module) -> None:
        self._wrap(module, "_prefill", _prefill)
        self._wrap(module, "_get_logits_processor", logits_processor)
        self._wrap(module, "_get_stopping_criteria", stopping_criteria)
        self._wrap(module, "get_compiled_call", functools.partial(_compiled_call, self))

    def _wrap(self, module: nn.Module, name: str, wrapper: Callable[[nn.Module, Any], Any]) -> None:
        """Shadow a method on the instance. transformers reads signatures, which ``functools.wraps`` keeps."""
        original = getattr(module, name, None)
        if original is None or (module, name) in ((owner, taken) for owner, taken, _ in self._wrapped):
            return
        before = module.__dict__.get(name)
        module.__dict__[name] = functools.wraps(original)(wrapper(module, original))
        self._wrapped.append((module, name, before))


def span_hooks(module: nn.Module, kind: int, number: int, *, sampled: bool = False) -> Iterator[Any]:
    """Hooks outside of all others of the module: what they do (moving weights, say) belongs to the span.

    ``sampled`` ones are silent in a step whose layers are not told.
    """

    def before(module: nn.Module, args: Any) -> None:  # noqa: ARG001
        if _is_compiling():
            return
        observed = CURRENT.observed
        if observed is not None and (not sampled or observed.detailed):
            observed.listener.enter(kind, number)

    def after(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
        if _is_compiling():
            return
        observed = CURRENT.observed
        if observed is not None and (not sampled or observed.detailed):
            observed.listener.leave(kind)

    yield module.register_forward_pre_hook(before, prepend=True)
    yield module.register_forward_hook(after, always_call=True)


def _compiled_span(kind: int, number: int, module: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:  # noqa: ARG001
    """The same span around a module that ``module.compile()`` has compiled."""

    def call(*args: Any, **kwargs: Any) -> Any:
        observed = None if _is_compiling() else CURRENT.observed
        if observed is None:
            return original(*args, **kwargs)
        observed.listener.enter(kind, number)
        try:
            return original(*args, **kwargs)
        finally:
            observed.listener.leave(kind)

    return call


def _forward_hooks(module: nn.Module) -> Iterator[Any]:
    """A forward of the generating model: a prefill, its chunk, or a step. Other models' forwards are their own."""

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        if _is_compiling():
            return
        observed = CURRENT.observed
        if observed is not None and observed.loop.model is module and not observed.in_compiled:
            if _is_compiled(module):
                observed.mode = "compiled"
            _enter_forward(observed, args, kwargs)

    def after(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
        if _is_compiling():
            return
        observed = CURRENT.observed
        if observed is not None and observed.loop.model is module and not observed.in_compiled:
            _leave_forward(observed)

    yield module.register_forward_pre_hook(before, prepend=True, with_kwargs=True)
    yield module.register_forward_hook(after, always_call=True)


def _compiled_forward(module: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
    """The same around a generating model that ``module.compile()`` has compiled."""

    def call(*args: Any, **kwargs: Any) -> Any:
        observed = None if _is_compiling() else CURRENT.observed
        if observed is None or observed.loop.model is not module or observed.in_compiled:
            return original(*args, **kwargs)
        observed.mode = "compiled"
        return _run_compiled(observed, original, args, kwargs)

    return call


def _run_compiled(observed: Observed, compiled: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    _enter_forward(observed, args, kwargs)
    observed.in_compiled = True
    try:
        return compiled(*args, **kwargs)
    finally:
        observed.in_compiled = False
        _leave_forward(observed)


def _is_compiled(module: nn.Module) -> bool:
    """Whether calling ``module`` runs compiled code: by ``module.compile()``, or a compiled function for a forward."""
    own = module.__dict__
    return own.get(_COMPILED) is not None or hasattr(own.get("forward"), "_torchdynamo_orig_callable")


def _enter_forward(observed: Observed, args: Any, kwargs: Any) -> None:
    loop = observed.loop
    if loop.in_prefill or not loop.seen_forward:
        observed.forward_kind = _PREFILL
        observed.detailed = True
        observed.listener.enter(_PREFILL, _input_tokens(args, kwargs))
    else:
        observed.forward_kind = _STEP
        observed.detailed = observed.steps % observed.every == 0
        observed.listener.enter(_STEP, observed.steps)
        observed.steps += 1
    loop.seen_forward = loop.unmarked = True


def _leave_forward(observed: Observed) -> None:
    kind = observed.forward_kind
    if kind != NONE:  # else something raised before its entry was seen
        observed.forward_kind = NONE
        observed.listener.leave(kind)


def _input_tokens(args: Any, kwargs: Any) -> int:
    """How many tokens of each sequence a forward is given: less than the prompt where a cache holds the rest."""
    given = (kwargs.get(name) for name in ("decoder_input_ids", "decoder_inputs_embeds", "input_ids", "inputs_embeds"))
    tokens = next((value for value in (*given, *args) if isinstance(value, torch.Tensor) and value.dim() > 1), None)
    return NONE if tokens is None else tokens.shape[1]


def _language_entry(module: nn.Module, args: Any) -> None:  # noqa: ARG001
    if _is_compiling():
        return
    observed = CURRENT.observed
    if observed is not None and observed.forward_kind == _PREFILL:
        observed.listener.point(_MERGE, NONE)


def _prefill(module: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
    def prefill(*args: Any, **kwargs: Any) -> Any:
        observed = CURRENT.observed
        if observed is None or observed.loop.model is not module:
            return original(*args, **kwargs)
        loop = observed.loop
        loop.in_prefill = True
        try:
            return original(*args, **kwargs)
        finally:
            loop.in_prefill = False

    return prefill


def _compiled_call(attachment: Attachment, module: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
    def get_compiled_call(*args: Any, **kwargs: Any) -> Any:
        compiled = original(*args, **kwargs)
        observed = CURRENT.observed
        if observed is None or observed.loop.model is not module:
            return compiled
        observed.mode = "compiled"

        def forward(*args: Any, **kwargs: Any) -> Any:
            attachment.drop_language_hooks()
            return _run_compiled(observed, compiled, args, kwargs)

        return forward

    return get_compiled_call


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


def _note_projected(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
    """Where no feature method runs, what the last projector makes is what an image became."""
    if _is_compiling():
        return
    observed = CURRENT.observed
    if observed is not None and observed.vision_depth == 0:
        # A module's tuple is its answer and what came with it (attention weights, say).
        observed.projected_tokens += _rows(output[0] if isinstance(output, tuple) and output else output)


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

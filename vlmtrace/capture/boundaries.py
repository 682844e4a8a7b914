"""Boundaries: what tells the generation in progress that a part of a model is entered or left.

Forward hooks where a module is called, wraps where something else is: feature methods, ``_prefill``, and compiled code,
which is timed at its call site, since hooks are traced into a graph or lost. None does anything while dynamo traces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import nn

from vlmtrace.capture.observed import CURRENT, Observed
from vlmtrace.timeline import names
from vlmtrace.timeline.marks import POINT
from vlmtrace.timeline.spans import NONE

__all__ = [
    "COMPILED",
    "candidates",
    "compiled_call",
    "compiled_entry",
    "compiled_forward",
    "compiled_span",
    "features",
    "forward_hooks",
    "is_compiled",
    "language_entry",
    "note_projected",
    "prefill",
    "span_hooks",
]

_VISION: Final = names.KIND_OF[names.VISION]
_PREFILL: Final = names.KIND_OF[names.PREFILL]
_MERGE: Final = POINT | names.KIND_OF[names.MERGE]
_STEP: Final = names.KIND_OF[names.STEP]

COMPILED: Final = "_compiled_call_impl"
"""Where ``module.compile()`` puts the compiled call, which then runs in place of hooks and forward."""

_is_compiling = torch.compiler.is_compiling


def span_hooks(module: nn.Module, kind: int, number: int, *, sampled: bool = False) -> Iterator[Any]:
    """Hooks outside of all others of the module: what they do (moving weights, say) belongs to the span.

    ``sampled`` ones are silent in a step whose layers are not told.
    """
    end = ~kind

    def before(module: nn.Module, args: Any) -> None:  # noqa: ARG001
        if _is_compiling():
            return
        observed = CURRENT.observed
        if observed is not None and (not sampled or observed.detailed):
            observed.mark(kind, number)

    def after(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
        if _is_compiling():
            return
        observed = CURRENT.observed
        if observed is not None and (not sampled or observed.detailed):
            observed.mark(end, NONE)

    yield module.register_forward_pre_hook(before, prepend=True)
    yield module.register_forward_hook(after, always_call=True)


def compiled_span(
    kind: int,
    number: int,
    sampled: bool,
    module: nn.Module,  # noqa: ARG001
    original: Callable[..., Any],
) -> Callable[..., Any]:
    """The same span around a module that ``module.compile()`` has compiled."""

    def call(*args: Any, **kwargs: Any) -> Any:
        observed = None if _is_compiling() else CURRENT.observed
        if observed is None or (sampled and not observed.detailed):
            return original(*args, **kwargs)
        observed.mark(kind, number)
        try:
            return original(*args, **kwargs)
        finally:
            observed.mark(~kind, NONE)

    return call


def forward_hooks(module: nn.Module) -> Iterator[Any]:
    """A forward of the generating model: a prefill, its chunk, or a step. Other models' forwards are their own."""

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        if _is_compiling():
            return
        observed = CURRENT.observed
        if observed is not None and observed.loop.model is module and not observed.in_compiled:
            if is_compiled(module):
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


def compiled_forward(module: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
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


def is_compiled(module: nn.Module) -> bool:
    """Whether calling ``module`` runs compiled code: by ``module.compile()``, or a compiled function for a forward."""
    own = module.__dict__
    return own.get(COMPILED) is not None or hasattr(own.get("forward"), "_torchdynamo_orig_callable")


def _enter_forward(observed: Observed, args: Any, kwargs: Any) -> None:
    loop = observed.loop
    if loop.in_prefill or not loop.seen_forward:
        observed.forward_kind = _PREFILL
        observed.detailed = True
        observed.mark(_PREFILL, _input_tokens(args, kwargs))
    else:
        observed.forward_kind = _STEP
        observed.detailed = observed.steps % observed.every == 0
        observed.mark(_STEP, observed.steps)
        observed.steps += 1
    if loop.drafted:
        known = loop.prompt_tokens if observed.forward_kind == _PREFILL else 1
        observed.proposed.append(max(0, _input_tokens(args, kwargs) - known))
    if observed.cache is None:
        observed.cache = kwargs.get("past_key_values")
    loop.seen_forward = loop.unmarked = True


def _leave_forward(observed: Observed) -> None:
    kind = observed.forward_kind
    if kind != NONE:  # else something raised before its entry was seen
        observed.forward_kind = NONE
        observed.mark(~kind, NONE)


def _input_tokens(args: Any, kwargs: Any) -> int:
    """How many tokens of each sequence a forward is given: less than the prompt where a cache holds the rest."""
    given = (kwargs.get(name) for name in ("decoder_input_ids", "decoder_inputs_embeds", "input_ids", "inputs_embeds"))
    tokens = next((value for value in (*given, *args) if isinstance(value, torch.Tensor) and value.dim() > 1), None)
    return NONE if tokens is None else tokens.shape[1]


def language_entry(module: nn.Module, args: Any) -> None:  # noqa: ARG001
    """A hook before the language model: in a prefill, what is merged has been by now."""
    if _is_compiling():
        return
    observed = CURRENT.observed
    if observed is not None and observed.forward_kind == _PREFILL:
        observed.mark(_MERGE, NONE)


def compiled_entry(module: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
    """The same of a language model that ``module.compile()`` has compiled."""

    def call(*args: Any, **kwargs: Any) -> Any:
        language_entry(module, args)
        return original(*args, **kwargs)

    return call


def prefill(module: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
    """A wrap of ``_prefill``: every forward in it is a part of the prefill, whatever its shape."""

    def call(*args: Any, **kwargs: Any) -> Any:
        observed = CURRENT.observed
        if observed is None or observed.loop.model is not module:
            return original(*args, **kwargs)
        loop = observed.loop
        loop.in_prefill = True
        try:
            return original(*args, **kwargs)
        finally:
            loop.in_prefill = False

    return call


def candidates(module: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
    """A wrap of ``_get_candidate_generator``: from here on tokens are proposed to this loop by others."""

    def call(*args: Any, **kwargs: Any) -> Any:
        observed = CURRENT.observed
        if observed is not None and observed.loop.model is module:
            observed.loop.drafted = True
        return original(*args, **kwargs)

    return call


def compiled_call(
    drop_hooks: Callable[[], None], module: nn.Module, original: Callable[..., Any]
) -> Callable[..., Any]:
    """A wrap of ``get_compiled_call``: what it answers is timed where it is called, without hooks inside."""

    def get_compiled_call(*args: Any, **kwargs: Any) -> Any:
        compiled = original(*args, **kwargs)
        observed = CURRENT.observed
        if observed is None or observed.loop.model is not module:
            return compiled
        observed.mode = "compiled"

        def forward(*args: Any, **kwargs: Any) -> Any:
            drop_hooks()
            return _run_compiled(observed, compiled, args, kwargs)

        return forward

    return get_compiled_call


def features(module: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:  # noqa: ARG001
    """A wrap of a feature method: the outermost call is one ``vision``."""

    def call(*args: Any, **kwargs: Any) -> Any:
        observed = CURRENT.observed
        if _is_compiling() or observed is None:
            return original(*args, **kwargs)
        observed.vision_depth += 1
        if observed.vision_depth > 1:
            try:
                return original(*args, **kwargs)
            finally:
                observed.vision_depth -= 1
        observed.mark(_VISION, NONE)
        try:
            made = original(*args, **kwargs)
        finally:
            observed.mark(~_VISION, NONE)
            observed.vision_depth -= 1
        observed.visual_tokens += _rows(made)
        return made

    return call


def note_projected(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
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

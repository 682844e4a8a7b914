"""Boundaries: what tells the generation in progress that a part of a model is entered or left.

Each is a wrapper of a method of one instance: feature methods, ``_prefill``, and what calling a module runs: its own
``_call_impl`` (its hooks and its forward), or the compiled call, so that nothing is traced into a graph. A pair of
forward hooks instead would cost more than the two marks it makes, since torch calls a module without hooks by a shorter
way. None does anything while dynamo traces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn

from vlmtrace.capture.observed import CURRENT, Observed
from vlmtrace.capture.wraps import Method
from vlmtrace.errors import VlmtraceError
from vlmtrace.timeline import names
from vlmtrace.timeline.marks import POINT
from vlmtrace.timeline.spans import NONE

__all__ = [
    "called",
    "candidates",
    "check_calls",
    "compiled_call",
    "entry",
    "features",
    "forward",
    "is_compiled",
    "prefill",
    "projected",
    "span",
]

_VISION: Final = names.KIND_OF[names.VISION]
_PREFILL: Final = names.KIND_OF[names.PREFILL]
_MERGE: Final = POINT | names.KIND_OF[names.MERGE]
_STEP: Final = names.KIND_OF[names.STEP]

_COMPILED: Final = "_compiled_call_impl"
"""Where ``module.compile()`` puts the compiled call, which then runs in place of the other."""

_is_traced = torch.compiler.is_dynamo_compiling  # of the questions that dynamo answers itself, the quickest


def called(module: nn.Module) -> str:
    """The name of the method that ``module(...)`` runs: ``nn.Module.__call__`` asks the instance for it."""
    return "_call_impl" if module.__dict__.get(_COMPILED) is None else _COMPILED


def check_calls() -> None:
    """Refuse a torch whose modules do not ask the instance what to run: it would run, and nothing would be seen.

    Raises:
        VlmtraceError: this torch's do not.
    """
    probe = nn.Identity()
    vars(probe)[called(probe)] = lambda _given: True
    if probe(False) is not True:
        raise VlmtraceError(
            f"torch {torch.__version__} calls modules in a way that this vlmtrace cannot see",
            "install a newer vlmtrace, or an older torch",
        )


def span(kind: int, number: int, sampled: bool, original: Method) -> Method:
    """A wrap of a call of a part: what its hooks do (moving weights, say) belongs to the span.

    A ``sampled`` one is silent in a step whose layers are not told.
    """
    end = ~kind

    # The module among the others, and on with all of them as they are: putting it before them anew takes time.
    def call(*args: Any, **kwargs: Any) -> Any:
        observed = None if _is_traced() else CURRENT.observed
        if observed is None or (sampled and not observed.detailed):
            return original(*args, **kwargs)
        observed.mark(kind, number)
        try:
            return original(*args, **kwargs)
        finally:
            observed.mark(end, NONE)

    return call


def forward(original: Method) -> Method:
    """A wrap of a call of the generating model: a prefill, its chunk, or a step. Other models' calls are their own."""

    def call(*args: Any, **kwargs: Any) -> Any:
        observed = None if _is_traced() else CURRENT.observed
        module: nn.Module = args[0]
        if observed is None or observed.loop.model is not module or observed.in_compiled:
            return original(*args, **kwargs)
        if observed.steps == 0 and is_compiled(module):
            observed.mode = "compiled"
        _enter_forward(observed, args, kwargs)
        try:
            return original(*args, **kwargs)
        finally:
            _leave_forward(observed)

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
    return own.get(_COMPILED) is not None or hasattr(own.get("forward"), "_torchdynamo_orig_callable")


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
        if observed.cache is None:
            observed.cache = kwargs.get("cache")  # its name from transformers 5.24 on
    loop.seen_forward = loop.unmarked = True


def _leave_forward(observed: Observed) -> None:
    kind = observed.forward_kind
    if kind != NONE:  # else a generation inside of it has left its own
        observed.forward_kind = NONE
        observed.mark(~kind, NONE)


def _input_tokens(args: Any, kwargs: Any) -> int:
    """How many tokens of each sequence a forward is given: less than the prompt where a cache holds the rest."""
    given = (kwargs.get(name) for name in ("decoder_input_ids", "decoder_inputs_embeds", "input_ids", "inputs_embeds"))
    tokens = next((value for value in (*given, *args) if isinstance(value, torch.Tensor) and value.dim() > 1), None)
    return NONE if tokens is None else tokens.shape[1]


def entry(original: Method) -> Method:
    """A wrap of a call of the language model: in a prefill, what is merged has been by now."""

    def call(*args: Any, **kwargs: Any) -> Any:
        observed = None if _is_traced() else CURRENT.observed
        if observed is not None and observed.forward_kind == _PREFILL:
            observed.mark(_MERGE, NONE)
        return original(*args, **kwargs)

    return call


def prefill(original: Method) -> Method:
    """A wrap of ``_prefill``: every forward in it is a part of the prefill, whatever its shape."""

    def call(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        observed = CURRENT.observed
        if observed is None or observed.loop.model is not module:
            return original(module, *args, **kwargs)
        loop = observed.loop
        loop.in_prefill = True
        try:
            return original(module, *args, **kwargs)
        finally:
            loop.in_prefill = False

    return call


def candidates(original: Method) -> Method:
    """A wrap of ``_get_candidate_generator``: from here on tokens are proposed to this loop by others."""

    def call(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        observed = CURRENT.observed
        if observed is not None and observed.loop.model is module:
            observed.loop.drafted = True
        return original(module, *args, **kwargs)

    return call


def compiled_call(drop_inside: Callable[[], None], original: Method) -> Method:
    """A wrap of ``get_compiled_call``: what it answers is timed where it is called, with no wrap inside."""

    def get_compiled_call(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        compiled = original(module, *args, **kwargs)
        observed = CURRENT.observed
        if observed is None or observed.loop.model is not module:
            return compiled
        observed.mode = "compiled"

        def forward(*args: Any, **kwargs: Any) -> Any:
            drop_inside()
            return _run_compiled(observed, compiled, args, kwargs)

        return forward

    return get_compiled_call


def features(original: Method) -> Method:
    """A wrap of a feature method: the outermost call is one ``vision``."""

    def call(owner: Any, /, *args: Any, **kwargs: Any) -> Any:
        observed = CURRENT.observed
        if _is_traced() or observed is None:
            return original(owner, *args, **kwargs)
        observed.vision_depth += 1
        if observed.vision_depth > 1:
            try:
                return original(owner, *args, **kwargs)
            finally:
                observed.vision_depth -= 1
        observed.mark(_VISION, NONE)
        try:
            made = original(owner, *args, **kwargs)
        finally:
            observed.mark(~_VISION, NONE)
            observed.vision_depth -= 1
        observed.visual_tokens += _rows(made)
        return made

    return call


def projected(original: Method) -> Method:
    """A wrap of a call of the last projector: where no feature method runs, what it makes is what an image became."""

    def call(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        made = original(module, *args, **kwargs)
        observed = None if _is_traced() else CURRENT.observed
        if observed is not None and observed.vision_depth == 0:
            # A module's tuple is its answer and what came with it (attention weights, say).
            observed.projected_tokens += _rows(made[0] if isinstance(made, tuple) and made else made)
        return made

    return call


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

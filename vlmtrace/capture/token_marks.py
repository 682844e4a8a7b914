"""Token marks: where a loop begins and each time a token has been appended, by what transformers asks for itself."""

from __future__ import annotations

import functools
from typing import Any, Final

import torch
from torch import nn

from vlmtrace.capture.observed import CURRENT, aside
from vlmtrace.capture.wraps import Method
from vlmtrace.timeline import names
from vlmtrace.timeline.marks import POINT
from vlmtrace.timeline.spans import NONE

__all__ = ["logits_processor", "stopping_criteria"]

_TOKEN: Final = POINT | names.KIND_OF[names.TOKEN]


def logits_processor(original: Method) -> Method:
    """A wrap of ``_get_logits_processor``: it begins the loop, and names the prompt's length.

    Processors may run models, as classifier-free guidance does with the model itself: helpers, whose forwards are no
    steps.
    """

    def get_logits_processor(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        processors = original(module, *args, **kwargs)
        observed = CURRENT.observed
        if observed is None or observed.loop.model is not module:
            return processors
        loop = observed.loop
        loop.begun, loop.prompt_tokens = True, kwargs.get("input_ids_seq_length", NONE)
        if observed.prompt_tokens == NONE:
            observed.prompt_tokens = loop.prompt_tokens
        kind: type = type(processors)
        return _helping(kind)(processors) if processors else processors

    return get_logits_processor


def stopping_criteria(original: Method) -> Method:
    """A wrap of ``_get_stopping_criteria``: its criteria mark each token before they are asked."""

    def get_stopping_criteria(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        criteria = original(module, *args, **kwargs)
        observed = CURRENT.observed
        if observed is None or observed.loop.model is not module:
            return criteria
        observed.generation_config = kwargs.get("generation_config", args[0] if args else None)
        kind: type = type(criteria)
        return _marking(kind)(criteria)

    return get_stopping_criteria


@functools.cache
def _helping(kind: Any) -> Any:
    """The same list of processors, called as helpers."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return aside(kind.__call__, self, *args, **kwargs)

    return type(kind.__name__, (kind,), {"__call__": call})


@functools.cache
def _marking(kind: Any) -> Any:
    """The same list of criteria, which marks that a token has been appended before it asks whether to stop.

    Assisted decoding (up to transformers 5.17) also asks of drafts: there no forward has run since the last token.
    """

    def call(self: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        observed = CURRENT.observed
        if observed is None:
            return kind.__call__(self, input_ids, *args, **kwargs)
        loop = observed.loop
        if loop.unmarked:
            loop.unmarked = False
            observed.mark(_TOKEN, input_ids.shape[-1])
            observed.between_tokens()
        # As aside() does, without calls of its own: these took a microsecond of each token where caches were cold.
        CURRENT.observed = observed.helper or observed.as_helper()
        try:
            return kind.__call__(self, input_ids, *args, **kwargs)
        finally:
            CURRENT.observed = observed

    return type(kind.__name__, (kind,), {"__call__": call})

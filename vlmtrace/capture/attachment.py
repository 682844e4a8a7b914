"""Attachment: listeners on one model for the time of one ``generate()``, and nothing left behind.

Only boundaries are announced here. Methods are wrapped on the instance: what calling a module runs, feature methods,
``_prefill`` (to tell prefill from decode in every mode), ``get_compiled_call`` (compiled code is timed at its call
site, since what is inside is traced into a graph or lost), the stopping criteria (called when a token has been
appended) and the logits processors (whose making begins a loop and names the prompt's length).
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Final

from torch import nn

from vlmtrace.capture.boundaries import (
    called,
    candidates,
    compiled_call,
    entry,
    features,
    forward,
    is_compiled,
    prefill,
    projected,
    span,
)
from vlmtrace.capture.discovery.anatomy import Anatomy, Part
from vlmtrace.capture.token_marks import logits_processor, stopping_criteria
from vlmtrace.capture.wraps import Wrapper, Wraps
from vlmtrace.timeline import names
from vlmtrace.timeline.spans import NONE

__all__ = ["Attachment"]

_ENCODER: Final = names.KIND_OF[names.ENCODER]
_PROJECTOR: Final = names.KIND_OF[names.PROJECTOR]
_VISION_LAYER: Final = names.KIND_OF[names.VISION_LAYER]
_LAYER: Final = names.KIND_OF[names.LAYER]
_LM_HEAD: Final = names.KIND_OF[names.LM_HEAD]


class Attachment:
    """The wraps of one model at one detail.

    A context manager, entered by several threads at a time; whoever leaves last removes all. Once closed, it does
    nothing any more.
    """

    def __init__(self, anatomy: Anatomy, detail: str) -> None:
        self._anatomy = anatomy
        self._detail = detail
        self._users = 0
        # A signal's handler, or a collected generator, may close it on the thread that is attaching.
        self._lock = threading.RLock()
        self._wraps, self._language = Wraps(), Wraps()
        self._closed = threading.Event()

    def __enter__(self) -> Attachment:
        with self._lock:
            self._users += 1
            if self._closed.is_set():
                return self
            if self._users > 1:
                if not self._language:  # dropped by a thread that generates compiled; this one may not
                    self._wrap_language()
                return self
            try:
                sees = not self._vision_is_compiled()
                if sees:
                    self._wrap_vision()
                for part in self._anatomy.generating:
                    self._wrap_generating(part.module)
                self._wrap_language()
            except BaseException:
                self._remove()
                self._users -= 1
                raise
            if self._closed.is_set():  # meanwhile
                self._remove()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._remove()

    def close(self) -> None:
        """Leave the model alone from now on, also where it is generating: the next recording may begin meanwhile."""
        with self._lock:
            self._closed.set()
            self._remove()

    def _remove(self) -> None:
        self._language.remove()
        self._wraps.remove()

    def drop_language(self) -> None:
        """Before a compiled forward: wraps in its graph would break it, or make it again when they go.

        They stay while another thread generates with the same model, perhaps eagerly.
        """
        if self._language:
            with self._lock:
                if self._users == 1:
                    self._language.remove()

    def _vision_is_compiled(self) -> bool:
        """Whether vision runs inside compiled code, where it cannot be seen and listeners cost a recompilation each.

        It does where the whole model is compiled, unless ``generate()`` encodes images before the first forward, as
        transformers does from 5.18 on for models whose forward takes ``mm_encoder_outputs``.
        """
        for part in self._anatomy.generating:
            if is_compiled(part.module):
                kind = type(part.module)
                encodes_before = hasattr(kind, "_prepare_multimodal_encoder_kwargs_for_generation")
                if not (encodes_before and "mm_encoder_outputs" in inspect.signature(kind.forward).parameters):
                    return True
        return False

    def _wrap_vision(self) -> None:
        anatomy = self._anatomy
        for kind, parts in ((_ENCODER, anatomy.encoders), (_PROJECTOR, anatomy.projectors)):
            for number, part in enumerate(parts):
                self._span(self._wraps, part, kind, number)
        if anatomy.projectors:
            self._around(self._wraps, anatomy.projectors[-1], projected)
        if self._detail != "stage":
            for number, part in enumerate(anatomy.inner_projectors, start=len(anatomy.projectors)):
                if not self._inside_compiled_encoder(part):
                    self._span(self._wraps, part, _PROJECTOR, number)
        if self._detail == "layer":
            for number, part in enumerate(anatomy.vision_layers):
                if not self._inside_compiled_encoder(part):
                    self._span(self._wraps, part, _VISION_LAYER, number, sampled=True)
        for method in anatomy.feature_methods:
            self._wraps.add(method.owner, method.method, features)

    def _inside_compiled_encoder(self, part: Part) -> bool:
        """As :meth:`_inside_compiled`; a compiled model around it does not count, since vision may run before it."""
        encoders = self._anatomy.encoders
        return any(is_compiled(one.module) and part.path.startswith(f"{one.path}.") for one in encoders)

    def _wrap_language(self) -> None:
        anatomy, wraps = self._anatomy, self._language
        for part in anatomy.generating:
            self._around(wraps, part, forward)
        if self._detail == "stage":
            return
        if anatomy.entry is not None and not self._inside_compiled(anatomy.entry):
            self._around(wraps, anatomy.entry, entry)
        if anatomy.lm_head is not None and not self._inside_compiled(anatomy.lm_head):
            self._span(wraps, anatomy.lm_head, _LM_HEAD, NONE, sampled=True)
        if self._detail == "layer":
            for number, part in enumerate(anatomy.layers):
                if not self._inside_compiled(part):
                    self._span(wraps, part, _LAYER, number, sampled=True)

    def _around(self, wraps: Wraps, part: Part, wrapper: Wrapper) -> None:
        # Inside of it run replicas of the part, whose wraps would call the part itself.
        if not any(isinstance(module, nn.DataParallel) for module in self._outside(part)):
            wraps.add(part.module, called(part.module), wrapper)

    def _span(self, wraps: Wraps, part: Part, kind: int, number: int, *, sampled: bool = False) -> None:
        self._around(wraps, part, functools.partial(span, kind, number, sampled))

    def _inside_compiled(self, part: Part) -> bool:
        """Whether a part runs in compiled code, where a wrap would show nothing and cost a recompilation."""
        return any(is_compiled(module) for module in self._outside(part))

    def _outside(self, part: Part) -> Iterator[nn.Module]:
        """The modules that a part lies in, the outermost first."""
        module: nn.Module | None = self._anatomy.root
        for name in part.path.split("."):
            if module is None:
                return
            yield module
            module = module._modules.get(name)

    def _wrap_generating(self, module: nn.Module) -> None:
        wrap = self._wraps.add
        wrap(module, "_prefill", prefill)
        wrap(module, "_get_logits_processor", logits_processor)
        wrap(module, "_get_candidate_generator", candidates)
        wrap(module, "_get_stopping_criteria", stopping_criteria)
        wrap(module, "get_compiled_call", functools.partial(compiled_call, self.drop_language))

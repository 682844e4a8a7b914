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
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from torch import nn

from vlmtrace.capture.boundaries import (
    COMPILED,
    candidates,
    compiled_call,
    compiled_entry,
    compiled_forward,
    compiled_span,
    features,
    forward_hooks,
    is_compiled,
    language_entry,
    note_projected,
    prefill,
    span_hooks,
)
from vlmtrace.capture.discovery.anatomy import Anatomy, Part
from vlmtrace.capture.token_marks import logits_processor, stopping_criteria
from vlmtrace.timeline import names
from vlmtrace.timeline.spans import NONE

__all__ = ["Attachment"]

_ENCODER: Final = names.KIND_OF[names.ENCODER]
_PROJECTOR: Final = names.KIND_OF[names.PROJECTOR]
_VISION_LAYER: Final = names.KIND_OF[names.VISION_LAYER]
_LAYER: Final = names.KIND_OF[names.LAYER]
_LM_HEAD: Final = names.KIND_OF[names.LM_HEAD]


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
                    self._wrap(method.owner, method.method, features)
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
            if is_compiled(part.module):
                kind = type(part.module)
                encodes_before = hasattr(kind, "_prepare_multimodal_encoder_kwargs_for_generation")
                if not (encodes_before and "mm_encoder_outputs" in inspect.signature(kind.forward).parameters):
                    return True
        return False

    def _hook_vision(self) -> None:
        anatomy = self._anatomy
        for kind, parts in ((_ENCODER, anatomy.encoders), (_PROJECTOR, anatomy.projectors)):
            for number, part in enumerate(parts):
                self._hooks += self._span(part, kind, number)
        if anatomy.projectors:
            self._hooks.append(anatomy.projectors[-1].module.register_forward_hook(note_projected))
        if self._detail != "stage":
            for number, part in enumerate(anatomy.inner_projectors, start=len(anatomy.projectors)):
                if not self._inside_compiled_encoder(part):
                    self._hooks += self._span(part, _PROJECTOR, number)
        if self._detail == "layer":
            for number, part in enumerate(anatomy.vision_layers):
                if not self._inside_compiled_encoder(part):
                    self._hooks += self._span(part, _VISION_LAYER, number, sampled=True)

    def _inside_compiled_encoder(self, part: Part) -> bool:
        """As :meth:`_inside_compiled`; a compiled model around it does not count, since vision may run before it."""
        encoders = self._anatomy.encoders
        return any(is_compiled(one.module) and part.path.startswith(f"{one.path}.") for one in encoders)

    def _hook_language(self) -> None:
        anatomy = self._anatomy
        hooks = self._language_hooks
        for part in anatomy.generating:
            if part.module.__dict__.get(COMPILED) is None:
                hooks += forward_hooks(part.module)
            else:
                self._wrap(part.module, COMPILED, compiled_forward)
        if self._detail == "stage":
            return
        if anatomy.entry is not None and not self._inside_compiled(anatomy.entry):
            if anatomy.entry.module.__dict__.get(COMPILED) is None:
                hooks.append(anatomy.entry.module.register_forward_pre_hook(language_entry, prepend=True))
            else:
                self._wrap(anatomy.entry.module, COMPILED, compiled_entry)
        if anatomy.lm_head is not None and not self._inside_compiled(anatomy.lm_head):
            hooks += self._span(anatomy.lm_head, _LM_HEAD, NONE, sampled=True)
        if self._detail == "layer":
            for number, part in enumerate(anatomy.layers):
                if not self._inside_compiled(part):
                    hooks += self._span(part, _LAYER, number, sampled=True)

    def _span(self, part: Part, kind: int, number: int, *, sampled: bool = False) -> list[Any]:
        """Hooks around a part; where ``module.compile()`` has compiled it, a wrap of what it runs instead."""
        if part.module.__dict__.get(COMPILED) is None:
            return list(span_hooks(part.module, kind, number, sampled=sampled))
        self._wrap(part.module, COMPILED, functools.partial(compiled_span, kind, number, sampled))
        return []

    def _inside_compiled(self, part: Part) -> bool:
        """Whether a part runs in compiled code, where its hooks would show nothing and cost a recompilation."""
        module: nn.Module | None = self._anatomy.root
        for name in part.path.split("."):
            if module is None:
                return False
            if is_compiled(module):
                return True
            module = module._modules.get(name)
        return False

    def _wrap_generating(self, module: nn.Module) -> None:
        self._wrap(module, "_prefill", prefill)
        self._wrap(module, "_get_logits_processor", logits_processor)
        self._wrap(module, "_get_candidate_generator", candidates)
        self._wrap(module, "_get_stopping_criteria", stopping_criteria)
        self._wrap(module, "get_compiled_call", functools.partial(compiled_call, self.drop_language_hooks))

    def _wrap(self, module: nn.Module, name: str, wrapper: Callable[[nn.Module, Any], Any]) -> None:
        """Shadow a method on the instance. transformers reads signatures, which ``functools.wraps`` keeps."""
        original = getattr(module, name, None)
        if original is None or (module, name) in ((owner, taken) for owner, taken, _ in self._wrapped):
            return
        before = module.__dict__.get(name)
        module.__dict__[name] = functools.wraps(original)(wrapper(module, original))
        self._wrapped.append((module, name, before))

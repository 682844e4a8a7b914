"""Surroundings: what is told around ``generate()``, by processors, copies to a device and the user's own spans."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch

from vlmtrace.capture.lanes import Lanes, Voice
from vlmtrace.capture.observed import CURRENT
from vlmtrace.capture.patches import Around, Family
from vlmtrace.timeline import names
from vlmtrace.timeline.spans import NONE

__all__ = ["Surroundings"]

_PREPROCESS: Final = names.KIND_OF[names.PREPROCESS]
_H2D: Final = names.KIND_OF[names.H2D]
_DETOKENIZE: Final = names.KIND_OF[names.DETOKENIZE]

_AROUND: Final = {names.PREPROCESS: _PREPROCESS, names.H2D: _H2D, names.DETOKENIZE: _DETOKENIZE}


class Surroundings:
    """Marks on the lanes of a recording, outside of its generations and, for a user's span, inside of them too.

    ``texts`` maps kinds to names; a user's span adds to it.
    """

    def __init__(self, lanes: Lanes, texts: list[str], *, keep_text: bool) -> None:
        self._lanes = lanes
        self._texts = texts
        self._keep_text = keep_text
        self._kind_of: dict[str, int] = {}
        self._process = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether this is the process that records; a child that it forked is not."""
        return os.getpid() == self._process

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """A user's span: host and device marks and an NVTX range, on this thread, around the block.

        Outside of ``generate()``, one called ``preprocess``, ``h2d`` or ``detokenize`` is that stage: a program whose
        processor is its own says so with it.
        """
        observed, lane = CURRENT.observed, self._lanes.here()
        kind = _AROUND.get(name)
        if kind is None or observed is not None or lane.busy:
            mark = self._outside().listener.mark if observed is None else observed.outer or observed.mark
            kind, is_stage = self._kind(name), False
        else:
            voice = self._outside() if kind == _H2D else self._lanes.voice(None)
            mark, is_stage = voice.listener.mark, True
        lane.busy |= is_stage
        mark(kind, NONE)
        try:
            yield
        finally:
            mark(~kind, NONE)
            if is_stage:
                lane.busy = False

    def _kind(self, name: str) -> int:
        kind = self._kind_of.get(name)
        if kind is None:
            kind = self._kind_of[name] = len(self._texts)
            # A user may call a span as a stage is called; it is told apart from the stage everywhere.
            self._texts.append(f"{name} (span)" if name in names.RESERVED else name)
        return kind

    def _outside(self) -> Voice:
        """Where work outside of ``generate()`` is marked: on the current CUDA device once there is one."""
        device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
        return self._lanes.voice(device)

    def families(self) -> tuple[Family, ...]:
        """The classes of transformers whose calls these are, and what to wrap of them."""
        preprocess: dict[str, Around] = {
            name: functools.partial(self._around_once, _PREPROCESS) for name in ("__call__", "apply_chat_template")
        }
        detokenize: dict[str, Around] = {
            name: functools.partial(self._around_once, _DETOKENIZE) for name in ("batch_decode", "decode")
        }
        copy: dict[str, Around] = {"to": self._around_copy}
        text = preprocess | detokenize
        return (
            Family("transformers.processing_utils", "ProcessorMixin", text),
            Family("transformers.tokenization_utils_base", "PreTrainedTokenizerBase", text),
            Family("transformers.image_processing_base", "ImageProcessingMixin", {"__call__": preprocess["__call__"]}),
            Family("transformers.feature_extraction_utils", "BatchFeature", copy),
            Family("transformers.tokenization_utils_base", "BatchEncoding", copy),
        )

    def idle(self) -> bool:
        """Whether this process and thread are recorded and outside of a generation; a forked child is not."""
        return CURRENT.observed is None and self.is_here

    def _around_once(self, kind: int, original: Any, owner: Any, args: Any, kwargs: Any) -> Any:
        """A processor call, told once: processors call their tokenizers and image processors in turn."""
        if not self.idle():
            return original(owner, *args, **kwargs)
        lane = self._lanes.here()
        if lane.busy:
            return original(owner, *args, **kwargs)
        mark = self._lanes.voice(None).listener.mark
        lane.busy = True
        mark(kind, NONE)
        try:
            made = original(owner, *args, **kwargs)
        finally:
            mark(~kind, NONE)
            lane.busy = False
        if kind == _DETOKENIZE and self._keep_text and lane.output is not None:
            lane.output["text"] = list(made) if isinstance(made, list) else made
        return made

    def _around_copy(self, original: Any, owner: Any, args: Any, kwargs: Any) -> Any:
        if not self.idle() or not _names_cuda((*args, *kwargs.values())) or self._lanes.here().busy:
            return original(owner, *args, **kwargs)
        torch.cuda.init()
        mark = self._outside().listener.mark
        mark(_H2D, NONE)
        try:
            return original(owner, *args, **kwargs)
        finally:
            mark(~_H2D, NONE)


def _names_cuda(values: Sequence[Any]) -> bool:
    """Whether one of a ``.to()`` call's arguments names a CUDA device."""
    for value in values:
        if isinstance(value, str) and value.startswith("cuda"):
            return True
        if isinstance(value, torch.device) and value.type == "cuda":
            return True
        if type(value) is int and torch.cuda.is_available():
            return True
    return False

"""Observed: what wraps know of the generation that their thread is in, while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, ParamSpec, TypeVar

import torch
from torch import nn

from vlmtrace.capture.listeners import Mark
from vlmtrace.timeline.spans import NONE

__all__ = ["CURRENT", "Loop", "Observed", "aside", "nothing", "unheard"]

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


@dataclass(slots=True, eq=False)
class Loop:
    """One ``generate()`` in progress. ``model`` is whose forwards count in it, ``None`` in a helper's, where none do.

    ``drafted`` says that tokens are proposed to it by others.
    It has ``begun`` when it has made its logits processors: what generates inside it from then on is a helper.
    ``unmarked`` says that a forward has run which no token has come of yet.
    """

    model: nn.Module | None
    begun: bool = False
    prompt_tokens: int = NONE
    in_prefill: bool = False
    seen_forward: bool = False
    unmarked: bool = False
    drafted: bool = False


@dataclass(slots=True, eq=False)
class Observed:
    """What one generation in progress has shown of itself on the host; read by the wraps of its thread only.

    ``mark`` tells of a boundary. ``detailed`` says whether the layers of the forward in progress are told: those of a
    prefill are, and those of one step in ``every``. ``answers`` are the (prompt length, token ids) of each loop that
    has ended; ``prompt_tokens`` is the first one's. ``proposed`` has how many tokens each forward of a drafted loop was
    to judge. ``cache`` is the KV cache that a forward was given first, until the generation has ended. ``outer`` is the
    ``mark`` of the generation that this one is a helper in, if it is one: see :func:`aside`. Never that generation
    itself: in a circle its ids would keep their place on the device until the collector comes, the next generation's
    cache would lie elsewhere than the last one's, and its CUDA graph be captured anew.
    """

    mark: Mark
    between_tokens: Callable[[], None]
    loop: Loop
    forward_kind: int = NONE
    in_compiled: bool = False
    steps: int = 0
    every: int = 1
    detailed: bool = True
    vision_depth: int = 0
    prompt_tokens: int = NONE
    visual_tokens: int = 0
    projected_tokens: int = 0
    mode: str = "eager"
    generation_config: Any = None
    cache: Any = None
    proposed: list[int] = field(default_factory=list)
    answers: list[tuple[int, torch.Tensor]] = field(default_factory=list)
    outer: Mark | None = None
    helper: Observed | None = None

    def end_loop(self, ids: torch.Tensor | None) -> None:
        """The loop in progress has answered ``ids``, of shape (sequences, prompt + new)."""
        # One that only handed over to another has no tokens of its own.
        if self.loop.begun and ids is not None and (self.loop.seen_forward or not self.answers):
            self.answers.append((self.loop.prompt_tokens, ids))

    def as_helper(self) -> Observed:
        """What wraps are to find where a helper runs: marks that nobody hears, and no loop to count in."""
        if self.outer is not None:
            return self
        if self.helper is None:
            self.helper = Observed(unheard, nothing, Loop(None, begun=True), outer=self.mark)
        return self.helper


def unheard(_kind: int, _number: int) -> None:
    """Hears a mark of a helper."""


def nothing() -> None:
    """Does nothing between a helper's tokens."""


class _Current(threading.local):
    observed: Observed | None = None


CURRENT: Final = _Current()
"""The generation that this thread is in, if any."""


def aside(call: Callable[_Given, _Made], *args: _Given.args, **kwargs: _Given.kwargs) -> _Made:
    """Call a helper of the loop in progress: what it runs, with the same model even, is no stage of the generation."""
    observed = CURRENT.observed
    if observed is None:
        return call(*args, **kwargs)
    CURRENT.observed = observed.as_helper()
    try:
        return call(*args, **kwargs)
    finally:
        CURRENT.observed = observed

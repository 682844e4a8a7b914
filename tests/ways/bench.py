"""The bench that ways of generating are tried on, and what a way is to show there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
import transformers

from tests.models import build

__all__ = ["INSIDE", "NEW", "Bench", "Shows", "Way", "bench"]

NEW: Final = 6
"""New tokens that most ways ask for."""
INSIDE: Final = tuple(int(part) for part in transformers.__version__.split(".")[:2]) <= (5, 17)
"""Whether vision runs inside the first forward."""


@dataclass(eq=False)
class Bench:
    """A model of one's own and its inputs; ``asked`` is what a way calls instead of ``generate()``, if it does."""

    model: Any
    inputs: dict[str, torch.Tensor]
    asked: Any = None

    def generate(self, **more: Any) -> Any:
        inputs = {name: value.clone() for name, value in self.inputs.items()}
        torch.manual_seed(0)
        with torch.no_grad():
            return self.model.generate(**inputs, **{"max_new_tokens": NEW, "do_sample": False, **more})

    @property
    def prompt(self) -> int:
        return int(self.inputs["input_ids"].shape[1])


@dataclass(frozen=True)
class Shows:
    """What one generation of a way is to show. ``steps`` and ``tokens`` are ``None`` where the drafts decide.

    ``new_tokens`` are counted per sequence. ``says`` is a finding that the summary must have: what cannot be told is
    said.
    """

    steps: int | None = NEW - 1
    tokens: int | None = NEW
    vision: int = 1
    prefill: int = 1
    chunks: int = 0
    new_tokens: tuple[int, ...] = (NEW,)
    error: str | None = None
    says: str | None = None


@dataclass(frozen=True)
class Way:
    """``run`` generates and answers what must be equal with and without tracing; ``prepare`` changes the bench once.

    ``shows`` has one entry for each generation, in order. ``inside`` is what they show instead where transformers runs
    vision inside the first forward, as up to 5.17.
    """

    run: Callable[[Bench], Any]
    shows: tuple[Shows, ...] = (Shows(),)
    inside: tuple[Shows, ...] | None = None
    prepare: Callable[[Bench], None] | None = None
    model: str = "llava"
    compiles: bool = False

    @property
    def shows_here(self) -> tuple[Shows, ...]:
        """What it is to show with the transformers of this environment."""
        return self.inside if INSIDE and self.inside is not None else self.shows


def bench(way: Way) -> Bench:
    tiny = build(way.model)
    made = Bench(copy.deepcopy(tiny.model), dict(tiny.inputs))
    if way.prepare is not None:
        way.prepare(made)
    return made

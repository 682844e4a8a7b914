"""Calibration: what telling a timeline costs the host, measured before the first generation on each clock.

In a loop of its own a mark has the processor's caches to itself, and takes half as long as in a model, which has run
much else since the last one. So each call that is timed comes after other work. Others on the machine only ever make it
slower, for some milliseconds or for longer: a price comes of medians, in the quietest of several rounds.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import torch
from torch import nn

from vlmtrace.capture.boundaries import called, forward, span
from vlmtrace.capture.listeners import Mark, NvtxRanges
from vlmtrace.capture.observed import CURRENT, Loop, Observed, nothing, unheard
from vlmtrace.capture.tape import Tape
from vlmtrace.capture.token_marks import stopping_criteria
from vlmtrace.capture.wraps import Wrapper, Wraps
from vlmtrace.timeline import names
from vlmtrace.timeline.spans import NONE

__all__ = ["Prices", "calibrate"]

_ROUNDS: Final = 8
_SAMPLES: Final = 20
"""How often each call is timed in a round."""

_TOUCHED: Final = 512 << 10
"""Bytes copied before each call: with their copy it is half of what the second cache of a server's core holds."""

_MARKS_A_TOKEN: Final = 3
"""A step's two and the token's own."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Nanoseconds of the host's time: of one mark, of one NVTX range, and of what a token takes besides its marks."""

    mark_ns: int = 0
    range_ns: int = 0
    token_ns: int = 0


def calibrate(tape: Tape, mark: Mark, between_tokens: Callable[[], None], ranges: NvtxRanges | None) -> Prices:
    """Measure the prices of ``mark``, which ends on ``tape`` and is told to ``ranges`` too where there are any.

    What it marks is left on the tape. The calling thread may be in a generation.
    """
    tape.reserve(2 * _ROUNDS * _SAMPLES)
    before = CURRENT.observed
    try:
        mark_ns = _mark_cost(mark)
        besides = _token_cost(between_tokens) - _MARKS_A_TOKEN * _mark_cost(unheard)
    finally:
        CURRENT.observed = before
    return Prices(max(0, round(mark_ns)), 0 if ranges is None else _range_cost(ranges), max(0, round(besides)))


def _mark_cost(mark: Mark) -> float:
    """Half of what a traced call of a module takes longer than a bare one.

    A layer's marks are made, at which no memory is read.
    """
    bare, traced, value = nn.Identity(), nn.Identity(), torch.empty(0, device="cpu")
    CURRENT.observed = Observed(mark, nothing, Loop(traced))
    with _wrapped(traced, called(traced), functools.partial(span, names.KIND_OF[names.LAYER], 0, False)):
        return _difference(lambda: traced(value), lambda: bare(value)) / 2


class _Criteria(list[Any]):
    """As transformers' list of stopping criteria: asked once a token."""

    def __call__(self, input_ids: torch.Tensor) -> None:
        """Nothing stops it."""


class _Generating(nn.Identity):
    """A model as its loop sees it."""

    def _get_stopping_criteria(self) -> Any:
        return _Criteria()


def _token_cost(between_tokens: Callable[[], None]) -> float:
    """What a step and the token that comes of it take longer where they are traced, with marks that nobody hears."""
    bare, traced, ids = _Generating(), _Generating(), torch.zeros(1, 1, dtype=torch.long, device="cpu")
    CURRENT.observed = Observed(unheard, between_tokens, Loop(traced, begun=True, seen_forward=True))
    plain, asks = bare._get_stopping_criteria(), "_get_stopping_criteria"
    with _wrapped(traced, called(traced), forward), _wrapped(traced, asks, stopping_criteria):
        marking = traced._get_stopping_criteria()
        return _difference(lambda: (traced(ids), marking(ids)), lambda: (bare(ids), plain(ids)))


@contextmanager
def _wrapped(module: nn.Module, name: str, wrapper: Wrapper) -> Iterator[None]:
    wraps = Wraps()
    wraps.add(module, name, wrapper)
    try:
        yield
    finally:
        wraps.remove()


def _range_cost(ranges: NvtxRanges) -> int:
    kind = names.KIND_OF[names.CALIBRATE]
    cost = _difference(lambda: (ranges.mark(kind, NONE), ranges.mark(~kind, NONE)), nothing)
    ranges.count = 0
    return round(cost)


def _difference(call: Callable[[], object], base: Callable[[], object]) -> float:
    """Nanoseconds that one call takes longer than the other in the middle of other work, one after the other."""
    now, work = time.perf_counter_ns, _other_work()
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS):
        in_round: tuple[list[int], list[int]] = ([], [])
        for _ in range(_SAMPLES):
            for kept, one in zip(in_round, (call, base), strict=True):
                work()
                begin = now()
                one()
                kept.append(now() - begin)
        for medians, times in zip(taken, in_round, strict=True):
            medians.append(median(times))
    return min(taken[0]) - min(taken[1])


def _other_work() -> Callable[[], None]:
    """Different operations of torch, as a model calls them, and some memory.

    None that torch runs on several threads, however small (``layer_norm``, ``softmax``): where other processes keep the
    processors busy, each waits for milliseconds until all threads have had their turn. The memory is taken once: what a
    system does to give so much and take it back differs from process to process.
    """
    x = torch.ones(8, 8, dtype=torch.float32, device="cpu")
    copied, copy = bytes(_TOUCHED), bytearray(_TOUCHED)

    def work() -> None:
        copy[:] = copied
        y = x @ x
        y = y - y.mean(-1, keepdim=True)
        torch.cat([torch.where(y > 0, y, x), y.sin() * x, y.transpose(0, 1).reshape(8, 8).clamp(min=0)]).sum()

    return work

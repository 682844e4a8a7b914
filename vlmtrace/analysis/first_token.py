"""The way to the first token: every nanosecond of one TTFT, preprocessing included, in exactly one part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from vlmtrace.analysis.measured import Measured
from vlmtrace.timeline import names

__all__ = ["BEFORE", "ENTRY", "Part", "first_token_parts"]

BEFORE: Final = "before"
"""What lies between the seen calls in front of ``generate()``, on the host."""
ENTRY: Final = "entry"
"""From the host's entry of ``generate()`` to the device reaching the mark there."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the way: a stage's name, :data:`BEFORE` or :data:`ENTRY`, its ns, and whether TTFT counts it."""

    name: str
    ns: int
    inside: bool


def first_token_parts(one: Measured) -> tuple[Part, ...]:
    """What passed before the first token mark, in order of begin; empty where there is no such mark.

    The parts ``inside`` add up to ``ttft``, and all of them to ``ttft_e2e`` where there is one. A vision inside a
    prefill is told as vision.
    """
    if one.metrics.ttft is None:
        return ()
    entry, first = one.stages.generate.host_begin, one.stages.tokens[0].begin
    start = entry if one.metrics.ttft_e2e is None else first - one.metrics.ttft_e2e
    stages = list(_intervals(one, entry, first))
    cuts = sorted({start, entry, first, *(at for begin, end, _ in stages for at in (begin, end) if start < at < first)})
    sums: dict[tuple[str, bool], int] = {}
    for begin, end in pairwise(cuts):
        # Of stages around each other the one told last is the inner one.
        name = next((name for b, e, name in reversed(stages) if b <= begin and end <= e), None)
        inside = begin >= entry
        key = (name or (ENTRY if inside else BEFORE), inside)
        sums[key] = sums.get(key, 0) + end - begin
    return tuple(Part(name, ns, inside) for (name, inside), ns in sums.items())


def _intervals(one: Measured, entry: int, first: int) -> Iterator[tuple[int, int, str]]:
    """Where each stage lies: those of the host up to its entry, those of ``generate`` from there; inner ones last."""
    stages = one.stages
    for name in (names.PREPROCESS, names.H2D):
        for span in stages.around.get(name, ()):
            yield span.begin, min(span.end, entry), name
    for group in (stages.other, stages.prefill, stages.vision, stages.decode):
        for span in group:
            yield max(span.begin, entry), min(span.end, first), span.name

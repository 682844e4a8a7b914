"""Stages: which spans make up each generation, gathered in one pass over the recording."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Generation, Recording
from vlmtrace.timeline.spans import NONE, Span, Spans

__all__ = ["StageSpans", "gather"]

_AROUND: Final = (names.PREPROCESS, names.H2D, names.DETOKENIZE)
_PARTS: Final = (names.ENCODER, names.PROJECTOR, names.MERGE)
_WANTED: Final = frozenset(
    (
        *_AROUND,
        *_PARTS,
        *names.OTHER_PARTS,
        names.VISION,
        names.PREFILL,
        names.DECODE,
        names.STEP,
        names.GAP,
        names.TOKEN,
    )
)
_HOMES: Final = frozenset((names.PREFILL, names.DECODE, names.STEP, names.GENERATE))


@dataclass(frozen=True, slots=True)
class StageSpans:
    """The spans of one generation by stage, each tuple in order of begin.

    ``vision`` holds the outermost vision spans outside decode, ``vision_in_prefill`` those of them that lie within a
    prefill. A vision inside a step counts in decode: it is in ``vision_in_decode`` alone. ``parts`` are the module
    spans (encoder, projector, merge) outside decode. ``around`` are preprocess, h2d and detokenize of the same request.
    """

    generation: Generation
    generate: Span
    vision: tuple[Span, ...]
    vision_in_prefill: tuple[Span, ...]
    vision_in_decode: tuple[Span, ...]
    prefill: tuple[Span, ...]
    decode: tuple[Span, ...]
    steps: tuple[Span, ...]
    gaps: tuple[Span, ...]
    other: tuple[Span, ...]
    tokens: tuple[Span, ...]
    parts: dict[str, tuple[Span, ...]]
    around: dict[str, tuple[Span, ...]]


def gather(recording: Recording) -> tuple[StageSpans, ...]:
    """The stage spans of every generation, in the recording's order; linear in the number of spans."""
    spans = recording.spans
    wanted = {at: text for at, text in enumerate(spans.strings) if text in _WANTED}
    request_of = {spans.parent[g.span]: g.index for g in recording.generations if spans.parent[g.span] != NONE}
    found: list[defaultdict[str, list[Span]]] = [defaultdict(list) for _ in recording.generations]
    for row, at in enumerate(spans.name):
        name = wanted.get(at)
        if name is None:
            continue
        index = spans.generation[row]
        if index == NONE:
            index = request_of.get(spans.parent[row], NONE)
        if index != NONE:
            found[index][name].append(Span(spans, row))
    return tuple(
        _sorted_out(generation, recording.generate_span(generation), found[generation.index])
        for generation in recording.generations
    )


def _sorted_out(generation: Generation, generate: Span, found: dict[str, list[Span]]) -> StageSpans:
    spans = generate.spans

    def children(parents: Sequence[Span], *wanted: str) -> tuple[Span, ...]:
        rows = {parent.row for parent in parents}
        picked = (span for name in wanted for span in found.get(name, ()) if span.parent in rows)
        return tuple(sorted(picked, key=lambda span: span.row))

    homes = [(span, _home(spans, span)) for span in found.get(names.VISION, ())]
    decode = children((generate,), names.DECODE)
    return StageSpans(
        generation=generation,
        generate=generate,
        vision=tuple(span for span, home in homes if home in {names.GENERATE, names.PREFILL}),
        vision_in_prefill=tuple(span for span, home in homes if home == names.PREFILL),
        vision_in_decode=tuple(span for span, home in homes if home in {names.STEP, names.DECODE}),
        prefill=children((generate,), names.PREFILL),
        decode=decode,
        steps=children(decode, names.STEP),
        gaps=children(decode, names.GAP),
        other=children((generate,), *names.OTHER_PARTS),
        tokens=tuple(found.get(names.TOKEN, ())),
        parts={
            name: tuple(span for span in found[name] if _home(spans, span) in {names.GENERATE, names.PREFILL})
            for name in _PARTS
            if name in found
        },
        around={name: tuple(found[name]) for name in _AROUND if name in found},
    )


def _home(spans: Spans, span: Span) -> str | None:
    """The nearest stage that ``span`` lies in; ``None`` if it lies in another of its own name, or in no generation."""
    row = spans.parent[span.row]
    while row != NONE:
        name = spans.strings[spans.name[row]]
        if name == span.name:
            return None
        if name in _HOMES:
            return name
        row = spans.parent[row]
    return None

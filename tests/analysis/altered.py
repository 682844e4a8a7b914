"""Altered recordings: a synthetic one with the few facts changed that a test is about."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace

from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Generation, Json, Recording
from vlmtrace.timeline.spans import ArgColumn, NewSpan, Span, SpansBuilder
from vlmtrace.timeline.validation import validate


def with_args(recording: Recording, name: str, key: str, value_of: Callable[[Span], int]) -> Recording:
    """``recording`` with the integer argument ``key`` on every span of that name, and on no other."""
    spans = recording.spans
    rows = list(spans.named(name))
    column = ArgColumn(False, array("q", (span.row for span in rows)), array("q", map(value_of, rows)))
    return replace(recording, spans=replace(spans, args={**spans.args, key: column}))


def with_peaks(recording: Recording, peak_of: Callable[[Span], int | None]) -> Recording:
    """``recording`` whose spans tell the peak of the allocator in bytes, those for which there is one."""
    told = [(span.row, peak) for span in recording.spans if (peak := peak_of(span)) is not None]
    column = ArgColumn(False, *(array("q", (pair[at] for pair in told)) for at in (0, 1)))
    return replace(recording, spans=replace(recording.spans, args={**recording.spans.args, "peak_bytes": column}))


def with_drafts(recording: Recording, *told: tuple[int, int]) -> Recording:
    """``recording`` whose forwards, prefills and steps in order, tell how many tokens were proposed and accepted."""
    rows = array("q", (span.row for span in recording.spans if span.name in (names.PREFILL, names.STEP)))
    args = {
        key: ArgColumn(False, rows, array("q", (pair[at] for _, pair in zip(rows, told, strict=True))))
        for at, key in enumerate(("proposed", "accepted"))
    }
    return replace(recording, spans=replace(recording.spans, args={**recording.spans.args, **args}))


def without_args(recording: Recording, key: str) -> Recording:
    spans = recording.spans
    return replace(recording, spans=replace(spans, args={k: v for k, v in spans.args.items() if k != key}))


def with_generation(recording: Recording, index: int, **changes: object) -> Recording:
    """``recording`` with some facts of one generation replaced."""
    generations = list(recording.generations)
    generations[index] = replace(generations[index], **changes)  # type: ignore[arg-type]
    return replace(recording, generations=tuple(generations))


def with_inputs(recording: Recording, **inputs: Json) -> Recording:
    """``recording`` whose generations all have exactly these inputs."""
    return replace(recording, generations=tuple(replace(g, inputs=inputs) for g in recording.generations))


def rebuilt(
    recording: Recording, *, keep: Callable[[Span], bool] = lambda _: True, more: tuple[NewSpan, ...] = ()
) -> Recording:
    """``recording`` with some spans dropped and others added; ``more`` name their parents by row."""
    builder = SpansBuilder()
    handles: dict[int, int] = {}
    for span in recording.spans:
        if keep(span):
            handles[span.row] = builder.add(
                NewSpan(
                    span.name,
                    span.track,
                    (span.begin, span.end),
                    (span.host_begin, span.host_end),
                    None if span.parent is None else handles[span.parent],
                    span.generation,
                    span.number,
                    span.incomplete,
                    span.args,
                )
            )
    for new in more:
        builder.add(replace(new, parent=None if new.parent is None else handles[new.parent]))
    spans, row_of = builder.freeze()

    def moved(generation: Generation) -> Generation:
        return replace(generation, span=row_of[handles[generation.span]])

    return validate(replace(recording, spans=spans, generations=tuple(map(moved, recording.generations))))

"""Rows: each stage over the counted generations, in the order in which a summary shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from vlmtrace.analysis.launch import Judgement
from vlmtrace.analysis.measured import Measured
from vlmtrace.analysis.stats import median, percentile, ratio
from vlmtrace.timeline import names
from vlmtrace.timeline.spans import Span

__all__ = ["OTHER", "Range", "StageRow", "stage_rows"]

OTHER: Final = "other"
"""The row of everything in ``generate`` that is no stage: setup, between, first_token and tail."""

Range: TypeAlias = tuple[int, int]
"""The least and the most of a count over the counted generations."""


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage over the counted generations.

    ``calls`` per generation. ``p50`` and ``p95`` are ns over the generations in which the stage ran, of the sum per
    generation (``decode.step``: of each step); ``None`` where it never ran. ``share`` is Σ stage / Σ generate, given
    for ``generate`` and the four parts that add up to it. ``largest`` is the part that made up most of ``other``, and
    its median. ``peak`` is the most bytes that torch's allocator held in the stage, over all counted generations;
    ``None`` where that was not read.
    """

    stage: str
    calls: Range
    p50: float | None
    p95: float | None
    share: float | None = None
    judgement: Judgement | None = None
    largest: tuple[str, float] | None = None
    peak: int | None = None


_Part: TypeAlias = tuple[int, int | None]
"""How often a stage was called in one generation and how long it took there, ``None`` where it did not run."""


def stage_rows(chosen: Sequence[Measured], judgements: Mapping[str, Judgement]) -> tuple[StageRow, ...]:
    """The rows of the counted generations; none where nothing is counted.

    ``generate`` and its four parts always have a row, also where a part never ran; the others only where they ran.
    """
    if not chosen:
        return ()
    generate = sum(one.account.generate for one in chosen)
    rows = []
    for stage, read in _STAGES:
        parts = [read(one) for one in chosen]
        if stage in _ALWAYS or any(calls for calls, _ in parts):
            rows.append(_row(stage, parts, chosen, generate, judgements.get(stage)))
    return tuple(rows)


def _row(
    stage: str, parts: Sequence[_Part], chosen: Sequence[Measured], generate: int, judgement: Judgement | None
) -> StageRow:
    calls = [calls for calls, _ in parts]
    totals = [total for _, total in parts if total is not None]
    samples = [step for one in chosen for step in one.account.steps] if stage == names.STEP else totals
    return StageRow(
        stage=stage,
        calls=(min(calls), max(calls)),
        p50=median(samples),
        p95=percentile(samples, 95),
        share=ratio(sum(totals), generate) if stage in _ALWAYS and totals else None,
        judgement=judgement,
        largest=_largest(chosen) if stage == OTHER else None,
        peak=_peak(chosen, stage),
    )


def _peak(chosen: Sequence[Measured], stage: str) -> int | None:
    read = _WITH_PEAKS.get(stage)
    told = (span.args.get("peak_bytes") for one in chosen for span in (() if read is None else read(one)))
    return max((peak for peak in told if isinstance(peak, int)), default=None)


def _largest(chosen: Sequence[Measured]) -> tuple[str, float] | None:
    """The part of ``other`` with the largest median over the generations that have it."""
    by_name: dict[str, list[int]] = {}
    for one in chosen:
        sums: dict[str, int] = {}
        for name, ns in one.account.other:
            sums[name] = sums.get(name, 0) + ns
        for name, ns in sums.items():
            by_name.setdefault(name, []).append(ns)
    medians = [(name, middle) for name, values in by_name.items() if (middle := median(values)) is not None]
    return max(medians, key=lambda pair: pair[1], default=None)


def _spans(read: Callable[[Measured], Sequence[Span]]) -> Callable[[Measured], _Part]:
    def part(one: Measured) -> _Part:
        durations = [span.duration for span in read(one)]
        return len(durations), sum(durations) if durations else None

    return part


def _around(stage: str) -> Callable[[Measured], _Part]:
    return _spans(lambda one: one.stages.around.get(stage, ()))


def _module(stage: str) -> Callable[[Measured], _Part]:
    return _spans(lambda one: one.stages.parts.get(stage, ()))


_STAGES: Final[tuple[tuple[str, Callable[[Measured], _Part]], ...]] = (
    (names.PREPROCESS, _around(names.PREPROCESS)),
    (names.H2D, _around(names.H2D)),
    (names.GENERATE, lambda one: (1, one.account.generate)),
    (names.VISION, lambda one: (len(one.stages.vision), one.account.vision)),
    (names.ENCODER, _module(names.ENCODER)),
    (names.PROJECTOR, _module(names.PROJECTOR)),
    (names.PREFILL, lambda one: (len(one.stages.prefill), one.account.prefill)),
    (names.MERGE, _module(names.MERGE)),
    (names.DECODE, lambda one: (len(one.stages.decode), one.account.decode)),
    (names.STEP, _spans(lambda one: one.stages.steps)),
    (names.GAP, _spans(lambda one: one.stages.gaps)),
    (OTHER, lambda one: (len(one.account.other), one.account.other_total)),
    (names.DETOKENIZE, _around(names.DETOKENIZE)),
)
_ALWAYS: Final = frozenset((names.GENERATE, names.VISION, names.PREFILL, names.DECODE, OTHER))
_WITH_PEAKS: Final[Mapping[str, Callable[[Measured], Sequence[Span]]]] = {
    names.GENERATE: lambda one: (one.stages.generate,),
    names.VISION: lambda one: one.stages.vision,
    names.PREFILL: lambda one: one.stages.prefill,
    names.DECODE: lambda one: one.stages.decode,
}

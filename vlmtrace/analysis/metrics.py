"""Metrics: latency and throughput of one generation, from its token marks and stages."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from vlmtrace.analysis.accounting import Account
from vlmtrace.analysis.stages import StageSpans
from vlmtrace.analysis.stats import ratio
from vlmtrace.timeline import names
from vlmtrace.timeline.spans import Span
from vlmtrace.units import NS_PER_S

__all__ = ["Metrics", "measure_metrics", "visual_tokens"]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Figures of one generation; ``None`` (``itl``: empty) where what they need did not happen, never 0 instead.

    ``ttft``: first token mark − the host's entry of ``generate()``, ns; ``ttft_e2e``: counted from the beginning of
    ``preprocess`` in the same request, ns. ``itl``: gaps between consecutive token marks, ns. ``tpot``: ns per token
    appended to each sequence after the first mark (beams: per step). ``decode_throughput``: tokens until
    end-of-sequence after the first mark, summed over sequences, per second of decode; ``output_throughput``: all of
    them per second of generate. ``vision_per_1000``: ns of vision per 1,000 visual tokens. ``proposed``: tokens of
    drafts that forwards were given to judge; ``accepted``: how many of them they let pass.
    """

    ttft: int | None
    ttft_e2e: int | None
    itl: tuple[int, ...]
    tpot: float | None
    decode_throughput: float | None
    output_throughput: float | None
    vision_per_1000: float | None
    proposed: int | None
    accepted: int | None


def measure_metrics(stages: StageSpans, account: Account) -> Metrics:
    """The metrics of one generation."""
    generate, marks = stages.generate, stages.tokens
    first = marks[0].begin if marks else None
    begun = [span.begin for span in stages.around.get(names.PREPROCESS, ()) if span.begin <= generate.host_begin]
    new_tokens = stages.generation.new_tokens
    seen = visual_tokens(stages)
    return Metrics(
        ttft=None if first is None else first - generate.host_begin,
        ttft_e2e=None if first is None or not begun else first - min(begun),
        itl=tuple(later.begin - earlier.begin for earlier, later in pairwise(marks)),
        tpot=_tpot(marks) if account.decode is not None else None,
        decode_throughput=_decode_throughput(new_tokens, marks, account.decode),
        output_throughput=ratio(sum(new_tokens) * NS_PER_S, account.generate) if new_tokens else None,
        vision_per_1000=None if account.vision is None or seen is None else ratio(account.vision * 1_000, seen),
        proposed=_told(stages, "proposed"),
        accepted=_told(stages, "accepted"),
    )


def visual_tokens(stages: StageSpans) -> int | None:
    """How many visual tokens the generation had: what is known of its inputs, else the sum its vision spans tell."""
    given = stages.generation.inputs.get("visual_tokens")
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    told = [span.spans.arg(span.row, "visual_tokens") for span in stages.vision]
    counts = [count for count in told if isinstance(count, int)]
    return sum(counts) if counts and len(counts) == len(told) else None


def _told(stages: StageSpans, key: str) -> int | None:
    """The sum of what the forwards tell of their drafts."""
    told = [span.spans.arg(span.row, key) for span in (*stages.prefill, *stages.steps)]
    counts = [count for count in told if isinstance(count, int)]
    return sum(counts) if counts else None


def _tpot(marks: tuple[Span, ...]) -> float | None:
    if len(marks) < 2:
        return None
    beams = any(mark.spans.arg(mark.row, "beam") is not None for mark in marks)
    appended = len(marks) - 1 if beams else sum(_appended(mark) for mark in marks[1:])
    return ratio(marks[-1].begin - marks[0].begin, appended)


def _decode_throughput(new_tokens: tuple[int, ...], marks: tuple[Span, ...], decode: int | None) -> float | None:
    if decode is None or not new_tokens or not marks:
        return None
    at_first = _appended(marks[0])
    return ratio(sum(max(0, count - at_first) for count in new_tokens) * NS_PER_S, decode)


def _appended(mark: Span) -> int:
    """Tokens appended to each sequence at this mark; one unless it says otherwise (accepted groups do)."""
    value = mark.spans.arg(mark.row, "appended")
    return value if isinstance(value, int) else 1

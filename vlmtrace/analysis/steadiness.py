"""Steadiness: findings about a run that drifts, and about steps far longer than the others."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from vlmtrace.analysis.case import Case, Finding, Slug, counted_text
from vlmtrace.analysis.measured import Measured
from vlmtrace.analysis.stats import median, percentile
from vlmtrace.analysis.trend import trend
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import TIMED, Recording
from vlmtrace.timeline.spans import Span
from vlmtrace.units import duration_text

__all__ = ["DRIFT_FROM", "OUTLIER_FROM", "SURE", "compiled_in_repeats", "outlier_steps", "warm_up_drift"]

DRIFT_FROM: Final = 0.05
"""A drift is told where ``generate`` changes by more than this from the first to the last of like generations …"""
SURE: Final = 0.01
"""… and a chance order as steady would be less likely than this (so never of fewer than 6)."""
OUTLIER_FROM: Final = 3
"""An outlier is a step longer than so many times the median step of generations like its own."""

_SHOWN: Final = 3
_ENOUGH_STEPS: Final = 5
_CAUSES: Final = {
    names.GC: "call gc.freeze() after warm-up, or gc.disable() around the timed calls",
    names.COMPILE: "raise --warmup, so that every shape is compiled before it is timed",
    names.CAPTURE: "raise --warmup, so that every graph is captured before it is timed",
}

_Interval: TypeAlias = tuple[int, int]


def warm_up_drift(case: Case) -> Finding | None:
    """The largest group of counted generations that did the same work gets slower or faster from one to the next."""
    groups: defaultdict[tuple[str, int], list[Measured]] = defaultdict(list)
    for one in case.counted:
        groups[_setting(one), len(one.account.steps)].append(one)
    alike = max(groups.values(), key=len, default=[])
    found = trend([one.account.generate for one in alike])
    if found is None or abs(found.change) <= DRIFT_FROM or found.p >= SURE:
        return None
    falling = found.change < 0
    return Finding(
        Slug.WARM_UP_DRIFT,
        f"generate gets {abs(found.change) * 100:.0f} % {'shorter' if falling else 'longer'} from the first to the "
        f"last of {counted_text(len(alike), 'like generation')} (Theil–Sen; Kendall p {_p_text(found.p)})",
        "raise --warmup" if falling else "look for a GPU that heats up and clocks down, or memory that fills",
    )


def compiled_in_repeats(case: Case) -> Finding | None:
    """Timed generations in which the compiler was at work; they are counted only where there are no others."""
    timed = [one for one in case.measured if one.complete and one.generation.role == TIMED]
    compiling = [one for one in timed if one.compiled_ns]
    if not compiling:
        return None
    longest = duration_text(max(one.compiled_ns for one in compiling))
    kept = "counted, for want of others" if len(compiling) == len(timed) else "left out"
    return Finding(
        Slug.COMPILED_IN_REPEATS,
        f"{len(compiling):,} of {counted_text(len(timed), 'timed generation')} compiled or captured graphs, for up to "
        f"{longest}: {kept}",
        "raise --warmup, so that all is compiled and captured before it is timed",
    )


def outlier_steps(case: Case) -> Finding | None:
    """Steps longer than :data:`OUTLIER_FROM` times the median of theirs, with what the host did meanwhile."""
    outliers, durations = _outliers(case.counted)
    if not outliers:
        return None
    causes = [(name, _Busy(case.recording, name)) for name in _CAUSES]
    told: list[str] = []
    seen: Counter[str] = Counter()
    for at, (one, span) in enumerate(outliers):
        during = [(name, ns) for name, busy in causes if (ns := busy.during(span, case.recording)) > 0]
        seen.update(name for name, _ in during)
        if at < _SHOWN:
            why = "".join(f" ({name} {duration_text(ns)})" for name, ns in during)
            told.append(f"#{one.generation.index} step {span.number} {duration_text(span.duration)}{why}")
    more = f" and {len(outliers) - _SHOWN:,} more" if len(outliers) > _SHOWN else ""
    middle, p99 = median(durations) or 0, percentile(durations, 99) or 0
    remedies = [_CAUSES[name] for name in _CAUSES if seen[name]]
    return Finding(
        Slug.OUTLIER_STEPS,
        f"{len(outliers):,} of {counted_text(len(durations), 'step')} longer than {OUTLIER_FROM} × the median "
        f"(p50 {duration_text(middle)}, p99 {duration_text(p99)}): {', '.join(told)}{more}",
        "; ".join(remedies) or "look at them in the trace; more generations keep them out of p50",
    )


def _outliers(counted: Sequence[Measured]) -> tuple[list[tuple[Measured, Span]], list[int]]:
    """The outliers, longest first, and how long all steps took; each judged against those of like generations."""
    groups: defaultdict[str, list[Measured]] = defaultdict(list)
    for one in counted:
        groups[_setting(one)].append(one)
    found: list[tuple[Measured, Span]] = []
    everything: list[int] = []
    for group in groups.values():
        durations = [step for one in group for step in one.account.steps]
        limit = OUTLIER_FROM * (median(durations) or 0)
        everything += durations
        if len(durations) >= _ENOUGH_STEPS and max(durations) > limit:
            pairs = ((one, *pair) for one in group for pair in zip(one.stages.steps, one.account.steps, strict=True))
            found += [(one, span) for one, span, duration in pairs if duration > limit]
    found.sort(key=lambda pair: -pair[1].duration)
    return found, everything


def _setting(one: Measured) -> str:
    """What generations have in common whose times may be compared: model, mode, batch and lengths."""
    generation = one.generation
    known = [generation.inputs.get(key) for key in ("batch", "images", "visual_tokens", "prompt_tokens")]
    return repr((generation.model, generation.mode, known))


def _p_text(p: float) -> str:
    return f"= {p:.3f}" if p >= 0.001 else "< 0.001"


@dataclass(slots=True)
class _Busy:
    """When each rank's host was busy with what ``name`` names, as intervals that lie apart."""

    by_rank: dict[int | None, list[_Interval]]

    def __init__(self, recording: Recording, name: str) -> None:
        found: defaultdict[int | None, list[_Interval]] = defaultdict(list)
        for span in recording.spans.named(name):
            track = recording.tracks[span.track]
            if track.device is None:
                found[track.rank].append((span.begin, span.end))
        self.by_rank = {rank: _joined(intervals) for rank, intervals in found.items()}

    def during(self, step: Span, recording: Recording) -> int:
        """For how many ns between the host's entry of the step and its end on the device."""
        busy = self.by_rank.get(recording.tracks[step.track].rank, [])
        begin, end = min(step.host_begin, step.begin), max(step.end, step.host_end)
        overlap = 0
        for at in range(bisect_right(busy, (end, end)) - 1, -1, -1):
            if busy[at][1] <= begin:
                break
            overlap += max(0, min(end, busy[at][1]) - max(begin, busy[at][0]))
        return overlap


def _joined(intervals: Iterable[_Interval]) -> list[_Interval]:
    made: list[_Interval] = []
    for begin, end in sorted(intervals):
        if made and begin <= made[-1][1]:
            made[-1] = (made[-1][0], max(end, made[-1][1]))
        else:
            made.append((begin, end))
    return made

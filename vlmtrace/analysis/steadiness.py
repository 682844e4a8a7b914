"""Steadiness: findings about a run that drifts, and about steps far longer than the others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

from vlmtrace.analysis.case import Case, Finding, Slug, counted_text
from vlmtrace.analysis.causes import CAUSES, Causes
from vlmtrace.analysis.measured import Measured
from vlmtrace.analysis.stats import median, percentile
from vlmtrace.analysis.trend import trend
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import TIMED
from vlmtrace.timeline.spans import Span
from vlmtrace.units import duration_text

__all__ = ["DRIFT_FROM", "OUTLIER_FROM", "SURE", "compiled_in_repeats", "outlier_steps", "setting", "warm_up_drift"]

DRIFT_FROM: Final = 0.05
"""A drift is told where ``generate`` changes by more than this from the first to the last of like generations …"""
SURE: Final = 0.01
"""… and a chance order as steady would be less likely than this (so never of fewer than 6)."""
OUTLIER_FROM: Final = 3
"""An outlier is a step longer than so many times the median step of generations like its own."""

_SHOWN: Final = 3
_ENOUGH_STEPS: Final = 5
_REMEDIES: Final = {
    names.GC: "call gc.freeze() after warm-up, or gc.disable() around the timed calls",
    names.COMPILE: "raise --warmup, so that every shape is compiled before it is timed",
    names.CAPTURE: "raise --warmup, so that every graph is captured before it is timed",
}


def warm_up_drift(case: Case) -> Finding | None:
    """The largest group of counted generations that did the same work gets slower or faster from one to the next."""
    groups: defaultdict[tuple[str, int], list[Measured]] = defaultdict(list)
    for one in case.counted:
        groups[setting(one), len(one.account.steps)].append(one)
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
    causes = Causes(case.recording)
    told: list[str] = []
    seen: Counter[str] = Counter()
    for at, (one, span) in enumerate(outliers):
        # From the host's entry of the step to its end on the device.
        begin, end = min(span.host_begin, span.begin), max(span.end, span.host_end)
        during = causes.during(begin, end, case.recording.tracks[span.track].rank)
        seen.update(name for name, _ in during)
        if at < _SHOWN:
            why = "".join(f" ({name} {duration_text(ns)})" for name, ns in during)
            told.append(f"#{one.generation.index} step {span.number} {duration_text(span.duration)}{why}")
    more = f" and {len(outliers) - _SHOWN:,} more" if len(outliers) > _SHOWN else ""
    middle, p99 = median(durations) or 0, percentile(durations, 99) or 0
    remedies = [_REMEDIES[name] for name in CAUSES if seen[name]]
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
        groups[setting(one)].append(one)
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


def setting(one: Measured) -> str:
    """What generations have in common whose times may be compared: model, mode, batch and lengths."""
    generation = one.generation
    known = [generation.inputs.get(key) for key in ("batch", "images", "visual_tokens", "prompt_tokens")]
    return repr((generation.model, generation.mode, known))


def _p_text(p: float) -> str:
    return f"= {p:.3f}" if p >= 0.001 else "< 0.001"

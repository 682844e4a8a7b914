"""Profiled: a recording, and a further pass over its work that a profiler watched, as one recording with kernels.

The pass is a recording of its own, made after the first: it is paired with the profiler's report alone, and its
generations then stand behind the others, with a role that no statistic counts.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace

from vlmtrace.analysis.pairing import pair
from vlmtrace.errors import VlmtraceError
from vlmtrace.nsight.report import Report
from vlmtrace.timeline.recording import PROFILED, Cost, Counter, Recording, TracedModel, Track
from vlmtrace.timeline.spans import SpansBuilder
from vlmtrace.timeline.validation import validate

__all__ = ["with_profile"]


def with_profile(recording: Recording, further: Recording, report: Report) -> Recording:
    """``recording`` with the generations of ``further``, and the kernels and copies that ``report`` saw in them.

    Raises:
        VlmtraceError: ``recording`` has kernels already, or the profiler saw no kernels or no generation.
    """
    if recording.pairing is not None:
        raise VlmtraceError(f"it has the kernels of '{recording.pairing.report}' already", "profile once")
    if not further.generations:
        raise VlmtraceError("no generate() was profiled", "call it inside the with block")
    if not len(report.work):
        raise VlmtraceError(
            f"{report.tool} saw no kernels",
            "let no other profiler watch this process, or leave --kernels out and record with --nsys",
        )
    return _joined(recording, pair(further, report, report.tool))


def _joined(first: Recording, second: Recording) -> Recording:
    """All of ``first``, and behind it the generations, spans and clocks of ``second`` with what they refer to."""
    tracks, models = list(first.tracks), list(first.models)
    track_at = [_position(tracks, track) for track in second.tracks]
    model_at = [_position(models, replace(model, random_weights=_random(first))) for model in second.models]
    count = len(first.generations)
    builder = SpansBuilder()
    rows = builder.extend_with(first.spans)
    moved = replace(
        second.spans,
        track=array("q", map(track_at.__getitem__, second.spans.track)),
        generation=array("q", (at if at < 0 else at + count for at in second.spans.generation)),
    )
    further = builder.extend_with(moved)
    spans, row_of = builder.freeze()
    return validate(
        replace(
            first,
            generations=(
                *(replace(one, span=row_of[rows[one.span]]) for one in first.generations),
                *(
                    replace(
                        one,
                        index=one.index + count,
                        role=PROFILED,
                        model=model_at[one.model],
                        span=row_of[further[one.span]],
                        clock=None if one.clock is None else one.clock + len(first.clocks),
                    )
                    for one in second.generations
                ),
            ),
            models=tuple(models),
            tracks=tuple(tracks),
            spans=spans,
            counters=_continued(first.counters, second.counters),
            clocks=(*first.clocks, *(replace(clock, generation=clock.generation + count) for clock in second.clocks)),
            cost=_added(first.cost, second.cost),
            pairing=second.pairing,
        )
    )


def _continued(first: Sequence[Counter], second: Sequence[Counter]) -> tuple[Counter, ...]:
    """The counters of both; one that both have goes on."""
    made = {(one.name, one.unit, one.device): one for one in first}
    for one in second:
        key = one.name, one.unit, one.device
        known = made.get(key)
        made[key] = (
            one if known is None else replace(one, times=known.times + one.times, values=known.values + one.values)
        )
    return tuple(made.values())


def _random(recording: Recording) -> bool:
    return any(model.random_weights for model in recording.models)


def _position(known: list[Track] | list[TracedModel], one: Track | TracedModel) -> int:
    """Where ``one`` is among the ``known``, put behind them where it is new."""
    if one not in known:
        known.append(one)  # type: ignore[arg-type]
    return known.index(one)  # type: ignore[arg-type]


def _added(first: Cost, second: Cost) -> Cost:
    """What both cost; calibrated costs are those of the first, which no profiler slowed."""
    return replace(
        first,
        marks=first.marks + second.marks,
        ranges=first.ranges + second.ranges,
        waits=first.waits + second.waits,
        anchor_waits=first.anchor_waits + second.anchor_waits,
        host_ns=(*first.host_ns, *second.host_ns),
    )

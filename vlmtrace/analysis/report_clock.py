"""A report's clock laid on a recording's axis, host to host: which ``generate()`` is which, and then the offset.

A mark reads the host's time, records its event and enters the NVTX range; on the way out the range is left first. So
on the axis the call that records a mark begins no earlier than that mark's host time, and the range of a stage ends no
later than the host time of its end mark. Both bound the offset between the clocks, on one thread and within
microseconds, without a look at the device.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, TypeVar

from vlmtrace.analysis.attribution import Call, ThreadPlaces
from vlmtrace.errors import VlmtraceError
from vlmtrace.nsight.report import Marks, tid_of
from vlmtrace.timeline import names
from vlmtrace.timeline.alignment import MAX_DRIFT_PPB, AffineMap, Constraints, fit_offset, fit_rate
from vlmtrace.timeline.recording import Anchor, Recording
from vlmtrace.timeline.spans import Span

__all__ = ["Matched", "fit_clock", "fit_ranges", "match"]

_SAME_NS: Final = 100_000
"""Starts of the same stages, counted from the start of their ``generate``, differ by less between trace and report."""

_KEPT: Final = 400
"""Of all boundaries, so many of the tightest bound the offset; no more are needed."""

_NEAR_NS: Final = 1_000_000
"""A call that records a mark comes within this of its range; one that is further away is another's."""

_FORWARDS: Final = frozenset((names.PREFILL, names.PREFILL_CHUNK, names.STEP))


@dataclass(frozen=True, slots=True)
class Matched:
    """The range around one ``generate()`` and the generation that it is; the stages of both, one to one, by start.

    ``call`` is the position of the range among the calls of ``thread``.
    """

    thread: int
    call: int
    generation: int
    pairs: tuple[tuple[Span, tuple[int, int]], ...]


def match(recording: Recording, found: Mapping[int, ThreadPlaces]) -> list[Matched]:
    """Which range is which generation: on each thread the calls of a report are neighbours in the recording.

    Raises:
        VlmtraceError: no call of the report is a generation of the recording.
    """
    own = _generations(recording)
    made: list[Matched] = []
    for thread, there in _threads(own, found):
        stages = own[thread]
        calls = found[there].calls
        shift = _best_shift(stages, calls)
        if shift is None:
            continue
        for at, call in enumerate(calls):
            if 0 <= at + shift < len(stages):
                generation, spans = stages[at + shift]
                ends = [(call.start, call.end), *((start, end) for _, start, end in call.forwards)]
                made.append(Matched(there, at, generation, tuple(zip(spans, ends, strict=True))))
    if not made:
        raise VlmtraceError(
            f"the report holds no generate() of recording '{recording.name}'",
            "give the report of the very run that wrote the trace",
        )
    return made


def _generations(recording: Recording) -> dict[int, list[tuple[int, list[Span]]]]:
    """By thread, each generation with its ``generate`` and its forwards, in order of host time."""
    spans = recording.spans
    wanted = {at for at, text in enumerate(spans.strings) if text in _FORWARDS}
    inside: dict[int, list[Span]] = {generation.index: [] for generation in recording.generations}
    for row, (name, index) in enumerate(zip(spans.name, spans.generation, strict=True)):
        if name in wanted and index in inside:
            inside[index].append(spans[row])
    made: dict[int, list[tuple[int, list[Span]]]] = {}
    for generation in recording.generations:
        whole, forwards = recording.generate_span(generation), inside[generation.index]
        chunked = {span.parent for span in forwards if span.name == names.PREFILL_CHUNK}
        own = sorted((span for span in forwards if span.row not in chunked), key=lambda span: span.host_begin)
        made.setdefault(recording.tracks[whole.track].thread, []).append((generation.index, [whole, *own]))
    for stages in made.values():
        stages.sort(key=lambda one: one[1][0].host_begin)
    return made


def _threads(own: Mapping[int, object], found: Mapping[int, ThreadPlaces]) -> Iterator[tuple[int, int]]:
    """Threads of the recording beside those of the report: by the system's id, else by being the only ones.

    In a container a profiler outside of it may know a thread by another number.
    """
    generating = [thread for thread, there in found.items() if there.calls]
    by_id = {tid_of(thread): thread for thread in generating}
    both = [(thread, by_id[thread]) for thread in own if thread in by_id]
    if not both and len(own) == len(generating) == 1:
        both = [(next(iter(own)), generating[0])]
    yield from both


def _best_shift(stages: Sequence[tuple[int, list[Span]]], calls: Sequence[Call]) -> int | None:
    """By how many generations the recording is ahead of the report's calls; ``None`` where nothing fits.

    Of several that fit, the one that matches most of them, and then the one that fits best.
    """
    best: tuple[int, float, int] | None = None
    for shift in range(1 - len(calls), len(stages)):
        pairs = [(stages[at + shift][1], call) for at, call in enumerate(calls) if 0 <= at + shift < len(stages)]
        misfit = _misfit(pairs)
        if misfit is not None and misfit <= _SAME_NS and (best is None or (-len(pairs), misfit) < best[:2]):
            best = -len(pairs), misfit, shift
    return None if best is None else best[2]


def _misfit(pairs: Sequence[tuple[list[Span], Call]]) -> float | None:
    """How far trace and report are from one offset between their clocks, in ns; ``None`` where they are not the same.

    The largest, over the generations, of the median over their starts and lengths; and of how the offset changes from
    one generation to the next. The offset is the median of a generation's: its thread may have been stopped between a
    mark and its range, that of ``generate`` too.
    """
    worst = 0.0
    last: tuple[int, float] | None = None
    for (whole, *forwards), call in pairs:
        if len(forwards) != len(call.forwards):
            return None
        starts = [call.start, *(start for _, start, _ in call.forwards)]
        offsets = [span.host_begin - start for span, start in zip((whole, *forwards), starts, strict=True)]
        offset = median(offsets)
        apart = [abs(one - offset) for one in offsets] if forwards else []
        misfit = median([*apart, abs(whole.host_duration - (call.end - call.start))])
        if last is not None:
            between = whole.host_begin - last[0]
            misfit = max(misfit, abs(offset - last[1]) - between * MAX_DRIFT_PPB / 1e9)
        worst, last = max(worst, misfit), (whole.host_begin, offset)
        if worst > _SAME_NS:
            return None
    return worst


def fit_clock(matched: Sequence[Matched], marks: Marks) -> AffineMap:
    """The report's clock on the axis: what the boundaries of all matched stages leave possible, and its middle.

    Raises:
        VlmtraceError: the report holds no call that records a mark.
    """
    records: dict[int, array[int]] = {}
    for start, thread in zip(marks.start, marks.thread, strict=True):
        records.setdefault(thread, array("q")).append(start)
    below: list[tuple[int, int]] = []
    anchors: list[Anchor] = []
    for one in matched:
        calls = records.get(one.thread, array("q"))
        for span, (start, end) in one.pairs:
            before = bisect_left(calls, start) - 1
            if before >= 0 and start - calls[before] <= _NEAR_NS:
                below.append((span.host_begin, calls[before]))
            behind = bisect_left(calls, end)
            # The end of generate is marked before its range is left: an interrupt may have to close others first.
            if span.name != names.GENERATE and behind < len(calls) and calls[behind] - end <= _NEAR_NS:
                anchors.append(Anchor(span.host_end - (calls[behind] - end), end, span.host_end))
    if not below or not anchors:
        raise VlmtraceError(
            "the report does not hold the CUDA calls of the recording's marks",
            "record it with --trace=cuda,nvtx from before the first generate() on",
        )
    anchors = [min(few, key=lambda one: one.host_after - one.host_before) for few in _runs(anchors)]
    below = [max(few, key=lambda point: point[0] - point[1]) for few in _runs(below)]
    above = [(anchor.host_after, anchor.device) for anchor in anchors]
    return fit_offset(fit_rate(anchors), anchors[0].device, Constraints(below, above, anchors))


def fit_ranges(matched: Sequence[Matched]) -> AffineMap:
    """The same of a report without these calls: a range begins after its mark's host time, and ends before that.

    Raises:
        VlmtraceError: no generation has a stage.
    """
    pairs = [pair for one in matched for pair in one.pairs]
    below = [(span.host_begin, start) for span, (start, _) in pairs]
    above = [(span.host_end, end) for span, (_, end) in pairs if span.name != names.GENERATE]
    if not above:
        raise VlmtraceError("the report holds no stage of the recording", "record a generation that comes to its end")
    below = [max(few, key=lambda point: point[0] - point[1]) for few in _runs(below)]
    above = [min(few, key=lambda point: point[0] - point[1]) for few in _runs(above)]
    return fit_offset(fit_rate([]), below[0][1], Constraints(below, above, []))


_One = TypeVar("_One")


def _runs(found: Sequence[_One]) -> Iterator[Sequence[_One]]:
    """Neighbours, in at most twice as many runs as are kept: of each the tightest bounds the offset well enough."""
    size = max(1, len(found) // _KEPT)
    return (found[at : at + size] for at in range(0, len(found), size))

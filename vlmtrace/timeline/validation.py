"""Validation: what must hold of every recording, checked when it is made and when it is loaded.

The accounting identities are exact in integers: a ``generate`` span is tiled by its stages and the named rest, and
``decode`` by its steps and gaps. They hold because neighbours share marks; here they are proved, not assumed.
"""

from __future__ import annotations

from array import array
from collections import defaultdict

from vlmtrace.errors import InvalidRecordingError
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import DETAILS, Recording
from vlmtrace.timeline.spans import NONE, Span, Spans, sort_ties

__all__ = ["validate"]

_TILES_OF_GENERATE = frozenset((names.VISION, names.PREFILL, names.DECODE, *names.OTHER_PARTS))
_TILES_OF_DECODE = frozenset((names.STEP, names.GAP))


def validate(recording: Recording) -> Recording:
    """Answer ``recording`` unchanged if it is consistent.

    Raises:
        InvalidRecordingError: naming the first span or generation that contradicts itself.
    """
    _check_references(recording)
    _check_overhead(recording)
    _check_nesting(recording)
    tiles = _tiles(recording)
    for generation in recording.generations:
        span = recording.generate_span(generation)
        _check_tiling(span, tiles[span.row])
        for stage in tiles[span.row]:
            if stage.name == names.DECODE:
                _check_tiling(stage, tiles[stage.row])
    return recording


def _check_references(recording: Recording) -> None:
    spans = recording.spans
    begins, ends, tracks, generations = spans.begin, spans.end, len(recording.tracks), len(recording.generations)
    previous = None
    columns = (begins, ends, spans.host_begin, spans.host_end, spans.track, spans.generation, spans.parent)
    for row, (begin, end, host_begin, host_end, track, index, parent) in enumerate(zip(*columns, strict=True)):
        if end < begin:
            raise InvalidRecordingError(f"span {row} ({spans[row].name}) ends {begin - end} ns before it begins")
        if host_end < host_begin:
            raise InvalidRecordingError(f"span {row} ({spans[row].name}) has host times that run backwards")
        if not 0 <= track < tracks:
            raise InvalidRecordingError(f"span {row} ({spans[row].name}) is on track {track}, which is none")
        if not NONE <= index < generations:
            raise InvalidRecordingError(f"span {row} belongs to generation {index}, which is none")
        if parent != NONE and not (0 <= parent < row and begins[parent] <= begin and end <= ends[parent]):
            raise InvalidRecordingError(f"span {row} ({spans[row].name}) does not lie within its parent, span {parent}")
        if previous is not None and begin < previous:
            raise InvalidRecordingError(f"span {row} begins before the span in front of it")
        previous = begin
    for index, generation in enumerate(recording.generations):
        if generation.index != index or not 0 <= generation.span < len(spans):
            raise InvalidRecordingError(f"generation {index} is numbered {generation.index}, span {generation.span}")
        if spans[generation.span].name != names.GENERATE:
            raise InvalidRecordingError(f"generation {index} points at a {spans[generation.span].name} span")
    if recording.syncs and recording.audited < 1:
        raise InvalidRecordingError(f"{len(recording.syncs)} syncs are listed, but no generation was audited")


def _check_overhead(recording: Recording) -> None:
    for number, pair in enumerate(recording.overhead):
        if pair.untraced_ns < 1 or pair.traced_ns < 1:
            raise InvalidRecordingError(f"overhead pair {number} has a generate() that took no time")
    lowered = recording.lowered
    if lowered is None:
        return
    if recording.detail not in DETAILS or lowered.asked not in DETAILS[DETAILS.index(recording.detail) + 1 :]:
        raise InvalidRecordingError(
            f"detail was lowered from {lowered.asked!r} to {recording.detail!r}, which is no step down"
        )
    if lowered.generate_ns < 1:
        raise InvalidRecordingError("detail was lowered by a generate() that took no time")


def _check_nesting(recording: Recording) -> None:
    """Spans of one track are nested or disjoint."""
    spans, ends = recording.spans, recording.spans.end
    in_doubt: set[int] = set()
    open_ends: list[list[int]] = [[] for _ in recording.tracks]
    for track, begin, end in zip(spans.track, spans.begin, ends, strict=True):
        around = open_ends[track]
        while around and around[-1] <= begin:
            around.pop()
        if around and end > around[-1]:
            in_doubt.add(track)
        around.append(end)
    # Of two that begin together the longer one may come second: only in its turn does it show.
    for track in sorted(in_doubt):
        rows = array("q", (row for row, its_track in enumerate(spans.track) if its_track == track))
        sort_ties(rows, spans.begin, lambda row: (-ends[row],))
        _check_nested(spans, rows)


def _check_nested(spans: Spans, rows: array[int]) -> None:
    open_ends: list[int] = []
    for row in rows:
        begin, end = spans.begin[row], spans.end[row]
        while open_ends and open_ends[-1] <= begin:
            open_ends.pop()
        if open_ends and end > open_ends[-1]:
            raise InvalidRecordingError(f"span {row} ({spans[row].name}) partly overlaps another on its track")
        open_ends.append(end)


def _tiles(recording: Recording) -> defaultdict[int, list[Span]]:
    """The children that must tile their parent, by the parent's row, in order."""
    spans = recording.spans
    wanted = {spans.strings.index(name) for name in (*_TILES_OF_GENERATE, *_TILES_OF_DECODE) if name in spans.strings}
    tiles: defaultdict[int, list[Span]] = defaultdict(list)
    for row, (parent, name) in enumerate(zip(spans.parent, spans.name, strict=True)):
        if name in wanted and parent != NONE:
            tiles[parent].append(spans[row])
    return tiles


def _check_tiling(parent: Span, children: list[Span]) -> None:
    allowed = _TILES_OF_DECODE if parent.name == names.DECODE else _TILES_OF_GENERATE
    at = parent.begin
    for child in sorted((c for c in children if c.name in allowed), key=lambda c: (c.begin, c.end)):
        if child.begin != at:
            raise InvalidRecordingError(
                f"{parent.name} of generation {parent.generation} has {child.begin - at} ns unaccounted "
                f"before {child.name}"
            )
        at = child.end
    if at != parent.end:
        raise InvalidRecordingError(
            f"{parent.name} of generation {parent.generation} has {parent.end - at} ns unaccounted at its end"
        )

"""Stages from a report alone: a program that only pushed vlmtrace's ranges, and what Nsight Systems saw of it.

No event was recorded, so a boundary is laid where an event would have been reached: when the host came to it, or when
all that its thread had launched by then had run, whichever is later. Tokens are not in a report, nor what came of it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from vlmtrace.errors import VlmtraceError
from vlmtrace.nsight.report import Report, tid_of
from vlmtrace.timeline import names
from vlmtrace.timeline.assembly import TRACK_OF, Node, forest, stage_tree
from vlmtrace.timeline.marks import Marks
from vlmtrace.timeline.recording import TIMED, UNKNOWN, WARMED, Cost, Generation, Json, Recording, TracedModel, Track
from vlmtrace.timeline.spans import NONE, NewSpan, SpansBuilder
from vlmtrace.timeline.validation import validate

__all__ = ["recording_of"]

_CALLS: Final = frozenset((names.GENERATE, names.WARMUP))
_LAYERS: Final = frozenset((names.LAYER, names.VISION_LAYER))
_MODULES: Final = frozenset((names.ENCODER, names.PROJECTOR, names.MERGE, names.LM_HEAD))
_SILENT: Final = frozenset((names.CALIBRATE, names.ANCHOR, names.WAIT))


def recording_of(report: Report, name: str) -> Recording:
    """The generations that a report's ranges tell of; without its kernels, which pairing adds.

    Raises:
        VlmtraceError: there is no range around a ``generate()``.
    """
    if not _CALLS & set(report.ranges.name):
        raise VlmtraceError(
            f"'{name}' holds no range '{names.GENERATE}' of vlmtrace", "record it with: nsys profile --trace=cuda,nvtx"
        )
    return _Stages(report, name).recording()


class _Stages:
    def __init__(self, report: Report, name: str) -> None:
        self.report = report
        self.name = name
        found = set(report.ranges.name)
        self.detail = "layer" if found & _LAYERS else "module" if found & _MODULES else "stage"
        self.builder = SpansBuilder()
        self.tracks: dict[Track, int] = {}
        self.generations: list[tuple[int, str, int | None]] = []
        self.texts = [*names.KINDS]
        self.kinds = dict(names.KIND_OF)
        self.offset = report.host_ns or 0

    def recording(self) -> Recording:
        ranges = self.report.ranges
        by_thread: dict[int, list[int]] = {}
        for at, thread in enumerate(ranges.thread):
            if ranges.name[at] not in _SILENT:
                by_thread.setdefault(thread, []).append(at)
        for thread, own in by_thread.items():
            if any(ranges.name[at] in _CALLS for at in own):
                self._thread(thread, own)
        spans, row_of = self.builder.freeze()
        origin = spans.begin[0]
        gpus = [self.report.gpus.get(track.device) for track in self.tracks if track.device is not None]
        environment: dict[str, Json] = {"gpu": next((gpu for gpu in gpus if gpu), None)}
        model = TracedModel(self.name, UNKNOWN, UNKNOWN, 0, False, UNKNOWN, UNKNOWN, UNKNOWN, ())
        return validate(
            Recording(
                name=self.name,
                detail=self.detail,
                origin_ns=origin,
                origin_unix_ns=(self.report.unix_ns or 0) + origin - self.offset,
                environment=environment,
                workload={},
                models=(model,),
                generations=tuple(
                    Generation(index, role, 0, row_of[handle], None, UNKNOWN, ())
                    for index, (handle, role, _) in enumerate(self.generations)
                ),
                tracks=tuple(self.tracks),
                spans=spans,
                counters=(),
                clocks=(),
                cost=Cost("NVTX ranges alone", 0, len(ranges), 0, 0, 0, 0, (0,) * len(self.generations)),
            )
        )

    def _thread(self, thread: int, own: Sequence[int]) -> None:
        marks = self._marks(own)
        device, reached = self._reached(thread, marks.host)
        for root in forest(marks, reached, self.texts.__getitem__):
            for node in root.walk(not_into=_CALLS):
                if node.name in _CALLS:
                    role = WARMED if node.name == names.WARMUP else TIMED
                    node.name, node.number = names.GENERATE, len(self.generations)
                    self.generations.append((NONE, role, device))
                    stage_tree(node, self.detail)
            self._add(root, thread, device, None, None)

    def _marks(self, own: Sequence[int]) -> Marks:
        """Begins and ends of a thread's ranges in the order in which the host came to them."""
        ranges, marks = self.report.ranges, Marks()
        still_open: list[int] = []

        def leave(until: int | None) -> None:
            while still_open and (until is None or ranges.end[still_open[-1]] <= until):
                at = still_open.pop()
                told(~self._kind(ranges.name[at]), NONE, ranges.end[at])

        def told(code: int, number: int, time: int) -> None:
            marks.code.append(code)
            marks.number.append(number)
            marks.host.append(time + self.offset)

        for at in own:
            leave(ranges.start[at])
            still_open.append(at)
            told(self._kind(ranges.name[at]), ranges.number[at], ranges.start[at])
        leave(None)
        return marks

    def _kind(self, name: str) -> int:
        name = names.STEP if name == names.DECODE else name  # as earlier recordings called it
        if name not in self.kinds:
            self.kinds[name] = len(self.texts)
            self.texts.append(f"{name} (span)" if name in names.RESERVED else name)
        return self.kinds[name]

    def _reached(self, thread: int, host: array[int]) -> tuple[int | None, Iterator[int]]:
        """The device that a thread works on most, and when an event recorded at each host time would be reached."""
        work = self.report.work
        launched = [row for row, by in enumerate(work.thread) if by == thread]
        devices = Counter(work.device[row] for row in launched)
        if not devices:
            return None, iter(host)
        ((device, _),) = devices.most_common(1)
        launched = sorted((row for row in launched if work.device[row] == device), key=work.call_start.__getitem__)
        called = [work.call_start[row] + self.offset for row in launched]
        done = [0, *accumulate((work.end[row] + self.offset for row in launched), max)]
        return None if device == NONE else device, (max(time, done[bisect_left(called, time)]) for time in host)

    def _add(self, node: Node, thread: int, device: int | None, parent: int | None, generation: int | None) -> None:
        here = None if TRACK_OF.get(node.name) == "host" else device
        number: int | None = None if node.number == NONE else node.number
        if node.name == names.GENERATE:
            generation, number = number, None
        kind = TRACK_OF.get(node.name, "spans")
        track = Track(kind, here, tid_of(thread), f"thread {tid_of(thread)}")
        handle = self.builder.add(
            NewSpan(
                node.name,
                self.tracks.setdefault(track, len(self.tracks)),
                (node.begin[0], node.end[0]),
                (node.begin[1], node.end[1]),
                parent,
                generation,
                number,
                node.incomplete,
                node.args,
            )
        )
        if node.name == names.GENERATE and generation is not None:
            self.generations[generation] = (handle, *self.generations[generation][1:])
        for child in node.children:
            self._add(child, thread, device, handle, generation)

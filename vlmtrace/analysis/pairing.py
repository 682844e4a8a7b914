"""Pairing: a recording, and the report of Nsight Systems of the same run, as one recording with kernels and copies.

Stages keep the times that the recording measured. What ran on the devices is added beside them, laid on the axis by the
report's own clock, and each operation is given to the stage that the host was in when it called the launch.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Final

from vlmtrace.analysis.attribution import Place, ThreadPlaces, places
from vlmtrace.analysis.report_clock import Matched, fit_clock, fit_ranges, match
from vlmtrace.analysis.report_stages import recording_of
from vlmtrace.errors import VlmtraceError
from vlmtrace.nsight.report import GRAPH, KERNEL, Report, process_of
from vlmtrace.timeline import names
from vlmtrace.timeline.alignment import AffineMap
from vlmtrace.timeline.recording import COPIES, KERNELS, NSIGHT, Pairing, Recording, Track
from vlmtrace.timeline.spans import NONE, SpansBuilder, gathered, runs_of
from vlmtrace.timeline.validation import validate

__all__ = ["UNATTRIBUTED", "pair", "pair_alone"]

_NO_CALL: Final = "its launch is not in the report"
_OTHER_PROCESS: Final = "of another process"
_OTHER_THREAD: Final = "launched by a thread without vlmtrace's ranges"
_OUTSIDE: Final = "launched outside of vlmtrace's ranges"
_OTHER_CALL: Final = "launched in a generate() that the trace does not hold"

UNATTRIBUTED: Final = (_NO_CALL, _OTHER_PROCESS, _OTHER_THREAD, _OUTSIDE, _OTHER_CALL)
"""Why an operation belongs to no stage; a closed list."""

_VERSIONED: Final = re.compile(r"_v\d+$")


def pair(recording: Recording, report: Report, name: str) -> Recording:
    """``recording`` with the kernels, copies and memsets of ``report``, whose file is called ``name``.

    Of operations that belong to no stage, those that ran while the recording did are on the timeline too.

    Raises:
        VlmtraceError: it is paired already, or the report holds no kernels, or none of the recording's generations.
    """
    if recording.pairing is not None:
        raise VlmtraceError(
            f"it is paired with '{recording.pairing.report}' already", "give the trace of the recording"
        )
    if not len(report.work):
        raise VlmtraceError(f"'{name}' holds no kernels", "record it with: nsys profile --trace=cuda,nvtx")
    if not len(report.ranges):
        raise VlmtraceError(f"'{name}' holds no ranges of vlmtrace", "record it with: nsys profile --trace=cuda,nvtx")
    found = places(report.ranges)
    matched = match(recording, found)
    clock = fit_clock(matched, report.marks) if _tells_marks(report) else fit_ranges(matched)
    return _Pairing(recording, report, found, matched, clock).run(name)


def pair_alone(report: Report, name: str) -> Recording:
    """The generations that ``report`` tells of by its ranges alone, with its kernels; its own clock is the axis.

    Raises:
        VlmtraceError: it holds no range around a ``generate()``.
    """
    recording = recording_of(report, name)
    found = places(report.ranges)
    clock = AffineMap(report.host_ns or 0, 0, 0, 0, 0)
    return _Pairing(recording, report, found, match(recording, found), clock).run(name)


def _tells_marks(report: Report) -> bool:
    """Whether a report holds the calls that record events. One of Nsight Systems must; others may leave them out."""
    return report.tool == NSIGHT or len(report.marks.start) > 0


@dataclass(frozen=True, slots=True)
class _Where:
    """What an operation is told to belong to: a generation, a stage and what is in it, or why to nothing."""

    generation: int = NONE
    stage: str = ""
    step: int = NONE
    module: str = ""
    reason: str = ""


class _Pairing:
    def __init__(
        self,
        recording: Recording,
        report: Report,
        found: Mapping[int, ThreadPlaces],
        matched: Sequence[Matched],
        clock: AffineMap,
    ) -> None:
        self.recording = recording
        self.report = report
        self.found = found
        self.clock = clock
        self.generation_of = {(one.thread, one.call): one.generation for one in matched}
        self.processes = {process_of(one.thread) for one in matched} | {NONE}
        self.wheres: dict[_Where, int] = {}
        self.builder = SpansBuilder()
        self.having: dict[bytes, array[int]] = {}
        whole = recording.generate_span(recording.generations[matched[0].generation])
        self.home = recording.tracks[whole.track]

    def run(self, name: str) -> Recording:
        recording, clock = self.recording, self.clock
        where = self._where()
        told = list(self.wheres)
        kernels = Counter(compress(where, self._is_kernel()))
        reasons: Counter[str] = Counter()
        for at, count in kernels.items():
            if told[at].reason:
                reasons[told[at].reason] += count
        shown = self._shown(where, told)
        rows = self.builder.extend_with(recording.spans)
        tracks = self._add_work(shown, where, told)
        spans, row_of = self.builder.freeze()
        begin = spans.begin[0] if len(spans) else recording.origin_ns
        earlier = max(0, recording.origin_ns - begin)
        pairing = Pairing(
            report=name,
            product=self.report.product,
            schema=self.report.schema,
            offset_ns=clock.offset_ns,
            pivot_ns=clock.pivot_ns,
            rate_ppb=clock.rate_ppb,
            bound_ns=clock.bound_ns,
            kernels=kernels.total(),
            unattributed={reason: reasons[reason] for reason in UNATTRIBUTED if reasons[reason]},
            tool=self.report.tool,
        )
        return validate(
            replace(
                recording,
                origin_ns=recording.origin_ns - earlier,
                origin_unix_ns=recording.origin_unix_ns - earlier,
                generations=tuple(
                    replace(generation, span=row_of[rows[generation.span]]) for generation in recording.generations
                ),
                tracks=(*recording.tracks, *tracks),
                spans=spans,
                pairing=pairing,
            )
        )

    def _is_kernel(self) -> list[bool]:
        """Of each operation of the report."""
        return list(
            map(
                {kind: kind in {KERNEL, GRAPH} for kind in set(self.report.work.kind)}.__getitem__,
                self.report.work.kind,
            )
        )

    def _position(self, where: _Where) -> int:
        return self.wheres.setdefault(where, len(self.wheres))

    def _where(self) -> array[int]:
        """Of each operation of the report, the position of what it belongs to."""
        work = self.report.work
        no_call, elsewhere, other_thread = (
            self._position(_Where(reason=reason)) for reason in (_NO_CALL, _OTHER_PROCESS, _OTHER_THREAD)
        )
        known = {
            thread: (there.starts, [self._position(_Where(reason=_OUTSIDE)), *self._told(thread, there)])
            for thread, there in self.found.items()
        }
        made = array("q")
        last, starts, own = NONE, array("q"), [no_call]
        for thread, at, process in zip(work.thread, work.call_start, work.process, strict=True):
            if process not in self.processes:
                made.append(elsewhere)
                continue
            if thread != last:
                last = thread
                starts, own = known.get(thread, (array("q"), [no_call if thread == NONE else other_thread]))
            made.append(own[bisect_right(starts, at)])
        return made

    def _told(self, thread: int, there: ThreadPlaces) -> list[int]:
        """The same of every stretch of time of a thread."""
        return [self._position(self._where_of(thread, place)) for place in there.places]

    def _where_of(self, thread: int, place: Place) -> _Where:
        if place.call == NONE:
            return _Where(stage=place.stage) if place.stage else _Where(reason=_OUTSIDE)
        generation = self.generation_of.get((thread, place.call))
        if generation is None:
            return _Where(reason=_OTHER_CALL)
        return _Where(generation, place.stage, place.step, place.module)

    def _shown(self, where: array[int], told: Sequence[_Where]) -> list[int]:
        """The operations that are on the timeline, by begin: those of stages, and what else ran meanwhile."""
        work, spans = self.report.work, self.recording.spans
        clock, first, last = self.clock, spans.begin[0], max(spans.end)
        kept = [one.reason == "" for one in told]
        possible = [one.reason != _OTHER_PROCESS for one in told]
        rows = [
            row
            for row, (at, begin, end) in enumerate(zip(where, work.start, work.end, strict=True))
            if kept[at] or (possible[at] and first <= clock(end) and clock(begin) <= last)
        ]
        rows.sort(key=work.start.__getitem__)
        return rows

    def _add_work(self, rows: Sequence[int], where: array[int], told: Sequence[_Where]) -> list[Track]:
        """Add the operations as spans; the tracks that they are on."""
        work, builder, runs = self.report.work, self.builder, runs_of(rows)

        def column(values: array[int]) -> array[int]:
            return gathered(values, runs)

        texts = [builder.intern(text) for text in self.report.strings]
        names_at = [builder.intern(_name(text)) for text in self.report.strings]
        calls_at = [builder.intern(_VERSIONED.sub("", text)) for text in self.report.strings]
        begin = array("q", self.clock.all(column(work.start)))
        # A map of one clock onto another may round an operation's length by a nanosecond, never below 0.
        end = array("q", self.clock.all(column(work.end)))
        called, returned = column(work.call_start), column(work.call_end)
        at = column(where)
        tracks, track = self._tracks(rows, begin, end)
        handles = builder.extend(
            {
                "name": array("q", map(names_at.__getitem__, column(work.name))),
                "track": track,
                "parent": array("q", [NONE]) * len(rows),
                "generation": array("q", map([one.generation for one in told].__getitem__, at)),
                "number": array("q", map([one.step for one in told].__getitem__, at)),
                "begin": begin,
                "end": end,
                "host_begin": self._on_host(called, begin),
                "host_end": self._on_host(returned, end),
                "flags": array("q", bytes(8 * len(rows))),
            }
        )
        for key, values in (("stage", "stage"), ("module", "module"), ("unattributed", "reason")):
            told_texts = [getattr(one, values) for one in told]
            if any(told_texts):
                interned = [builder.intern(text) if text else NONE for text in told_texts]
                self._set(key, handles, array("q", map(interned.__getitem__, at)), text=True)
        for key, source, interned in (
            ("kernel", work.full, texts),
            ("grid", work.grid, texts),
            ("block", work.block, texts),
            ("call", work.call, calls_at),
        ):
            positions = [*interned, NONE]  # the last one is what NONE, which is -1, stands for
            self._set(key, handles, array("q", map(positions.__getitem__, column(source))), text=True)
        self._set("bytes", handles, column(work.size), text=False)
        return tracks

    def _on_host(self, times: array[int], instead: array[int]) -> array[int]:
        """Host times on the axis; where the report has none, what stands ``instead``."""
        made = array("q", self.clock.all(times))
        if NONE in times:
            for i, time in enumerate(times):
                if time == NONE:
                    made[i] = instead[i]
        return made

    def _set(self, key: str, handles: range, values: array[int], *, text: bool) -> None:
        """Give the argument to those that have one."""
        have = bytes(map(NONE.__ne__, values))
        if 0 in have:
            values = array("q", compress(values, have))
        if values:
            self.builder.set_args(key, self._having(handles, have), values, text=text)

    def _having(self, handles: range, have: bytes) -> array[int]:
        """Those of ``handles`` for which ``have`` has a 1; most arguments are had by the same ones."""
        if have not in self.having:
            self.having[have] = array("q", compress(handles, have))
        return self.having[have]

    def _tracks(self, rows: Sequence[int], begin: array[int], end: array[int]) -> tuple[list[Track], array[int]]:
        """Tracks of one stream's kernels or copies, as many as it takes for none to overlap; and the track of each."""
        work, home = self.report.work, self.home
        tracks: list[Track] = []
        lanes: defaultdict[tuple[int, int, bool], list[list[int]]] = defaultdict(list)
        is_kernel = self._is_kernel()
        chosen = array("q")
        for row, start, stop in zip(rows, begin, end, strict=True):
            key = work.device[row], work.stream[row], is_kernel[row]
            own = lanes[key]
            for lane in own:
                if lane[1] <= start:
                    lane[1] = stop
                    chosen.append(lane[0])
                    break
            else:
                own.append([len(self.recording.tracks) + len(tracks), stop])
                chosen.append(own[-1][0])
                device, stream = (None if value == NONE else value for value in key[:2])
                kind = KERNELS if is_kernel[row] else COPIES
                tracks.append(Track(kind, device, home.thread, home.thread_name, home.rank, stream))
        return tracks, chosen


def _name(text: str) -> str:
    """A short name; a kernel that is called as a stage is told apart from it everywhere."""
    return f"{text} (kernel)" if text in names.RESERVED else text

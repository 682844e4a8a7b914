"""Layout: which rows a recording is drawn on, in which order, and what they are called; shared by all trace writers.

::

    rank 0 · MODEL
    ├ GPU 0                  one group per device and generating thread
    │ ├ Generations, Stages, Steps, Modules, Layers, Tokens, Spans
    │ ├ Kernels, stream 7    one row per stream; what ran at the same time on it is on further lanes
    │ └ Copies, stream 7
    ├ Host: MainThread       the thread's own spans and its launches
    ├ Counters
    ├ ! few-repeats          one instant for each finding: its evidence and remedy, to click on
    └ Recording              one instant: what was recorded, to click on
"""

from __future__ import annotations

from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from vlmtrace.analysis.case import Finding
from vlmtrace.analysis.summary import findings
from vlmtrace.formats.launches import OPERATIONS, Home, Launches, home_of, host_tracks, launches
from vlmtrace.formats.titles import clean
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import TRACK_KINDS, Recording, Track

__all__ = [
    "COUNTER",
    "COUNTERS",
    "FACTS",
    "FINDING",
    "GROUP",
    "ITL",
    "LAUNCHES",
    "LEAD",
    "TOKENS",
    "TRACK",
    "Layout",
    "Process",
    "Row",
    "layout_of",
]

GROUP: Final = "group"
TRACK: Final = "track"
LAUNCHES: Final = "launches"
COUNTER: Final = "counter"
TOKENS: Final = "tokens"
ITL: Final = "itl"
LEAD: Final = "lead"
COUNTERS: Final = frozenset((COUNTER, TOKENS, ITL, LEAD))
"""Every kind of row that shows a counter: one that was sampled, or one of the three that are derived."""
FINDING: Final = "finding"
FACTS: Final = "facts"

_TITLES: Final = {kind: kind.capitalize() for kind in TRACK_KINDS}
_GroupKey: TypeAlias = tuple[int | None, int | None, int]


@dataclass(frozen=True, slots=True)
class Process:
    """One rank; ``number`` counts from 0 in the order of display."""

    number: int
    rank: int | None
    title: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row. ``number`` is its position in the layout, ``group`` that of the row it is under (``None``: its process).

    ``kind`` is one of this module's constants; ``index`` is the recording's track or counter it shows, or the finding
    among the layout's, if any; ``home`` the thread that a derived row belongs to, ``device`` the device whose lead it
    shows, ``unit`` a counter's.
    """

    number: int
    process: int
    group: int | None
    kind: str
    title: str
    index: int | None = None
    home: Home | None = None
    device: int | None = None
    unit: str = ""


@dataclass(slots=True)
class Layout:
    """The rows of a recording in order of display, and where to find them."""

    launches: Launches
    findings: tuple[Finding, ...] = ()
    processes: list[Process] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    of_track: dict[int, int] = field(default_factory=dict)
    of_lane: dict[tuple[Home, int], int] = field(default_factory=dict)
    of_counter: dict[int, int] = field(default_factory=dict)

    @property
    def facts(self) -> Row:
        """The row of the one instant that tells what was recorded."""
        return next(row for row in self.rows if row.kind == FACTS)

    def full_title(self, row: Row) -> str:
        """The title of a row where groups cannot be drawn: ``GPU 0 · Stages``."""
        if row.group is None or row.kind in COUNTERS:
            return row.title
        return f"{self.rows[row.group].title} · {row.title}"


def layout_of(recording: Recording) -> Layout:
    """The rows that ``recording`` is drawn on; the same for every format."""
    return _Layouter(recording).run()


def _rank_order(rank: int | None) -> tuple[bool, int]:
    return rank is not None, rank or 0


def _device_order(device: int | None) -> tuple[bool, int]:
    return device is None, device or 0


def _track_order(track: Track) -> tuple[int, int]:
    kind = TRACK_KINDS.index(track.kind) if track.kind in TRACK_KINDS else len(TRACK_KINDS)
    return kind, -1 if track.stream is None else track.stream


def _track_title(track: Track) -> str:
    title = _TITLES.get(track.kind, clean(track.kind))
    return title if track.stream is None else f"{title}, stream {track.stream}"


def _waited(recording: Recording) -> set[Home]:
    """The generating threads that have waited for a second token."""
    spans = recording.spans
    tokens = {at for at, name in enumerate(spans.strings) if name == names.TOKEN}
    counts = Tally(index for name, index in zip(spans.name, spans.generation, strict=True) if name in tokens)
    return {
        home_of(recording.tracks[recording.generate_span(one).track])
        for one in recording.generations
        if counts[one.index] > 1
    }


def _unique(title: str, taken: set[str], lane: str = "") -> str:
    """``title``, with a number behind it where it is taken; ``lane`` stands before that."""
    made, count = title, 1
    while made in taken:
        count += 1
        made = f"{title}{lane} {count}"
    taken.add(made)
    return made


class _Layouter:
    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.host_of = host_tracks(recording)
        self.made = Layout(launches=launches(recording), findings=findings(recording))
        self.waited = _waited(recording)
        self.lanes: defaultdict[Home, int] = defaultdict(int)
        for home, lane in self.made.launches.places:
            self.lanes[home] = max(self.lanes[home], lane + 1)

    def run(self) -> Layout:
        ranks = sorted({track.rank for track in self.recording.tracks} or {None}, key=_rank_order)
        for rank in ranks:
            self._process(rank)
        for index, one in enumerate(self.made.findings):
            self._row(0, None, FINDING, f"! {one.slug}", index=index)
        self._row(0, None, FACTS, "Recording")
        return self.made

    def _process(self, rank: int | None) -> None:
        number = len(self.made.processes)
        tracks = {i: track for i, track in enumerate(self.recording.tracks) if track.rank == rank}
        self.made.processes.append(Process(number, rank, self._process_title(rank, tracks.values())))
        taken: set[str] = set()
        self._groups(number, {i: t for i, t in tracks.items() if t.kind != "host"}, taken)
        self._hosts(number, tracks, taken)
        self._counters(number, tracks.values())

    def _process_title(self, rank: int | None, tracks: Iterable[Track]) -> str:
        models = self.recording.models
        parts = [] if rank is None else [f"rank {rank}"]
        parts.append(clean(models[0].name if len(models) == 1 else self.recording.name))
        if all(track.device is None for track in tracks):
            parts.append("host clock")
        return " · ".join(parts)

    def _row(self, process: int, group: int | None, kind: str, title: str, **more: int | str | Home | None) -> int:
        number = len(self.made.rows)
        self.made.rows.append(Row(number, process, group, kind, title, **more))  # type: ignore[arg-type]
        return number

    def _groups(self, process: int, tracks: dict[int, Track], taken: set[str]) -> None:
        """One group per device and generating thread; threads are named where a device has several.

        Kernels and copies of a thread that shows nothing else on the device go to the device's first group.
        """
        groups: defaultdict[tuple[int | None, int], list[int]] = defaultdict(list)
        first: dict[int | None, int] = {}
        for index, track in sorted(tracks.items(), key=lambda item: item[1].kind in OPERATIONS):
            thread = track.thread
            if track.kind in OPERATIONS and (track.device, thread) not in groups:
                thread = first.get(track.device, thread)
            first.setdefault(track.device, thread)
            groups[track.device, thread].append(index)
        threads = Tally(device for device, _ in groups)
        for device, thread in sorted(groups, key=lambda key: _device_order(key[0])):
            indexes = groups[device, thread]
            title = "CPU" if device is None else f"GPU {device}"
            if threads[device] > 1:
                title = f"{title} · {clean(tracks[indexes[0]].thread_name)}"
            group = self._row(process, None, GROUP, _unique(title, taken))
            inside: set[str] = set()
            for index in sorted(indexes, key=lambda i: (*_track_order(tracks[i]), i)):
                lane = "" if tracks[index].stream is None else ", lane"
                row_title = _unique(_track_title(tracks[index]), inside, lane)
                self.made.of_track[index] = self._row(process, group, TRACK, row_title, index=index)

    def _hosts(self, process: int, tracks: dict[int, Track], taken: set[str]) -> None:
        """A row for each host track, below it the lanes of launches that do not fit on it."""
        drawn: set[Home] = set()
        for index, track in tracks.items():
            home = home_of(track)
            title = f"Host: {clean(track.thread_name)}"
            if track.kind == "host":
                row = self._row(process, None, TRACK, _unique(title, taken), index=index)
                self.made.of_track[index] = row
                if self.host_of[home] != index:
                    continue
                self.made.of_lane[home, 0] = row
            elif home in self.host_of or home in drawn:
                continue
            drawn.add(home)
            for lane in range(self.lanes[home]):
                if (home, lane) not in self.made.of_lane:
                    lane_title = title if lane == 0 else f"{title}, launches"
                    self.made.of_lane[home, lane] = self._row(
                        process, None, LAUNCHES, _unique(lane_title, taken), home=home
                    )

    def _counters(self, process: int, tracks: Collection[Track]) -> None:
        """Tokens and ITL of each generating thread and its lead on each device, derived; then what was sampled."""
        generating = [track for track in tracks if track.kind == "generations"]
        devices = {track.device for track in tracks}
        homes = {home_of(track): track.thread_name for track in generating}
        leading = list(
            dict.fromkeys((home_of(track), track.device) for track in generating if track.device is not None)
        )
        waited = [home for home in homes if home in self.waited]
        sampled = [
            (index, counter)
            for index, counter in enumerate(self.recording.counters)
            if index not in self.made.of_counter and (counter.device in devices or self._is_last(process))
        ]
        if not homes and not sampled:
            return
        group = self._row(process, None, GROUP, "Counters")
        taken: set[str] = set()
        for home, name in homes.items():
            title = "tokens" if len(homes) == 1 else f"tokens · {clean(name)}"
            self._row(process, group, TOKENS, _unique(title, taken), home=home, unit="count")
        for home in waited:
            title = "ITL" if len(homes) == 1 else f"ITL · {clean(homes[home])}"
            self._row(process, group, ITL, _unique(title, taken), home=home, unit="µs")
        for home, device in leading:
            title = "lead" if len(leading) == 1 else f"lead · GPU {device} · {clean(homes[home])}"
            self._row(process, group, LEAD, _unique(title, taken), home=home, device=device, unit="µs")
        for index, counter in sampled:
            title = clean(counter.name) if counter.device is None else f"GPU {counter.device} {clean(counter.name)}"
            row = self._row(process, group, COUNTER, _unique(title, taken), index=index, unit=counter.unit)
            self.made.of_counter[index] = row

    def _is_last(self, process: int) -> bool:
        """A counter of a device that no track knows is shown with the last process rather than lost."""
        return process + 1 == len({track.rank for track in self.recording.tracks} or {None})

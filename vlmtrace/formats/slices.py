"""Slices: every slice, instant and counter sample of a recording, in the order in which all writers write them.

Ascending by begin; at equal times what the host did stands before what a device did, and a longer slice before a
shorter one, so that the outer opens first.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from operator import eq, lt
from typing import Final, NamedTuple

from vlmtrace.formats.arguments import numbering
from vlmtrace.formats.derived_arguments import DerivedArguments
from vlmtrace.formats.launches import home_of, is_launched
from vlmtrace.formats.layout import COUNTER, ITL, LEAD, TOKENS, Layout, Row
from vlmtrace.formats.titles import Titles
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import COPIES, KERNELS, Recording
from vlmtrace.timeline.spans import NONE, sort_ties

__all__ = ["DERIVED", "LAUNCH", "Look", "Series", "Slice", "Slices", "closing", "earliest", "series", "slices"]

DERIVED: Final = "derived"
LAUNCH: Final = "launch"
_CATEGORIES: Final = {
    "generations": "stage",
    "stages": "stage",
    "steps": "stage",
    "modules": "module",
    "layers": "layer",
    "drafts": "draft",
    "tokens": "token",
    "spans": "user",
    KERNELS: "kernel",
    COPIES: "copy",
    "host": "host",
}


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What slices of spans with one name share on one row; ``name`` is the spans', ``title`` the slices'."""

    row: int
    title: str
    category: str
    derived: bool
    instant: bool
    name: str


class Slice(NamedTuple):
    """One slice; times are ns on the axis. ``span`` is the span shown, or launched (first) where ``derived``.

    ``flow`` is the number that joins a launch to what it launched (first), and a forward pass to the token that came of
    it. An arrow ``arrives`` here, or one ``leaves``, or both. None arrives where the device, within the bound of its
    clock, seems to have begun first: an arrow cannot lead back, and importers lose those that try.
    """

    look: Look
    span: int
    begin: int
    end: int
    flow: int
    arrives: bool
    leaves: bool

    @property
    def row(self) -> int:
        return self.look.row

    @property
    def title(self) -> str:
        return self.look.title

    @property
    def category(self) -> str:
        return self.look.category

    @property
    def derived(self) -> bool:
        return self.look.derived

    @property
    def instant(self) -> bool:
        return self.look.instant


@dataclass(frozen=True, slots=True)
class Series:
    """One counter: its row, and its samples as times (ns on the axis) and values in the row's unit."""

    row: Row
    times: Iterable[int]
    values: Iterable[int]


class Slices:
    """Every slice of a recording, launches among them, by item: a span's row, and behind all rows a launch's position.

    ``begin`` and ``end`` are columns by item, in ns on the axis.
    """

    def __init__(self, recording: Recording, layout: Layout) -> None:
        self.spans = spans = recording.spans
        self.launched = launched = layout.launches
        self.begin = spans.begin + launched.begin
        self.end = spans.end + launched.end
        self._titles = Titles(recording)
        self._row_of_track = [layout.of_track[track] for track in range(len(recording.tracks))]
        self._row_of_place = [layout.of_lane[place] for place in launched.places]
        self._is_launched = bytearray(len(spans))
        for row in launched.span:
            self._is_launched[row] = 1
        self._category = [_CATEGORIES.get(track.kind, track.kind) for track in recording.tracks]
        self._on_device = [track.device is not None for track in recording.tracks]
        self._is_token = [name == names.TOKEN for name in spans.strings]
        self._forward_of = forward_of = self._forwards()
        self._has_token = bytearray(len(spans))
        for row in forward_of.values():
            self._has_token[row] = 1
        self.told = DerivedArguments(recording, self._is_launched)
        self._looks: dict[tuple[int, str, int, bool], Look] = {}

    def __getitem__(self, item: int) -> Slice:
        rows = len(self.spans)
        return self._span(item) if item < rows else self._launch(item - rows)

    def flow(self, row: int) -> int:
        """The number of the arrows of a span, and of what launched it."""
        return self._forward_of.get(row, row) + 1

    def order(self) -> array[int]:
        """The items in writing order."""
        end, track, on_device, rows = self.end, self.spans.track, self._on_device, len(self.spans)

        def at_once(item: int) -> tuple[int, ...]:
            return (item < rows and on_device[track[item]], -end[item], item)

        order = array("q", sorted(range(len(self.begin)), key=self.begin.__getitem__))
        sort_ties(order, self.begin, at_once)
        return order

    def in_order(self) -> Iterator[Slice]:
        """The slices in writing order."""
        return map(self.__getitem__, self.order())

    def alike(self, *of_spans: Iterable[int]) -> array[int]:
        """By item a number that is the same where slices differ in nothing but times, ids and numbers.

        ``of_spans`` are what they may differ in besides, each by row.
        """
        spans, launched, numbers = self.spans, self.launched, numbering()
        title = self._titles.alike()
        empty, ahead = map(eq, spans.begin, spans.end), map(lt, spans.host_begin, spans.begin)
        arrows = self._is_launched, ahead, self._has_token, map(self._forward_of.__contains__, range(len(spans)))
        looks = zip(spans.track, title, spans.name, empty, *arrows, self.told.alike, *of_spans, strict=True)
        made = array("q", map(numbers.__getitem__, looks))
        made.extend(
            numbers[place, call, title[row] if call == NONE else NONE, begin < spans.begin[row]]
            for place, call, row, begin in zip(
                launched.place, launched.call, launched.span, launched.begin, strict=True
            )
        )
        return made

    def _span(self, row: int) -> Slice:
        spans = self.spans
        track, name, begin, end = spans.track[row], spans.name[row], spans.begin[row], spans.end[row]
        instant = begin == end and self._is_token[name]
        key = (track, self._titles.of(row), name, instant)
        look = self._looks.get(key)
        if look is None:
            where, category = self._row_of_track[track], self._category[track]
            look = self._looks[key] = Look(where, key[1], category, False, instant, spans.strings[name])
        arrives = row in self._forward_of or (self._is_launched[row] == 1 and spans.host_begin[row] < begin)
        return Slice(look, row, begin, end, self.flow(row), arrives, self._has_token[row] == 1)

    def _launch(self, at: int) -> Slice:
        launched = self.launched
        row, begin, call = launched.span[at], launched.begin[at], launched.call[at]
        where = self._row_of_place[launched.place[at]]
        title = self._titles.of_launch(row) if call == NONE else self._titles.of_call(call)
        key = (-1 - where, title, call if call != NONE else self.spans.name[row], False)
        look = self._looks.get(key)
        if look is None:
            name = self.spans.strings[key[2]]
            look = self._looks[key] = Look(where, title, f"{LAUNCH},{DERIVED}", True, False, name)
        leaves = begin < self.spans.begin[row]
        return Slice(look, row, begin, launched.end[at], row + 1, False, leaves)

    def _forwards(self) -> dict[int, int]:
        """By the row of a token mark, that of the launched prefill or step which had ended last; each has one token."""
        spans, launched = self.spans, self.launched
        is_forward = [name in (names.PREFILL, names.STEP) for name in spans.strings]
        forwards: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for row, call in zip(launched.span, launched.call, strict=True):
            if call == NONE and is_forward[spans.name[row]]:
                forwards[spans.generation[row]].append((spans.end[row], row))
        if not forwards:
            return {}
        for ended in forwards.values():
            ended.sort()
        token_of: dict[int, int] = {}
        for row, name in enumerate(spans.name):
            if not self._is_token[name]:
                continue
            ended = forwards[spans.generation[row]]
            at = bisect_right(ended, (spans.begin[row], len(spans)))
            if at and spans.begin[ended[at - 1][1]] < spans.begin[row]:
                token_of.setdefault(ended[at - 1][1], row)
        return {token: forward for forward, token in token_of.items()}


def slices(recording: Recording, layout: Layout) -> Iterator[Slice]:
    """Every slice of the recording in writing order, launches among them."""
    return Slices(recording, layout).in_order()


def closing(drawn: Slices) -> Iterator[int]:
    """Each item where its slice begins, and as ``~item`` where it ends, in time order.

    What ends at a time closes before what begins at it, inner before outer; what has no length, right where it begins.
    """
    begin, end, order = drawn.begin, drawn.end, drawn.order()
    # Backwards, so that the next one is the last of the list; what began last stands behind what ends with it.
    ends = sorted((item for item in order if begin[item] < end[item]), key=end.__getitem__, reverse=True)
    for item in order:
        now = begin[item]
        while ends and end[ends[-1]] <= now:
            yield ~ends.pop()
        yield item
        if end[item] == now:
            yield ~item
    while ends:
        yield ~ends.pop()


def series(recording: Recording, layout: Layout) -> Iterator[Series]:
    """Every counter: tokens, ITL and lead of each generating thread (derived), then those that were sampled."""
    for row in layout.rows:
        if row.kind == COUNTER and row.index is not None:
            counter = recording.counters[row.index]
            yield Series(row, counter.times, counter.values)
        elif row.kind == TOKENS:
            yield Series(row, *_tokens(recording, row))
        elif row.kind == ITL:
            yield Series(row, *_latencies(recording, row))
        elif row.kind == LEAD:
            yield Series(row, *_leads(recording, row))


def _leads(recording: Recording, row: Row) -> tuple[list[int], list[int]]:
    """How far the host was ahead of the device at each mark of a stage, in whole µs, of which a clock's bound is some.

    At the device's time of the mark. Neighbours share marks, and a mark that they share is one sample.
    """
    spans = recording.spans
    by_name, by_track = is_launched(recording)
    here = [
        by and home_of(track) == row.home and track.device == row.device
        for by, track in zip(by_track, recording.tracks, strict=True)
    ]
    marks: set[tuple[int, int]] = set()
    for at in range(len(spans)):
        if by_name[spans.name[at]] and here[spans.track[at]]:
            begin, end = spans.begin[at], spans.end[at]
            marks.add((begin, begin - spans.host_begin[at]))
            marks.add((end, end - spans.host_end[at]))
    ordered = sorted(marks)
    return [time for time, _ in ordered], [(lead + 500) // 1_000 for _, lead in ordered]


def _tokens(recording: Recording, row: Row) -> tuple[list[int], list[int]]:
    """How many tokens the generation of that time has appended: 0 where it begins, one more at each token mark."""
    samples: list[tuple[int, int, int]] = []
    for generation, begin, marks in _token_marks(recording, row):
        samples.append((begin, generation, 0))
        samples.extend((end, generation, n) for n, end in enumerate(marks, start=1))
    return _in_order(samples)


def _latencies(recording: Recording, row: Row) -> tuple[list[int], list[int]]:
    """Whole µs from each token mark to the next, at the latter; 0 where a generation begins."""
    samples: list[tuple[int, int, int]] = []
    for generation, begin, marks in _token_marks(recording, row):
        samples.append((begin, generation, 0))
        samples.extend((end, generation, (end - before + 500) // 1_000) for before, end in pairwise(marks))
    return _in_order(samples)


def _token_marks(recording: Recording, row: Row) -> Iterator[tuple[int, int, list[int]]]:
    """Of each generation of a row's thread its number, its begin and the times of its token marks."""
    spans = recording.spans
    marks: defaultdict[int, list[int]] = defaultdict(list)
    token = [name == names.TOKEN for name in spans.strings]
    for at in range(len(spans)):
        if token[spans.name[at]] and spans.generation[at] != NONE:
            marks[spans.generation[at]].append(spans.end[at])
    for generation in recording.generations:
        span = recording.generate_span(generation)
        if home_of(recording.tracks[span.track]) == row.home:
            yield generation.index, span.begin, sorted(marks[generation.index])


def _in_order(samples: list[tuple[int, int, int]]) -> tuple[list[int], list[int]]:
    """Times and values of samples, which are time, generation and value."""
    samples.sort()
    return [time for time, _, _ in samples], [value for _, _, value in samples]


def earliest(recording: Recording, layout: Layout) -> int:
    """The first position on the axis at which anything is drawn, the origin where nothing is."""
    firsts = [times[0] for times in (recording.spans.begin,) if times]
    firsts.extend(layout.launches.begin[:1])
    firsts.extend(min(counter.times) for counter in recording.counters if counter.times)
    return min(firsts, default=recording.origin_ns)

"""Spans: columns of integers and interned strings, and a view of one row.

A recording may hold a million spans, so nothing here is an object per span until somebody looks at one.
A *mark* is one boundary: the host time at which it was recorded and the position on the axis at which the
stream reached it. A span is two marks with a name on a track. On the host's own clock the two times are equal.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import le
from typing import Final, overload

__all__ = ["NONE", "ArgColumn", "NewSpan", "Span", "Spans", "SpansBuilder", "gathered", "runs_of", "sort_ties"]

NONE: Final = -1
"""What an absent row, generation or number is in an integer column (0 is a valid one of each)."""

_FLAG_INCOMPLETE: Final = 1


@dataclass(frozen=True, slots=True)
class ArgColumn:
    """One named argument of the spans that have it: ``rows`` ascending, ``values`` parallel.

    ``text`` tells whether values are positions in the spans' string table or plain integers.
    """

    text: bool
    rows: array[int]
    values: array[int]


@dataclass(frozen=True, slots=True)
class Spans(Sequence["Span"]):
    """Every span of a recording in normal form: ascending by begin, a parent before its children.

    Columns are parallel. ``name`` indexes ``strings``; ``track`` the recording's tracks; ``parent`` rows (or
    :data:`NONE`); ``generation`` the recording's generations (or :data:`NONE`); ``number`` is the step, layer, chunk
    or token number (or :data:`NONE`). ``begin``/``end`` are integer nanoseconds on the axis, ``host_begin``/
    ``host_end`` the host times of the same two marks.
    """

    strings: tuple[str, ...]
    name: array[int]
    track: array[int]
    parent: array[int]
    generation: array[int]
    number: array[int]
    begin: array[int]
    end: array[int]
    host_begin: array[int]
    host_end: array[int]
    flags: array[int]
    args: Mapping[str, ArgColumn]

    def __len__(self) -> int:
        return len(self.begin)

    @overload
    def __getitem__(self, row: int) -> Span: ...
    @overload
    def __getitem__(self, row: slice) -> tuple[Span, ...]: ...
    def __getitem__(self, row: int | slice) -> Span | tuple[Span, ...]:
        if isinstance(row, slice):
            return tuple(Span(self, i) for i in range(*row.indices(len(self))))
        if not -len(self) <= row < len(self):
            raise IndexError(f"span {row} of {len(self)}")
        return Span(self, row % len(self))

    def __iter__(self) -> Iterator[Span]:
        return (Span(self, row) for row in range(len(self)))

    def named(self, name: str) -> Iterator[Span]:
        """The spans of that name, in order."""
        try:
            wanted = self.strings.index(name)
        except ValueError:
            return iter(())
        return (Span(self, row) for row, value in enumerate(self.name) if value == wanted)

    def arg(self, row: int, key: str) -> int | str | None:
        """The argument ``key`` of span ``row``, or ``None`` where it has none."""
        column = self.args.get(key)
        if column is None:
            return None
        at = bisect_left(column.rows, row)
        if at == len(column.rows) or column.rows[at] != row:
            return None
        value = column.values[at]
        return self.strings[value] if column.text else value


@dataclass(frozen=True, slots=True)
class Span:
    """A view of one row; two views are equal where spans and row are."""

    spans: Spans = field(repr=False)
    row: int

    @property
    def name(self) -> str:
        return self.spans.strings[self.spans.name[self.row]]

    @property
    def track(self) -> int:
        return self.spans.track[self.row]

    @property
    def parent(self) -> int | None:
        row = self.spans.parent[self.row]
        return None if row == NONE else row

    @property
    def generation(self) -> int | None:
        index = self.spans.generation[self.row]
        return None if index == NONE else index

    @property
    def number(self) -> int | None:
        value = self.spans.number[self.row]
        return None if value == NONE else value

    @property
    def begin(self) -> int:
        return self.spans.begin[self.row]

    @property
    def end(self) -> int:
        return self.spans.end[self.row]

    @property
    def host_begin(self) -> int:
        return self.spans.host_begin[self.row]

    @property
    def host_end(self) -> int:
        return self.spans.host_end[self.row]

    @property
    def duration(self) -> int:
        """Elapsed nanoseconds on the span's own clock, idle time included."""
        return self.end - self.begin

    @property
    def host_duration(self) -> int:
        """Nanoseconds between the host times of the two marks: how long launching took."""
        return self.host_end - self.host_begin

    @property
    def lead_begin(self) -> int:
        """How long before the device began the span the host had recorded its begin, in nanoseconds."""
        return self.begin - self.host_begin

    @property
    def lead_end(self) -> int:
        """How long before the device ended the span the host had finished launching it, in nanoseconds."""
        return self.end - self.host_end

    @property
    def incomplete(self) -> bool:
        return bool(self.spans.flags[self.row] & _FLAG_INCOMPLETE)

    @property
    def args(self) -> dict[str, int | str]:
        found = ((key, self.spans.arg(self.row, key)) for key in self.spans.args)
        return {key: value for key, value in found if value is not None}


@dataclass(slots=True)
class NewSpan:
    """A span to be added: ``axis`` are its two positions, ``host`` the host times of its marks (``None``: the same).

    ``parent`` is the handle that adding the parent answered.
    """

    name: str
    track: int
    axis: tuple[int, int]
    host: tuple[int, int] | None = None
    parent: int | None = None
    generation: int | None = None
    number: int | None = None
    incomplete: bool = False
    args: Mapping[str, int | str] = field(default_factory=dict)


def sort_ties(rows: array[int], begin: Sequence[int], key: Callable[[int], tuple[int, ...]]) -> None:
    """Sort in place, by ``key``, each run of ``rows`` that begin together; by ``begin`` they ascend already."""
    first, together = 0, None
    for at, row in enumerate(rows):
        begins = begin[row]
        if begins != together:
            if at > first + 1:
                rows[first:at] = array("q", sorted(rows[first:at], key=key))
            first, together = at, begins
    rows[first:] = array("q", sorted(rows[first:], key=key))


def runs_of(order: Iterable[int]) -> list[tuple[int, int]]:
    """``order`` as runs of rows that follow each other: of each run its first row, and the one behind its last."""
    runs: list[tuple[int, int]] = []
    first = behind = 0
    for row in order:
        if row != behind:
            if first != behind:
                runs.append((first, behind))
            first = row
        behind = row + 1
    if first != behind:
        runs.append((first, behind))
    return runs


def gathered(cells: array[int], runs: Iterable[tuple[int, int]], width: int = 1) -> array[int]:
    """The rows of ``cells``, ``width`` cells each, in the order of ``runs``: a run is copied as one."""
    made = array("q")
    for first, behind in runs:
        made += cells[first * width : behind * width]
    return made


def _ascending(rows: array[int]) -> tuple[array[int], array[int] | None]:
    """``rows`` in ascending order, and the positions that they had, ``None`` where they ascended already."""
    if all(map(le, rows, islice(rows, 1, None))):
        return rows, None
    by_row = array("q", sorted(range(len(rows)), key=rows.__getitem__))
    return array("q", map(rows.__getitem__, by_row)), by_row


class SpansBuilder:
    """Collects spans in any order and freezes them in normal form.

    ``add`` answers a handle that later calls use as ``parent``; ``freeze`` renumbers, and its second answer maps
    handles to rows.
    """

    def __init__(self) -> None:
        self._strings: dict[str, int] = {}
        self._cells = array("q")
        self._args: dict[str, tuple[bool, array[int], array[int]]] = {}

    def __len__(self) -> int:
        return len(self._cells) // _WIDTH

    def intern(self, text: str) -> int:
        return self._strings.setdefault(text, len(self._strings))

    def add(self, span: NewSpan) -> int:
        """Add a span and answer its handle."""
        host_begin, host_end = span.axis if span.host is None else span.host
        handle = self.add_row(
            (
                self.intern(span.name),
                span.track,
                NONE if span.parent is None else span.parent,
                NONE if span.generation is None else span.generation,
                NONE if span.number is None else span.number,
                *span.axis,
                host_begin,
                host_end,
                _FLAG_INCOMPLETE if span.incomplete else 0,
            )
        )
        for key, argument in span.args.items():
            self.set_arg(handle, key, argument)
        return handle

    def add_row(self, cells: tuple[int, ...]) -> int:
        """Add a span as its columns hold it: ``name`` as interned, ``parent`` a handle, the others as in Spans."""
        handle = len(self._cells) // _WIDTH
        self._cells.extend(cells)
        return handle

    def extend(self, columns: Mapping[str, array[int]]) -> range:
        """Add many spans, each a row of the parallel ``columns``, which are named as in Spans; their handles."""
        first, count = len(self), len(columns["name"])
        cells = array("q", bytes(8 * _WIDTH * count))
        for number, key in enumerate(_COLUMNS):
            cells[number::_WIDTH] = columns[key]
        self._cells.extend(cells)
        return range(first, first + count)

    def extend_with(self, spans: Spans) -> range:
        """Add all of ``spans``, arguments too; their handles are in the order of the rows."""
        at = array("q", map(self.intern, spans.strings))
        first = len(self)
        columns: dict[str, array[int]] = {key: getattr(spans, key) for key in _COLUMNS}
        columns["name"] = array("q", map(at.__getitem__, spans.name))
        columns["parent"] = array("q", (NONE if row == NONE else first + row for row in spans.parent))
        handles = self.extend(columns)
        for key, column in spans.args.items():
            rows = array("q", (first + row for row in column.rows)) if first else column.rows
            values = array("q", map(at.__getitem__, column.values)) if column.text else column.values
            self.set_args(key, rows, values, text=column.text)
        return handles

    def set_args(self, key: str, handles: Sequence[int], values: Sequence[int], *, text: bool) -> None:
        """Give many spans the argument ``key``; ``values`` are as interned where it is ``text``."""
        is_text, rows, known = self._args.setdefault(key, (text, array("q"), array("q")))
        if is_text != text:
            raise TypeError(f"argument {key!r} is {'text' if is_text else 'an integer'} elsewhere")
        rows.extend(handles)
        known.extend(values)

    def set_arg(self, handle: int, key: str, value: int | str) -> None:
        """Give span ``handle`` an argument; a key is text or integer throughout a recording, never both."""
        text = isinstance(value, str)
        column = self._args.get(key)
        if column is None:
            column = self._args[key] = (text, array("q"), array("q"))
        is_text, rows, values = column
        if is_text != text:
            raise TypeError(f"argument {key!r} is {'text' if is_text else 'an integer'} elsewhere, here {value!r}")
        rows.append(handle)
        values.append(self.intern(value) if isinstance(value, str) else value)

    def freeze(self) -> tuple[Spans, array[int]]:
        """The spans in normal form, and the row of each handle. The builder holds no span afterwards."""
        runs = runs_of(self._order())
        row_of, row = array("q", bytes(8 * len(self))), 0
        for first, behind in runs:
            row_of[first:behind] = array("q", range(row, row := row + behind - first))
        strings, string_of = self._ordered_strings()
        self._cells = gathered(self._cells, runs, _WIDTH)
        made = {key: self._column(key) for key in _COLUMNS}
        self._cells = array("q")
        made["name"] = array("q", map(string_of.__getitem__, made["name"]))
        made["parent"] = array("q", (NONE if p == NONE else row_of[p] for p in made["parent"]))
        args: dict[str, ArgColumn] = {}
        known: list[tuple[array[int], array[int], array[int] | None]] = []
        for key in sorted(self._args):
            text, handles, values = self._args[key]
            if text:
                values = array("q", map(string_of.__getitem__, values))
            # Many arguments are of the very same spans: those share their rows.
            same = next((one for one in known if one[0] == handles), None)
            if same is None:
                same = handles, *_ascending(array("q", map(row_of.__getitem__, handles)))
                known.append(same)
            _, rows, by_row = same
            args[key] = ArgColumn(text, rows, values if by_row is None else array("q", map(values.__getitem__, by_row)))
        return Spans(strings=strings, args=args, **made), row_of

    def _order(self) -> array[int]:
        """The handles ascending by begin; of those that begin together a parent first, then by track and end."""
        begin, end, track, parent = (self._column(key) for key in ("begin", "end", "track", "parent"))

        def depth(handle: int) -> int:
            above, over = 0, parent[handle]
            while over != NONE:
                above, over = above + 1, parent[over]
            return above

        order = array("q", sorted(range(len(self)), key=begin.__getitem__))
        sort_ties(order, begin, lambda handle: (depth(handle), track[handle], end[handle], handle))
        return order

    def _column(self, key: str) -> array[int]:
        return self._cells[_COLUMNS.index(key) :: _WIDTH]

    def _ordered_strings(self) -> tuple[tuple[str, ...], dict[int, int]]:
        """Strings in sorted order, so that equal recordings have equal tables however they were built."""
        used = set(self._column("name"))
        for text, _, values in self._args.values():
            if text:
                used.update(values)
        texts = sorted((text, at) for text, at in self._strings.items() if at in used)
        return tuple(text for text, _ in texts), {at: new for new, (_, at) in enumerate(texts)}


_COLUMNS: Final = (
    "name",
    "track",
    "parent",
    "generation",
    "number",
    "begin",
    "end",
    "host_begin",
    "host_end",
    "flags",
)
_WIDTH: Final = len(_COLUMNS)

"""Arguments: what a span carries on its slice beyond name, begin and end, and the words used for it.

A slice's arguments are its place in the recording (``id``, ``parent``, ``generation``, its number), the host times of
its two marks, and the span's own. Structure is read back from these and never from how slices happen to nest.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Final
from urllib.parse import quote, unquote

from vlmtrace.formats.launches import OPERATIONS
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording
from vlmtrace.timeline.spans import NONE, ArgColumn, runs_of

__all__ = [
    "GENERATION",
    "HOST_BEGIN",
    "HOST_END",
    "ID",
    "INCOMPLETE",
    "NAME",
    "NUMBERS",
    "PARENT",
    "TOLD",
    "SpanArguments",
    "number_at",
    "numbering",
    "own_key",
    "written_key",
]

ID: Final = "id"
PARENT: Final = "parent"
HOST_BEGIN: Final = "host_begin"
HOST_END: Final = "host_end"
GENERATION: Final = "generation"
NAME: Final = "name"
INCOMPLETE: Final = "incomplete"
TOLD: Final = "derived"
"""A dictionary of what is for reading only; it is not read back."""

_NUMBER_OF: Final = {
    names.STEP: "step",
    names.LAYER: "layer",
    names.VISION_LAYER: "layer",
    names.PREFILL_CHUNK: "chunk",
    names.TOKEN: "token",
}
_NUMBER: Final = "number"
NUMBERS: Final = frozenset((_NUMBER, *_NUMBER_OF.values()))
"""What a span's number is called: a step's ``step``, a layer's ``layer``, anything else's ``number``.

A kernel or copy, whatever its name, has that of the ``step`` it ran in.
"""

_RESERVED: Final = NUMBERS | {ID, PARENT, HOST_BEGIN, HOST_END, GENERATION, NAME, INCOMPLETE, TOLD}
_ESCAPE: Final = "arg:"
_CHUNK: Final = 10_000
"""Spans whose arguments are looked at together."""


def written_key(key: str) -> str:
    """What a span's own argument ``key`` is called on a slice: itself, or escaped where that would be ambiguous."""
    plain = key.isprintable() and key and key not in _RESERVED and not key.startswith(_ESCAPE)
    return key if plain else _ESCAPE + quote(key, errors="surrogatepass")


def own_key(written: str) -> str:
    """The span's own argument that a slice calls ``written``; inverse of :func:`written_key`."""
    if written.startswith(_ESCAPE):
        return unquote(written.removeprefix(_ESCAPE), errors="surrogatepass")
    return written


class SpanArguments:
    """The arguments of every span of a recording, answered one span at a time.

    Spans keep their own arguments by key. Of the spans of a recording many have the same of them: ``alike`` says by row
    which, as a number that is the same where keys and texts are.
    """

    def __init__(self, recording: Recording) -> None:
        self._spans = spans = recording.spans
        self._origin = recording.origin_ns
        self._number_key = [_NUMBER_OF.get(name, _NUMBER) for name in spans.strings]
        self._is_operation = [track.kind in OPERATIONS for track in recording.tracks]
        columns = [(written_key(key), column) for key, column in spans.args.items()]
        numbers = numbering()
        self.alike = array("q")
        for first in range(0, len(spans), _CHUNK):
            behind = min(first + _CHUNK, len(spans))
            nothing = repeat(0, behind - first)
            rows = zip(nothing, *(_cells(column, first, behind) for _, column in columns), strict=True)
            self.alike.extend(map(numbers.__getitem__, rows))
        self._own: list[list[tuple[str, str | ArgColumn]]] = [
            [
                (key, spans.strings[cell] if column.text else column)
                for (key, column), cell in zip(columns, cells, strict=True)
                if cell != NONE
            ]
            for _, *cells in numbers
        ]

    def of(self, row: int, title: str) -> dict[str, int | str]:
        """The arguments of span ``row``, whose slice is called ``title``; host times count from the origin, in ns."""
        spans, origin = self._spans, self._origin
        name_at = spans.name[row]
        parent, generation, number = spans.parent[row], spans.generation[row], spans.number[row]
        made: dict[str, int | str] = {ID: row}
        if parent != NONE:
            made[PARENT] = parent
        if generation != NONE:
            made[GENERATION] = generation
        if number != NONE:
            made[self.number_key(row)] = number
        made[HOST_BEGIN] = spans.host_begin[row] - origin
        made[HOST_END] = spans.host_end[row] - origin
        if spans.flags[row]:
            made[INCOMPLETE] = spans.flags[row]
        name = spans.strings[name_at]
        if names.full(title) != name:
            made[NAME] = name
        made.update(self.own(row))
        return made

    def number_key(self, row: int) -> str:
        """What the number of span ``row`` is called."""
        if self._is_operation[self._spans.track[row]]:
            return _NUMBER_OF[names.STEP]
        return self._number_key[self._spans.name[row]]

    def own(self, row: int) -> list[tuple[str, int | str]]:
        """The arguments that are span ``row``'s own, as a slice calls them."""
        return [(key, one if isinstance(one, str) else number_at(one, row)) for key, one in self.parts(row)]

    def parts(self, row: int) -> Sequence[tuple[str, str | ArgColumn]]:
        """The same with, in place of each number, the column that it stands in."""
        return self._own[self.alike[row]]


def number_at(column: ArgColumn, row: int) -> int:
    """What stands in the column of an argument for span ``row``, which has that argument."""
    return column.values[bisect_left(column.rows, row)]


def numbering() -> defaultdict[tuple[int, ...], int]:
    """Numbers for all rows of cells that are looked up, from 0 on in the order in which they were met first."""
    made: defaultdict[tuple[int, ...], int] = defaultdict()
    made.default_factory = made.__len__
    return made


def _cells(column: ArgColumn, first: int, behind: int) -> Iterable[int]:
    """For each row from ``first`` on: the position of its text, 0 for any number, ``NONE`` where it has neither."""
    start, stop = bisect_left(column.rows, first), bisect_left(column.rows, behind)
    if start == stop:
        return repeat(NONE, behind - first)
    values = column.values[start:stop] if column.text else array("q", bytes(8 * (stop - start)))
    if len(values) == behind - first:
        return values
    made, at = array("q", [NONE]) * (behind - first), 0
    for begin, end in runs_of(column.rows[start:stop]):
        made[begin - first : end - first] = values[at : (at := at + end - begin)]
    return made

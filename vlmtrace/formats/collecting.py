"""Collecting: the spans and counter samples that a reader meets in a file, put together to the recording they were."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from vlmtrace.errors import TraceFormatError
from vlmtrace.formats.arguments import (
    GENERATION,
    HOST_BEGIN,
    HOST_END,
    ID,
    INCOMPLETE,
    NAME,
    NUMBERS,
    PARENT,
    TOLD,
    own_key,
)
from vlmtrace.formats.document import Document
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording
from vlmtrace.timeline.spans import NONE, ArgColumn, Spans, gathered, runs_of

__all__ = ["UNENDED", "Collector"]

UNENDED: Final = -(2**63)
"""The end of a slice that has begun and not ended yet."""

_COLUMNS: Final = ("name", "track", "parent", "generation", "number", "begin", "end", "host_begin", "host_end", "flags")
_WIDTH: Final = len(_COLUMNS)
_END: Final = _COLUMNS.index("end")


class Collector:
    """Cells in the order of the file, one span after another, made to columns by id at the end.

    Times handed in are those of the file, in ns.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self._origin = document.recording.origin_ns
        self._base = document.base_ns
        self._strings: dict[str, int] = {}
        self._full: dict[str, int] = {}
        self._ids = array("q")
        self._cells = array("q")
        self._args: dict[str, tuple[bool, array[int], array[int]]] = {}
        self._counters = [(array("q"), array("q")) for _ in document.recording.counters]

    def begin(self, track: int, title: str, at: int, args: dict[str, int | str]) -> int:
        """A slice began; the answer is its position, for :meth:`end`. ``args`` is used up.

        Raises:
            KeyError: an argument that every span has is missing.
        """
        take, origin = args.pop, self._origin
        span = take(ID)
        name = take(NAME, None)
        name_at = self._full.get(title) if name is None else self._interned(name)
        if name_at is None:
            name_at = self._full[title] = self._interned(names.full(title))
        parent, generation = take(PARENT, NONE), take(GENERATION, NONE)
        host_begin, host_end = take(HOST_BEGIN) + origin, take(HOST_END) + origin  # type: ignore[operator]
        flags, number = take(INCOMPLETE, 0), NONE
        take(TOLD, None)
        for key, value in args.items():
            if key in NUMBERS:
                number = value  # type: ignore[assignment]
            else:
                self._own(span, key, value)  # type: ignore[arg-type]
        self._ids.append(span)  # type: ignore[arg-type]
        begin = at + self._base
        self._cells.extend(
            (name_at, track, parent, generation, number, begin, UNENDED, host_begin, host_end, flags)  # type: ignore[arg-type]
        )
        return len(self._ids) - 1

    def end(self, position: int, at: int) -> None:
        """The slice at ``position`` ended."""
        self._cells[position * _WIDTH + _END] = at + self._base

    def sample(self, counter: int, at: int, value: int) -> None:
        """One sample of the recording's counter ``counter``."""
        times, values = self._counters[counter]
        times.append(at + self._base)
        values.append(value)

    def recording(self) -> Recording:
        """The recording, not validated yet.

        Raises:
            TraceFormatError: the file holds fewer spans or samples than it should, or ids that do not count up.
        """
        document, count = self._document, len(self._ids)
        samples = sum(len(times) for times, _ in self._counters)
        if count < document.spans or samples < document.samples or UNENDED in self._cells[_END::_WIDTH]:
            held = f"{count} of {document.spans} spans and {samples} of {document.samples} counter samples"
            raise TraceFormatError(f"it was cut short and holds {held}", "record it again or take another copy")
        order = array("q", [NONE]) * count
        for position, span in enumerate(self._ids):
            if not 0 <= span < count or order[span] != NONE:
                raise TraceFormatError(f"its span ids do not count up ({span})", "record it again or take another copy")
            order[span] = position
        counters = tuple(
            replace(counter, times=times, values=values)
            for counter, (times, values) in zip(document.recording.counters, self._counters, strict=True)
        )
        return replace(document.recording, spans=self._spans(order), counters=counters)

    def _interned(self, text: int | str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"text expected, not {text!r}")
        return self._strings.setdefault(text, len(self._strings))

    def _own(self, span: int, written: str, value: int | str) -> None:
        text = isinstance(value, str)
        column = self._args.get(written)
        if column is None:
            column = self._args[written] = (text, array("q"), array("q"))
        is_text, rows, values = column
        if is_text != text:
            raise TypeError(f"argument {written!r} is text on one span and a number on another")
        rows.append(span)
        values.append(self._interned(value) if isinstance(value, str) else value)

    def _spans(self, order: array[int]) -> Spans:
        """The columns by id, with strings sorted as normal form has them."""
        texts = sorted((text, at) for text, at in self._strings.items())
        string_of = array("q", bytes(8 * len(texts)))
        for new, (_, at) in enumerate(texts):
            string_of[at] = new
        self._cells = gathered(self._cells, runs_of(order), _WIDTH)
        made = {key: self._cells[number::_WIDTH] for number, key in enumerate(_COLUMNS)}
        made["name"] = array("q", map(string_of.__getitem__, made["name"]))
        return Spans(strings=tuple(text for text, _ in texts), args=self._own_columns(string_of), **made)

    def _own_columns(self, string_of: array[int]) -> Mapping[str, ArgColumn]:
        made = {}
        for key, written in sorted((own_key(written), written) for written in self._args):
            text, spans, values = self._args.pop(written)
            by_span = sorted(range(len(spans)), key=spans.__getitem__)
            made[key] = ArgColumn(
                text,
                array("q", (spans[i] for i in by_span)),
                array("q", (string_of[values[i]] if text else values[i] for i in by_span)),
            )
        return made

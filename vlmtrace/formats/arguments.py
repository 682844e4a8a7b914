"""Arguments: what a span carries on its slice beyond name, begin and end, and the words used for it.

A slice's arguments are its place in the recording (``id``, ``parent``, ``generation``, its number), the host times of
its two marks, and the span's own. Structure is read back from these and never from how slices happen to nest.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote, unquote

from vlmtrace.formats.launches import OPERATIONS
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording
from vlmtrace.timeline.spans import NONE

__all__ = [
    "GENERATION",
    "HOST_BEGIN",
    "HOST_END",
    "ID",
    "INCOMPLETE",
    "NAME",
    "NUMBERS",
    "PARENT",
    "SpanArguments",
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

_RESERVED: Final = NUMBERS | {ID, PARENT, HOST_BEGIN, HOST_END, GENERATION, NAME, INCOMPLETE}
_ESCAPE: Final = "arg:"


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

    Spans keep their own arguments by key; here they are indexed by row once, so that a pass over the rows is linear.
    """

    def __init__(self, recording: Recording) -> None:
        self._spans = spans = recording.spans
        self._origin = recording.origin_ns
        self._number_key = [_NUMBER_OF.get(name, _NUMBER) for name in spans.strings]
        self._is_operation = [track.kind in OPERATIONS for track in recording.tracks]
        columns = list(spans.args.items())
        self._keys = [written_key(key) for key, _ in columns]
        self._text = [column.text for _, column in columns]
        self._first = first = array("q", bytes(8 * (len(spans) + 1)))
        for _, column in columns:
            for row in column.rows:
                first[row + 1] += 1
        for row in range(len(spans)):
            first[row + 1] += first[row]
        free = first[:]
        self._key_at = key_at = array("q", bytes(8 * first[-1]))
        self._value_at = value_at = array("q", bytes(8 * first[-1]))
        for number, (_, column) in enumerate(columns):
            for row, value in zip(column.rows, column.values, strict=True):
                at = free[row]
                free[row] = at + 1
                key_at[at] = number
                value_at[at] = value

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

    def own(self, row: int) -> Sequence[tuple[str, int | str]]:
        """The arguments that are span ``row``'s own, as a slice calls them."""
        first, behind = self._first[row], self._first[row + 1]
        if first == behind:
            return ()
        texts = self._spans.strings
        arguments = zip(self._key_at[first:behind], self._value_at[first:behind], strict=True)
        return [(self._keys[key], texts[value] if self._text[key] else value) for key, value in arguments]

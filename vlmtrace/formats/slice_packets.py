"""Slice packets: where slices begin and end, as the packets of a Perfetto trace, two to a span."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TrackEvent

from vlmtrace.formats.arguments import (
    GENERATION,
    HOST_BEGIN,
    HOST_END,
    ID,
    INCOMPLETE,
    NAME,
    PARENT,
    TOLD,
    SpanArguments,
    number_at,
)
from vlmtrace.formats.layout import Layout
from vlmtrace.formats.packets import Interned, new_packet
from vlmtrace.formats.slices import Slice, Slices, closing
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording
from vlmtrace.timeline.spans import NONE, ArgColumn

__all__ = ["SlicePackets"]

_CHUNK: Final = 1_000
"""Packets handed on in one piece."""
_MOST_KEPT: Final = 10_000
"""Pairs of packets kept to be used again."""


class _Pair:
    """The two packets of a slice, whose message objects are used again for every slice that looks the same.

    Set anew for each is what slices that look the same differ in: times, ``id`` and flow, ``cells`` from columns by
    row, host times, ``numbers`` from columns of arguments, what is ``told`` by row. An instant has no second packet.
    """

    __slots__ = (
        "cells",
        "end",
        "event",
        "flows",
        "host_begin",
        "host_end",
        "id",
        "instant",
        "numbers",
        "packet",
        "serialised",
        "serialised_end",
        "told",
    )

    def __init__(self, one: Slice, uuid: int, interned: Interned) -> None:
        trace, self.packet = new_packet()
        self.serialised = trace.SerializeToString
        self.event = event = self.packet.track_event
        event.type = TrackEvent.TYPE_INSTANT if one.instant else TrackEvent.TYPE_SLICE_BEGIN
        event.track_uuid = uuid
        event.name_iid = interned.name(one.title)
        event.category_iids.extend(interned.category(word) for word in one.category.split(","))
        self.flows = event.flow_ids if one.leaves else event.terminating_flow_ids
        if one.leaves or one.arrives:
            self.flows.append(0)
        self.id: Any = None
        self.cells: list[tuple[Any, Sequence[int]]] = []
        self.host_begin: Any = None
        self.host_end: Any = None
        self.numbers: list[tuple[Any, ArgColumn]] = []
        self.told: list[tuple[Any, Mapping[int, int] | Mapping[int, float]]] = []
        self.instant = one.instant
        trace, self.end = new_packet()
        self.serialised_end = trace.SerializeToString
        self.end.track_event.type = TrackEvent.TYPE_SLICE_END
        self.end.track_event.track_uuid = uuid


class SlicePackets:
    """The packets of all slices; ``uuids`` are those of the rows, times count from ``base``."""

    def __init__(
        self, recording: Recording, layout: Layout, uuids: Sequence[int], base: int, interned: Interned
    ) -> None:
        self._spans, self._origin = recording.spans, recording.origin_ns
        self._launched = layout.launches.span
        self._arguments = SpanArguments(recording)
        self._slices = Slices(recording, layout)
        self._uuids, self._base, self._interned = uuids, base, interned

    def all(self) -> Iterator[bytes]:
        """Every packet, in the order of time and framed, many at once."""
        base, times, ends, interned = self._base, self._slices.begin, self._slices.end, self._interned
        rows, launched, alike, flow = len(self._spans), self._launched, self._alike(), self._slices.flow
        pairs: dict[int, _Pair] = {}
        made: list[bytes] = []
        for at in closing(self._slices):
            item = at if at >= 0 else ~at
            pair = pairs.get(alike[item])
            if pair is None:
                if len(pairs) >= _MOST_KEPT:
                    pairs.clear()
                pair = pairs[alike[item]] = self._pair(item)
                if interned.pending:
                    made.append(interned.definitions())
            if at < 0:
                if not pair.instant:
                    pair.end.timestamp = ends[item] - base
                    made.append(pair.serialised_end())
                continue
            pair.packet.timestamp = times[item] - base
            if item < rows:
                row = item
                self._set(pair, row)
            else:
                row = launched[item - rows]
            pair.id.int_value = row
            if pair.flows:
                pair.flows[0] = flow(row)
            made.append(pair.serialised())
            if len(made) >= _CHUNK:
                yield b"".join(made)
                made.clear()
        yield b"".join(made)

    def _alike(self) -> array[int]:
        """By item a number that is the same where one pair of packets serves."""
        spans = self._spans
        lacking = (map(NONE.__eq__, column) for column in (spans.parent, spans.generation, spans.number))
        return self._slices.alike(self._arguments.alike, spans.flags, *lacking)

    def _set(self, pair: _Pair, row: int) -> None:
        """Set what a span has and a launch has not."""
        for annotation, column in pair.cells:
            annotation.int_value = column[row]
        pair.host_begin.int_value = self._spans.host_begin[row] - self._origin
        pair.host_end.int_value = self._spans.host_end[row] - self._origin
        for annotation, numbers in pair.numbers:
            annotation.int_value = number_at(numbers, row)
        for annotation, told in pair.told:
            value = told[row]
            if isinstance(value, int):
                annotation.int_value = value
            else:
                annotation.double_value = value

    def _pair(self, item: int) -> _Pair:
        """The packets of an item and what is like it; a span's arguments in the order of :meth:`SpanArguments.of`."""
        one, spans, row = self._slices[item], self._spans, item
        pair = _Pair(one, self._uuids[one.row], self._interned)
        if one.derived:
            pair.id = self._argument(pair, "span")
            return pair
        pair.id = self._argument(pair, ID)
        number_key = self._arguments.number_key(row)
        for key, column in ((PARENT, spans.parent), (GENERATION, spans.generation), (number_key, spans.number)):
            if column[row] != NONE:
                pair.cells.append((self._argument(pair, key), column))
        pair.host_begin, pair.host_end = self._argument(pair, HOST_BEGIN), self._argument(pair, HOST_END)
        if spans.flags[row]:
            self._argument(pair, INCOMPLETE).int_value = spans.flags[row]
        if names.full(one.title) != one.look.name:
            self._argument(pair, NAME).string_value_iid = self._interned.value(one.look.name)
        for key, value in self._arguments.parts(row):
            annotation = self._argument(pair, key)
            if isinstance(value, str):
                annotation.string_value_iid = self._interned.value(value)
            else:
                pair.numbers.append((annotation, value))
        self._tell(pair, row)
        return pair

    def _tell(self, pair: _Pair, row: int) -> None:
        """Add what is derived, in the order of :meth:`DerivedArguments.of`."""
        told = self._slices.told
        numbers, texts = told.numbers(row), told.texts(row)
        if not (numbers or texts):
            return
        entries = self._argument(pair, TOLD).dict_entries
        for key, column in numbers:
            pair.told.append((entries.add(name=key), column))
        for key, text in texts:
            entries.add(name=key, string_value=text)

    def _argument(self, pair: _Pair, key: str) -> Any:
        return pair.event.debug_annotations.add(name_iid=self._interned.key(key))

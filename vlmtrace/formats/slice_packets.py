"""Slice packets: where slices begin and end, as the packets of a Perfetto trace, two to a span."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import DebugAnnotation, TrackEvent

from vlmtrace.formats.arguments import GENERATION, HOST_BEGIN, HOST_END, ID, INCOMPLETE, NAME, PARENT, SpanArguments
from vlmtrace.formats.layout import Layout
from vlmtrace.formats.packets import Interned, new_packet
from vlmtrace.formats.slices import Look, Slice, closing, slices
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording
from vlmtrace.timeline.spans import NONE

__all__ = ["SlicePackets"]

_CHUNK: Final = 1_000
"""Packets handed on in one piece."""
_MOST_KEPT: Final = 10_000
"""Begins kept to be used again."""


class _Begin:
    """A packet whose message objects are used again for every slice that looks the same and has the same arguments.

    ``places`` are the arguments that all spans have, ``own`` those of their own.
    """

    def __init__(self, look: Look, uuid: int, flows: bool, interned: Interned) -> None:
        self.trace, self.packet = new_packet()
        self.event = event = self.packet.track_event
        event.type = TrackEvent.TYPE_INSTANT if look.instant else TrackEvent.TYPE_SLICE_BEGIN
        event.track_uuid = uuid
        event.name_iid = interned.name(look.title)
        event.category_iids.extend(interned.category(word) for word in look.category.split(","))
        self.flows = event.flow_ids if look.derived else event.terminating_flow_ids
        if flows:
            self.flows.append(0)
        self.places: list[Any] = []
        self.own: list[Any] = []


class SlicePackets:
    """The packets of all slices; ``uuids`` are those of the rows, times count from ``base``."""

    def __init__(self, recording: Recording, uuids: Sequence[int], base: int, interned: Interned) -> None:
        self._recording, self._spans, self._origin = recording, recording.spans, recording.origin_ns
        self._arguments = SpanArguments(recording)
        self._uuids, self._base, self._interned = uuids, base, interned
        self._begins: dict[tuple[object, ...], _Begin] = {}

    def all(self, layout: Layout) -> Iterator[bytes]:
        """Every packet, in the order of time and framed, many at once."""
        base, uuids, interned = self._base, self._uuids, self._interned
        trace, end_packet = new_packet()
        end_event = end_packet.track_event
        end_event.type = TrackEvent.TYPE_SLICE_END
        made: list[bytes] = []
        for one, end in closing(slices(self._recording, layout)):
            if end is not None:
                end_packet.timestamp = end - base
                end_event.track_uuid = uuids[one.look.row]
                made.append(trace.SerializeToString())
                continue
            begin = self._launch(one) if one.look.derived else self._span(one)
            begin.packet.timestamp = one.begin - base
            if one.flow is not None:
                begin.flows[0] = one.flow
            if interned.pending:
                made.append(interned.definitions())
            made.append(begin.trace.SerializeToString())
            if len(made) >= _CHUNK:
                yield b"".join(made)
                made.clear()
        yield b"".join(made)

    def _launch(self, one: Slice) -> _Begin:
        shape = (one.look, one.flow is None)
        begin = self._begins.get(shape)
        if begin is None:
            begin = self._made(one, shape)
            begin.places.append(self._argument(begin, "span"))
        begin.places[0].int_value = one.span
        return begin

    def _span(self, one: Slice) -> _Begin:
        """The packet in which a span begins, with its arguments in the order of :meth:`SpanArguments.of`."""
        spans, origin, row = self._spans, self._origin, one.span
        parent, generation, number = spans.parent[row], spans.generation[row], spans.number[row]
        flags, own = spans.flags[row], self._arguments.own(row)
        lacks = (parent == NONE, generation == NONE, number == NONE)
        shape: tuple[object, ...] = (one.look, one.flow is None, lacks, flags)
        if own:
            shape += tuple([key for key, _ in own])
        begin = self._begins.get(shape)
        if begin is None:
            begin = self._made(one, shape)
            number_key = self._arguments.number_key(row)
            keys = {ID: row, PARENT: parent, GENERATION: generation, number_key: number, HOST_BEGIN: 0, HOST_END: 0}
            # What a span lacks is set in an argument that is none of the packet's.
            begin.places = [
                DebugAnnotation() if value == NONE else self._argument(begin, key) for key, value in keys.items()
            ]
            if flags:
                self._argument(begin, INCOMPLETE).int_value = flags
            if names.full(one.look.title) != one.look.name:
                self._argument(begin, NAME).string_value_iid = self._interned.value(one.look.name)
            begin.own = [self._argument(begin, key) for key, _ in own]
        values = (row, parent, generation, number, spans.host_begin[row] - origin, spans.host_end[row] - origin)
        for annotation, value in zip(begin.places, values, strict=True):
            annotation.int_value = value
        if own:
            self._set_own(begin, own)
        return begin

    def _set_own(self, begin: _Begin, own: Sequence[tuple[str, int | str]]) -> None:
        for annotation, (_, value) in zip(begin.own, own, strict=True):
            if isinstance(value, int):
                annotation.int_value = value
            else:
                annotation.string_value_iid = self._interned.value(value)

    def _made(self, one: Slice, shape: tuple[object, ...]) -> _Begin:
        if len(self._begins) >= _MOST_KEPT:
            self._begins.clear()
        begin = self._begins[shape] = _Begin(one.look, self._uuids[one.look.row], one.flow is not None, self._interned)
        return begin

    def _argument(self, begin: _Begin, key: str) -> Any:
        return begin.event.debug_annotations.add(name_iid=self._interned.key(key))

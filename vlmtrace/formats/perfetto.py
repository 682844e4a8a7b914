"""Perfetto: a recording as the packets of a Perfetto trace (``.pftrace``).

The first packet sets the clocks: times are those of the host's monotonic clock, and one snapshot says which wall-clock
time the origin was. All others travel in compressed batches, which every Perfetto importer unpacks. The document is an
argument of the one instant ``recording``. Text that recurs is interned; a packet that needs it follows the packet that
defines it.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import (
    BUILTIN_CLOCK_BOOTTIME,
    BUILTIN_CLOCK_MONOTONIC,
    BUILTIN_CLOCK_REALTIME,
    CounterDescriptor,
    TracePacket,
    TrackDescriptor,
    TrackEvent,
)

from vlmtrace.formats.arguments import SpanArguments
from vlmtrace.formats.document import dumped
from vlmtrace.formats.facts import facts
from vlmtrace.formats.layout import COUNTER, COUNTERS, GROUP, TRACK, Layout, Process, Row, layout_of
from vlmtrace.formats.slices import Slice, closing, earliest, series, slices
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording

__all__ = ["DOCUMENT", "DOCUMENT_CATEGORY", "FRAME", "counter_of", "track_of", "written"]

FRAME: Final = b"\x0a"
"""The tag that stands before the length of each packet of a trace."""
DOCUMENT: Final = "document"
"""The argument of the instant ``recording`` that holds the document."""
DOCUMENT_CATEGORY: Final = "vlmtrace.document"

_SEQUENCE: Final = 1
_FIRST: Final = TracePacket.SEQ_INCREMENTAL_STATE_CLEARED | TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
_LATER: Final = TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
_BATCH: Final = 256 * 1024
_LEVEL: Final = 1  # the highest makes files of a million spans an eighth smaller and takes twice the time
_SHORT_HEADS: Final = tuple(FRAME + bytes((size,)) for size in range(0x80))
_UNITS: Final = {"bytes": CounterDescriptor.UNIT_SIZE_BYTES, "count": CounterDescriptor.UNIT_COUNT}

# What a track is stands in the two lowest bits of its uuid, which one in the others.
_IS_PROCESS, _IS_TRACK, _IS_COUNTER, _IS_ROW = range(4)


def track_of(uuid: int) -> int | None:
    """The recording's track whose slices are on the track ``uuid``, ``None`` where they are derived."""
    return uuid // 4 - 1 if uuid % 4 == _IS_TRACK else None


def counter_of(uuid: int) -> int | None:
    """The recording's counter whose samples are on the track ``uuid``, ``None`` where they are derived."""
    return uuid // 4 - 1 if uuid % 4 == _IS_COUNTER else None


def _uuid(kind: int, number: int) -> int:
    return 4 * (number + 1) + kind


def _row_uuid(row: Row) -> int:
    if row.index is not None and row.kind in (TRACK, COUNTER):
        return _uuid(_IS_TRACK if row.kind == TRACK else _IS_COUNTER, row.index)
    return _uuid(_IS_ROW, row.number)


def written(recording: Recording) -> Iterator[bytes]:
    """The trace of ``recording``, in chunks of about a hundred kilobytes."""
    layout = layout_of(recording)
    start = earliest(recording, layout)
    base = min(0, start, recording.origin_ns)  # a trace knows no time below 0
    yield framed(_clocks(recording, base))
    batch = bytearray()
    for packet in _Packets(recording, layout, base).all(start):
        batch += framed(packet)
        if len(batch) >= _BATCH:
            yield _compressed(batch)
            batch.clear()
    if batch:
        yield _compressed(batch)


def framed(packet: bytes) -> bytes:
    """A serialised packet as it stands in a trace: tag, length, packet."""
    size = len(packet)
    if size < 0x80:
        return _SHORT_HEADS[size] + packet
    head = bytearray(FRAME)
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + packet


def _compressed(batch: bytearray) -> bytes:
    packet: bytes = TracePacket(compressed_packets=zlib.compress(bytes(batch), _LEVEL)).SerializeToString()
    return framed(packet)


def _clocks(recording: Recording, base: int) -> bytes:
    at = recording.origin_ns - base
    packet = TracePacket(trusted_packet_sequence_id=_SEQUENCE, sequence_flags=_FIRST)
    packet.trace_packet_defaults.timestamp_clock_id = BUILTIN_CLOCK_MONOTONIC
    snapshot = packet.clock_snapshot
    snapshot.primary_trace_clock = BUILTIN_CLOCK_MONOTONIC
    for clock, time in (
        (BUILTIN_CLOCK_MONOTONIC, at),
        (BUILTIN_CLOCK_BOOTTIME, at),
        (BUILTIN_CLOCK_REALTIME, max(0, recording.origin_unix_ns)),
    ):
        snapshot.clocks.add(clock_id=clock, timestamp=time)
    made: bytes = packet.SerializeToString()
    return made


class _Interned:
    """Numbers for text that recurs; text met for the first time is queued for the next packet of definitions."""

    def __init__(self) -> None:
        self._tables: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._new: Any = TracePacket(trusted_packet_sequence_id=_SEQUENCE, sequence_flags=_LATER)
        self.pending = False

    def name(self, text: str) -> int:
        return self._number("event_names", text)

    def category(self, text: str) -> int:
        return self._number("event_categories", text)

    def key(self, text: str) -> int:
        return self._number("debug_annotation_names", text)

    def value(self, text: str) -> int:
        return self._number("debug_annotation_string_values", text)

    def _number(self, table: str, text: str) -> int:
        numbers = self._tables[table]
        number = numbers.get(text)
        if number is None:
            number = numbers[text] = len(numbers) + 1
            entry = getattr(self._new.interned_data, table).add(iid=number)
            if table == "debug_annotation_string_values":
                entry.str = text.encode(errors="surrogatepass")
            else:
                entry.name = text
            self.pending = True
        return number

    def definitions(self) -> bytes:
        """The packet that defines what was numbered since the last one."""
        made: bytes = self._new.SerializeToString()
        self._new.ClearField("interned_data")
        self.pending = False
        return made


class _Begin:
    """A begin packet whose message objects are used again for every slice with the same arguments."""

    def __init__(self, keys: Mapping[str, int | str], interned: _Interned) -> None:
        self.packet: Any = TracePacket(trusted_packet_sequence_id=_SEQUENCE, sequence_flags=_LATER)
        self.event = self.packet.track_event
        self.annotations = [self.event.debug_annotations.add(name_iid=interned.key(key)) for key in keys]


class _Packets:
    def __init__(self, recording: Recording, layout: Layout, base: int) -> None:
        self.recording, self.layout, self.base = recording, layout, base
        self.interned = _Interned()
        self.begins: dict[tuple[object, ...], _Begin] = {}
        self.uuids = [_row_uuid(row) for row in layout.rows]

    def all(self, start: int) -> Iterator[bytes]:
        """Every packet after the first, serialised: rows, the document, slices, counters."""
        for process in self.layout.processes:
            yield self._process(process)
        for row in self.layout.rows:
            yield self._row(row)
        yield from self._document(start)
        yield from self._slices()
        yield from self._counters()

    def _process(self, process: Process) -> bytes:
        """A row with a name, not a process descriptor: the UI sorts the rows of a process by name, whatever their
        ranks, and puts a number behind its title.
        """
        track = TrackDescriptor(
            uuid=_uuid(_IS_PROCESS, process.number),
            name=process.title,
            sibling_order_rank=process.number,
            sibling_merge_behavior=TrackDescriptor.SIBLING_MERGE_BEHAVIOR_NONE,
            child_ordering=TrackDescriptor.EXPLICIT,
        )
        return self._descriptor(track)

    def _row(self, row: Row) -> bytes:
        over = _uuid(_IS_PROCESS, row.process) if row.group is None else self.uuids[row.group]
        track = TrackDescriptor(
            uuid=self.uuids[row.number],
            parent_uuid=over,
            name=row.title,
            sibling_order_rank=row.number,
            sibling_merge_behavior=TrackDescriptor.SIBLING_MERGE_BEHAVIOR_NONE,
        )
        if row.kind == GROUP:
            track.child_ordering = TrackDescriptor.EXPLICIT
        if row.kind in COUNTERS:
            self._unit(track, row.unit)
        return self._descriptor(track)

    def _unit(self, track: Any, unit: str) -> None:
        track.counter.SetInParent()
        if unit in _UNITS:
            track.counter.unit = _UNITS[unit]
        elif unit:
            track.counter.unit_name = unit.encode(errors="replace").decode()

    def _descriptor(self, track: Any) -> bytes:
        packet = TracePacket(
            trusted_packet_sequence_id=_SEQUENCE,
            sequence_flags=_LATER,
            timestamp=self.recording.origin_ns - self.base,
            track_descriptor=track,
        )
        made: bytes = packet.SerializeToString()
        return made

    def _document(self, start: int) -> Iterator[bytes]:
        packet = TracePacket(trusted_packet_sequence_id=_SEQUENCE, sequence_flags=_LATER, timestamp=start - self.base)
        event = packet.track_event
        event.type = TrackEvent.TYPE_INSTANT
        event.track_uuid = self.uuids[self.layout.facts.number]
        event.name_iid = self.interned.name(names.RECORDING)
        event.category_iids.append(self.interned.category(DOCUMENT_CATEGORY))
        for key, value in facts(self.recording).items():
            _annotate(event.debug_annotations.add(name=key), value)
        event.debug_annotations.add(name=DOCUMENT, string_value=dumped(self.recording, self.base))
        yield self.interned.definitions()
        yield packet.SerializeToString()

    def _slices(self) -> Iterator[bytes]:
        arguments = SpanArguments(self.recording)
        end_packet: Any = TracePacket(trusted_packet_sequence_id=_SEQUENCE, sequence_flags=_LATER)
        end_packet.track_event.type = TrackEvent.TYPE_SLICE_END
        base, uuids, interned = self.base, self.uuids, self.interned
        for one, end in closing(slices(self.recording, self.layout)):
            if end is not None:
                end_packet.timestamp = end - base
                end_packet.track_event.track_uuid = uuids[one.row]
                yield end_packet.SerializeToString()
                continue
            args = {"span": one.span} if one.derived else arguments.of(one.span, one.title)
            packet = self._begin(one, args)
            if interned.pending:
                yield interned.definitions()
            yield packet.SerializeToString()

    def _begin(self, one: Slice, args: Mapping[str, int | str]) -> Any:
        shape = (one.category, one.instant, one.derived, one.flow is None, *args)
        begin = self.begins.get(shape)
        if begin is None:
            begin = self.begins[shape] = _Begin(args, self.interned)
            kind = TrackEvent.TYPE_INSTANT if one.instant else TrackEvent.TYPE_SLICE_BEGIN
            begin.event.type = kind
            begin.event.category_iids.extend(self.interned.category(word) for word in one.category.split(","))
            if one.flow is not None:
                flows = begin.event.flow_ids if one.derived else begin.event.terminating_flow_ids
                flows.append(one.flow)
        event, packet = begin.event, begin.packet
        packet.timestamp = one.begin - self.base
        event.track_uuid = self.uuids[one.row]
        event.name_iid = self.interned.name(one.title)
        if one.flow is not None:
            (event.flow_ids if one.derived else event.terminating_flow_ids)[0] = one.flow
        for annotation, value in zip(begin.annotations, args.values(), strict=True):
            if isinstance(value, int):
                annotation.int_value = value
            else:
                annotation.string_value_iid = self.interned.value(value)
        return packet

    def _counters(self) -> Iterator[bytes]:
        packet: Any = TracePacket(trusted_packet_sequence_id=_SEQUENCE, sequence_flags=_LATER)
        event = packet.track_event
        event.type = TrackEvent.TYPE_COUNTER
        for one in series(self.recording, self.layout):
            event.track_uuid = self.uuids[one.row.number]
            for time, value in zip(one.times, one.values, strict=True):
                packet.timestamp = time - self.base
                event.counter_value = value
                yield packet.SerializeToString()


def _annotate(annotation: Any, value: object) -> None:
    """Write a fact, which may be a dictionary of facts, as an argument."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _annotate(annotation.dict_entries.add(name=str(key)), inner)
    elif isinstance(value, int) and not isinstance(value, bool):
        annotation.int_value = value
    else:
        annotation.string_value = str(value)

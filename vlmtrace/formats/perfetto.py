"""Perfetto: a recording as the packets of a Perfetto trace (``.pftrace``).

The first packet sets the clocks: times are those of the host's monotonic clock, and one snapshot says which wall-clock
time the origin was. All others travel in compressed batches, which every Perfetto importer unpacks. The document is an
argument of the one instant ``recording``. Text that recurs is interned; a packet that needs it follows the packet that
defines it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import (
    BUILTIN_CLOCK_BOOTTIME,
    BUILTIN_CLOCK_MONOTONIC,
    BUILTIN_CLOCK_REALTIME,
    CounterDescriptor,
    Trace,
    TracePacket,
    TrackDescriptor,
    TrackEvent,
)

from vlmtrace.formats.beside import beside
from vlmtrace.formats.document import dumped
from vlmtrace.formats.facts import facts
from vlmtrace.formats.findings import FINDING_CATEGORY, finding_instants
from vlmtrace.formats.layout import COUNTER, COUNTERS, GROUP, TRACK, Layout, Process, Row, layout_of
from vlmtrace.formats.packets import Interned, new_packet
from vlmtrace.formats.slice_packets import SlicePackets
from vlmtrace.formats.slices import earliest, series
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording

__all__ = ["DOCUMENT", "DOCUMENT_CATEGORY", "counter_of", "track_of", "written"]

DOCUMENT: Final = "document"
"""The argument of the instant ``recording`` that holds the document."""
DOCUMENT_CATEGORY: Final = "vlmtrace.document"

_FIRST: Final = TracePacket.SEQ_INCREMENTAL_STATE_CLEARED | TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
_BATCH: Final = 256 * 1024
_LEVEL: Final = 1  # the highest makes files of a million spans an eighth smaller and takes twice the time
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
    yield _clocks(recording, base)
    yield from beside(_compressed, _batches(_Packets(recording, layout, base).all(start)))


def _batches(packets: Iterable[bytes]) -> Iterator[bytes]:
    batch = bytearray()
    for packet in packets:
        batch += packet
        if len(batch) >= _BATCH:
            yield bytes(batch)
            batch.clear()
    if batch:
        yield bytes(batch)


def _compressed(batch: bytes) -> bytes:
    packet = TracePacket(compressed_packets=zlib.compress(batch, _LEVEL))
    made: bytes = Trace(packet=[packet]).SerializeToString()
    return made


def _clocks(recording: Recording, base: int) -> bytes:
    at = recording.origin_ns - base
    trace, packet = new_packet(sequence_flags=_FIRST)
    packet.trace_packet_defaults.timestamp_clock_id = BUILTIN_CLOCK_MONOTONIC
    snapshot = packet.clock_snapshot
    snapshot.primary_trace_clock = BUILTIN_CLOCK_MONOTONIC
    for clock, time in (
        (BUILTIN_CLOCK_MONOTONIC, at),
        (BUILTIN_CLOCK_BOOTTIME, at),
        (BUILTIN_CLOCK_REALTIME, max(0, recording.origin_unix_ns)),
    ):
        snapshot.clocks.add(clock_id=clock, timestamp=time)
    made: bytes = trace.SerializeToString()
    return made


class _Packets:
    def __init__(self, recording: Recording, layout: Layout, base: int) -> None:
        self.recording, self.layout, self.base = recording, layout, base
        self.interned = Interned()
        self.uuids = [_row_uuid(row) for row in layout.rows]

    def all(self, start: int) -> Iterator[bytes]:
        """Every packet after the first, serialised, some together: rows, the document, slices, counters."""
        for process in self.layout.processes:
            yield self._process(process)
        for row in self.layout.rows:
            yield self._row(row)
        yield from self._document(start)
        yield from SlicePackets(self.recording, self.layout, self.uuids, self.base, self.interned).all()
        yield from self._findings()
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
        trace, packet = new_packet(timestamp=self.recording.origin_ns - self.base)
        packet.track_descriptor.CopyFrom(track)
        made: bytes = trace.SerializeToString()
        return made

    def _document(self, start: int) -> Iterator[bytes]:
        trace, packet = new_packet(timestamp=start - self.base)
        event = packet.track_event
        event.type = TrackEvent.TYPE_INSTANT
        event.track_uuid = self.uuids[self.layout.facts.number]
        event.name_iid = self.interned.name(names.RECORDING)
        event.category_iids.append(self.interned.category(DOCUMENT_CATEGORY))
        for key, value in facts(self.recording, len(self.layout.findings)).items():
            _annotate(event.debug_annotations.add(name=key), value)
        event.debug_annotations.add(name=DOCUMENT, string_value=dumped(self.recording, self.base))
        yield self.interned.definitions()
        yield trace.SerializeToString()

    def _findings(self) -> Iterator[bytes]:
        for row, at, name, args in finding_instants(self.recording, self.layout):
            trace, packet = new_packet(timestamp=at - self.base)
            event = packet.track_event
            event.type = TrackEvent.TYPE_INSTANT
            event.track_uuid = self.uuids[row.number]
            event.name_iid = self.interned.name(name)
            event.category_iids.extend(map(self.interned.category, FINDING_CATEGORY.split(",")))
            for key, value in args.items():
                event.debug_annotations.add(name=key, string_value=value)
            if self.interned.pending:
                yield self.interned.definitions()
            yield trace.SerializeToString()

    def _counters(self) -> Iterator[bytes]:
        trace, packet = new_packet()
        event = packet.track_event
        event.type = TrackEvent.TYPE_COUNTER
        for one in series(self.recording, self.layout):
            event.track_uuid = self.uuids[one.row.number]
            for time, value in zip(one.times, one.values, strict=True):
                packet.timestamp = time - self.base
                event.counter_value = value
                yield trace.SerializeToString()


def _annotate(annotation: Any, value: object) -> None:
    """Write a fact, which may be a dictionary of facts, as an argument."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _annotate(annotation.dict_entries.add(name=str(key)), inner)
    elif isinstance(value, int) and not isinstance(value, bool):
        annotation.int_value = value
    else:
        annotation.string_value = str(value)

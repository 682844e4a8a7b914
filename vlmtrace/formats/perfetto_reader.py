"""Perfetto, read: the recording that a ``.pftrace`` file of vlmtrace's holds, packet by packet."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Final

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TracePacket, TrackEvent

from vlmtrace.errors import TraceFormatError
from vlmtrace.formats.collecting import Collector
from vlmtrace.formats.document import loaded
from vlmtrace.formats.packets import FRAME
from vlmtrace.formats.perfetto import DOCUMENT, DOCUMENT_CATEGORY, counter_of, track_of
from vlmtrace.formats.slices import DERIVED
from vlmtrace.timeline.recording import Recording

__all__ = ["read"]

_BEGIN: Final = TrackEvent.TYPE_SLICE_BEGIN
_END: Final = TrackEvent.TYPE_SLICE_END
_INSTANT: Final = TrackEvent.TYPE_INSTANT
_COUNTER: Final = TrackEvent.TYPE_COUNTER
_IGNORED: Final = -1
"""Where a slice that is no span of the recording would stand among the spans."""


def read(stream: BinaryIO) -> Recording:
    """The recording in ``stream``, not validated yet.

    Raises:
        TraceFormatError: another tool wrote it, or it is cut short.
        ValueError: and what else damaged bytes lead to.
    """
    reader = _Reader()
    try:
        for packets in _batches(stream):
            reader.batch(packets)
    except DecodeError as error:
        raise ValueError(str(error)) from None
    return reader.recording()


def _batches(stream: BinaryIO) -> Iterator[Iterable[Any]]:
    """Every packet of the file, alone or as the batch it was compressed in."""
    packet = TracePacket()
    while tag := stream.read(1):
        if tag != FRAME:
            raise TraceFormatError("it is not a Perfetto trace, or damaged", "take another copy")
        size = _length(stream)
        data = stream.read(size)
        if len(data) < size:
            raise _cut_short()
        packet.ParseFromString(data)
        if packet.HasField("compressed_packets"):
            yield Trace.FromString(zlib.decompress(packet.compressed_packets)).packet
        else:
            yield (packet,)


def _length(stream: BinaryIO) -> int:
    size = shift = 0
    while True:
        byte = stream.read(1)
        if not byte:
            raise _cut_short()
        size |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80:
            return size


def _cut_short() -> TraceFormatError:
    return TraceFormatError("it ends in the middle of a packet: it was cut short", "record it again or copy it again")


def _foreign() -> TraceFormatError:
    return TraceFormatError("it is not a trace that vlmtrace wrote", "make one with `vlmtrace record`")


class _Reader:
    def __init__(self) -> None:
        self.collector: Collector | None = None
        self.names: dict[int, str] = {}
        self.keys: dict[int, str] = {}
        self.texts: dict[int, str] = {}
        self.categories: dict[int, str] = {}
        self.open: dict[int, list[int]] = {}
        self.derived = 0

    def batch(self, packets: Iterable[Any]) -> None:
        """Take in packets in their order."""
        for packet in packets:
            event = packet.track_event
            kind = event.type
            if kind == _END:
                position = self.open[event.track_uuid].pop()
                if position != _IGNORED:
                    self._known().end(position, packet.timestamp)
            elif kind in (_BEGIN, _INSTANT):
                self._begin(packet.timestamp, event)
            elif kind == _COUNTER:
                counter = counter_of(event.track_uuid)
                if counter is not None:
                    self._known().sample(counter, packet.timestamp, event.counter_value)
            elif packet.HasField("interned_data"):
                self._define(packet.interned_data)

    def _define(self, data: Any) -> None:
        self.names.update((entry.iid, entry.name) for entry in data.event_names)
        self.keys.update((entry.iid, entry.name) for entry in data.debug_annotation_names)
        for entry in data.debug_annotation_string_values:
            self.texts[entry.iid] = entry.str.decode(errors="surrogatepass")
        for entry in data.event_categories:
            self.categories[entry.iid] = entry.name
            if entry.name == DERIVED:
                self.derived = entry.iid

    def recording(self) -> Recording:
        return self._known().recording()

    def _known(self) -> Collector:
        """The collector, once the document has told of the recording: it stands before any other event."""
        if self.collector is None:
            raise _foreign()
        return self.collector

    def _start(self, event: Any) -> None:
        if [self.categories.get(iid) for iid in event.category_iids] == [DOCUMENT_CATEGORY]:
            for annotation in event.debug_annotations:
                if annotation.name == DOCUMENT:
                    self.collector = Collector(loaded(annotation.string_value))
                    return
        raise _foreign()

    def _begin(self, at: int, event: Any) -> None:
        collector, uuid = self.collector, event.track_uuid
        if collector is None:
            self._start(event)
            return
        if self.derived in event.category_iids:
            if event.type == _BEGIN:
                self.open.setdefault(uuid, []).append(_IGNORED)
            return
        track = track_of(uuid)
        if track is None:
            raise ValueError(f"a span on track {uuid}, which is none of the recording's")
        keys, texts = self.keys, self.texts
        args: dict[str, int | str] = {}
        for annotation in event.debug_annotations:
            value = annotation.int_value
            if value == 0 and annotation.string_value_iid:
                value = texts[annotation.string_value_iid]
            args[keys[annotation.name_iid]] = value
        position = collector.begin(track, self.names[event.name_iid], at, args)
        if event.type == _BEGIN:
            self.open.setdefault(uuid, []).append(position)
        else:
            collector.end(position, at)

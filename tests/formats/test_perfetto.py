"""Perfetto packets, as any reader of the protobuf sees them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from tests import synthetic
from tests.synthetic import ORIGIN, UNIX, Shape
from vlmtrace import formats
from vlmtrace.timeline.recording import Recording


def packets(recording: Recording) -> Iterator[Any]:
    for packet in Trace.FromString(b"".join(formats.write(recording, ".pftrace"))).packet:
        if packet.HasField("compressed_packets"):
            yield from Trace.FromString(zlib.decompress(packet.compressed_packets)).packet
        else:
            yield packet


def test_the_first_packet_sets_the_clock_and_the_time_of_day() -> None:
    first, *rest = packets(synthetic.recording())
    assert first.sequence_flags == 3
    assert first.trace_packet_defaults.timestamp_clock_id == 3
    assert first.clock_snapshot.primary_trace_clock == 3
    assert {c.clock_id: c.timestamp for c in first.clock_snapshot.clocks} == {3: ORIGIN, 6: ORIGIN, 1: UNIX}
    assert not any(packet.HasField("clock_snapshot") for packet in rest)


def test_every_packet_is_of_one_sequence_and_may_use_its_definitions() -> None:
    _, *rest = packets(synthetic.recording())
    assert {(packet.trusted_packet_sequence_id, packet.sequence_flags) for packet in rest} == {(1, 2)}


def test_text_is_defined_once_and_before_its_use() -> None:
    known: dict[str, set[int]] = {"event_names": set(), "event_categories": set(), "debug_annotation_names": set()}
    for packet in packets(synthetic.recording(Shape(), Shape())):
        for table, iids in known.items():
            new = [entry.iid for entry in getattr(packet.interned_data, table)]
            assert not iids & set(new)
            iids.update(new)
        event = packet.track_event
        assert event.name_iid == 0 or event.name_iid in known["event_names"]
        assert set(event.category_iids) <= known["event_categories"]
        assert {a.name_iid for a in event.debug_annotations if not a.name} <= known["debug_annotation_names"]


def test_a_long_recording_is_written_in_several_chunks_of_bounded_size() -> None:
    recording = synthetic.recording(*[Shape(steps=100)] * 50)
    chunks = list(formats.write(recording, ".pftrace"))
    assert len(chunks) > 3
    assert max(map(len, chunks)) < 256 * 1024


def test_tracks_are_described_before_anything_is_on_them() -> None:
    described = set()
    for packet in packets(synthetic.recording()):
        if packet.HasField("track_descriptor"):
            assert packet.track_descriptor.parent_uuid in described | {0}
            described.add(packet.track_descriptor.uuid)
        elif packet.HasField("track_event"):
            assert packet.track_event.track_uuid in described


def test_begins_and_ends_come_in_time_order() -> None:
    every = list(packets(synthetic.recording()))
    rows = {packet.track_descriptor.uuid: packet.track_descriptor.name for packet in every}
    events = [packet for packet in every if packet.HasField("track_event")]
    findings = [packet for packet in events if rows[packet.track_event.track_uuid].startswith("! ")]
    assert len(findings) == 2
    events = [packet for packet in events if packet not in findings]
    kinds = (TrackEvent.TYPE_SLICE_BEGIN, TrackEvent.TYPE_SLICE_END, TrackEvent.TYPE_INSTANT)
    times = [packet.timestamp for packet in events if packet.track_event.type in kinds]
    assert times == sorted(times)
    begins = sum(packet.track_event.type == TrackEvent.TYPE_SLICE_BEGIN for packet in events)
    assert begins == sum(packet.track_event.type == TrackEvent.TYPE_SLICE_END for packet in events)

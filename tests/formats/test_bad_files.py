"""Files that are no traces, not vlmtrace's, or damaged: one line that names the file and says what to do."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from tests import synthetic
from vlmtrace import formats
from vlmtrace.errors import TraceFormatError, UsageError
from vlmtrace.timeline.recording import Counter

WHOLE = {suffix: b"".join(formats.write(synthetic.recording(), suffix)) for suffix in formats.FORMATS}
every_format = pytest.mark.parametrize("suffix", formats.FORMATS)


def refusal(path: Path, data: bytes) -> str:
    """The one line with which ``data`` is refused."""
    path.write_bytes(data)
    with pytest.raises(TraceFormatError) as caught:
        formats.read(path)
    text = str(caught.value)
    assert "\n" not in text
    assert f'"{path}"' in text
    assert caught.value.remedy
    return text


def of_another_tool() -> bytes:
    trace = Trace()
    for kind in (TrackEvent.TYPE_SLICE_BEGIN, TrackEvent.TYPE_SLICE_END):
        packet = trace.packet.add(timestamp=1, trusted_packet_sequence_id=3)
        packet.track_event.type = kind
        packet.track_event.name = "kernel"
    made: bytes = trace.SerializeToString()
    return made


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (gzip.compress(b"", mtime=0), "empty"),
        (b"SQLite format 3\0", "not a trace that vlmtrace wrote"),
        (b"hello", "not a trace that vlmtrace wrote"),
        (b'{"traceEvents":[]}', "not a trace that vlmtrace wrote"),
        (b"[]", "not a trace that vlmtrace wrote"),
        (b'{"schemaVersion":1,"traceEvents":[{"ph":"X"', "not JSON, or cut short"),
        (of_another_tool(), "not a trace that vlmtrace wrote"),
        (b'{"otherData":{"vlmtrace":{"format":"vlmtrace","version":99}},"traceEvents":[]}', "update vlmtrace"),
        (b"\xff\xfe{", "not a trace that vlmtrace wrote"),
        (b'{"a":"\xff"}', "damaged"),
    ],
)
def test_what_is_no_trace_of_vlmtrace_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    assert says in refusal(tmp_path / "odd.pftrace", data)


@every_format
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, suffix: str) -> None:
    whole = WHOLE[suffix]
    keep_to = len(whole) - (2 if suffix == ".json" else 0)  # the closing line without its end is still whole
    for end in sorted({1, 2, 3, *range(5, keep_to, max(1, len(whole) // 60)), keep_to - 1}):
        refusal(tmp_path / f"cut{suffix}", whole[:end])


def test_packets_missing_at_the_end_are_noticed_also_where_every_slice_is_closed(tmp_path: Path) -> None:
    base = synthetic.recording()
    times = type(base.spans.begin)("q", [base.origin_ns])
    recording = replace(base, counters=(Counter("lead", "µs", 0, times, times),))
    clocks, batch = Trace.FromString(b"".join(formats.write(recording, ".pftrace"))).packet
    inner = Trace.FromString(zlib.decompress(batch.compressed_packets))
    while inner.packet[-1].track_event.counter_value != base.origin_ns:
        del inner.packet[-1]
    del inner.packet[-1]
    cut = Trace(packet=[clocks, *inner.packet]).SerializeToString()
    assert "0 of 1 counter samples" in refusal(tmp_path / "cut.pftrace", cut)


@every_format
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_bytes_never_lead_to_anything_but_the_one_line(
    tmp_path: Path, suffix: str, data: st.DataObject
) -> None:
    damaged = bytearray(WHOLE[suffix])
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=3)):
        damaged[at] = data.draw(st.integers(0, 255))
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(bytes(damaged))
    try:
        formats.read(path)
    except TraceFormatError as error:
        assert "\n" not in str(error)  # noqa: PT017
    finally:
        path.unlink()  # what the damage spares is read, though Perfetto may refuse the file


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damage_inside_a_compressed_batch_is_told_in_one_line_too(tmp_path: Path, data: st.DataObject) -> None:
    clocks, batch = Trace.FromString(WHOLE[".pftrace"]).packet
    inner = bytearray(zlib.decompress(batch.compressed_packets))
    for at in data.draw(st.lists(st.integers(0, len(inner) - 1), min_size=1, max_size=3)):
        inner[at] = data.draw(st.integers(0, 255))
    batch.compressed_packets = zlib.compress(bytes(inner))
    path = tmp_path / "damaged.pftrace"
    path.write_bytes(Trace(packet=[clocks, batch]).SerializeToString())
    try:
        formats.read(path)
    except TraceFormatError as error:
        assert "\n" not in str(error)  # noqa: PT017
    finally:
        path.unlink()  # what the damage spares is read, though Perfetto may refuse the file


def test_a_recording_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    trace = json.loads(WHOLE[".json"])
    (vision,) = (event for event in trace["traceEvents"] if event["name"] == "vision")
    vision["dur"] += 1
    said = refusal(tmp_path / "odd.json", json.dumps(trace).encode())
    assert "contradicts itself" in said


def test_a_span_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    trace = json.loads(WHOLE[".json"])
    (vision,) = (event for event in trace["traceEvents"] if event["name"] == "vision")
    vision["args"]["id"] = 0
    assert "ids do not count up" in refusal(tmp_path / "odd.json", json.dumps(trace).encode())


def test_a_file_that_is_not_there_is_the_operating_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        formats.read(tmp_path / "absent.pftrace")


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.pftrace", ".pftrace"), ("a.b.JSON", ".json"), ("a.json.gz", ".json.gz")]
)
def test_the_format_follows_from_the_name(name: str, suffix: str) -> None:
    assert formats.format_of(Path(name)) == suffix


@pytest.mark.parametrize("name", ["a.txt", "pftrace", "a.gz"])
def test_a_name_of_no_format_is_a_usage_error_that_lists_them(name: str) -> None:
    with pytest.raises(UsageError, match=r"\.pftrace, \.json, \.json\.gz") as caught:
        formats.format_of(Path(name))
    assert f'"{name}"' in str(caught.value)


def test_writing_an_unknown_format_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"\.pftrace, \.json, \.json\.gz"):
        formats.write(synthetic.recording(), ".xml")

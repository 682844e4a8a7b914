"""``vlmtrace check`` finds each way in which an importer loses or mixes up slices, in real files that have it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TracePacket, TrackEvent

from tests import synthetic
from tests.kernels import with_kernels
from tests.synthetic import Shape
from vlmtrace import api, formats
from vlmtrace.viewer import builds

BEGIN, END = TrackEvent.TYPE_SLICE_BEGIN, TrackEvent.TYPE_SLICE_END
ROW = {"ph": "X", "pid": 1, "tid": 2}


def event(at: int, kind: int, **fields: Any) -> Any:
    """A packet of another tool's trace: a slice's begin or end on the one track there is."""
    packet = TracePacket(timestamp=at, trusted_packet_sequence_id=1)
    packet.track_event.type = kind
    packet.track_event.track_uuid = 1
    for name, value in fields.items():
        setattr(packet.track_event, name, value)
    return packet


def write_packets(packets: Iterable[Any], name: str = "other.pftrace") -> Path:
    path = Path(name)
    path.write_bytes(Trace(packet=packets).SerializeToString())
    return path


def write_events(*events: dict[str, Any]) -> Path:
    path = Path("other.json")
    path.write_text(json.dumps({"traceEvents": events}))
    return path


def track() -> Any:
    packet = TracePacket(timestamp=0, trusted_packet_sequence_id=1)
    packet.track_descriptor.uuid = 1
    packet.track_descriptor.name = "row"
    return packet


def nameless() -> list[Any]:
    """A name by number, from a sequence that never said where its numbers begin."""
    named = event(10, BEGIN, name_iid=1)
    named.interned_data.event_names.add(iid=1, name="lost")
    return [track(), event(5, BEGIN, name="kept"), event(6, END), named, event(20, END)]


def without_a_beginning() -> list[Any]:
    """Packets that need what their sequence defined before, where it defined nothing: the importer drops them."""
    packets = nameless()
    packets[3].sequence_flags = TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
    return packets


def without_a_clock() -> list[Any]:
    """A time of a clock that no snapshot ties to the trace's."""
    begin = event(10, BEGIN, name="kept")
    begin.timestamp_clock_id = 3
    return [track(), begin, event(20, BEGIN, name="good"), event(30, END)]


GOOD = [track(), event(10, BEGIN, name="a"), event(20, END), event(20, BEGIN, name="b"), event(30, END)]

OTHERS: dict[str, tuple[Callable[[], Path], str, str]] = {
    "a slice without an end": (
        lambda: write_packets([track(), event(10, BEGIN, name="open")]),
        "unfinished",
        "1 have no end",
    ),
    "a begin of Chrome's without an end": (
        lambda: write_events({**ROW, "ph": "B", "ts": 1, "name": "open"}),
        "unfinished",
        "1 have no end",
    ),
    "a slice whose name is not known": (lambda: write_packets(nameless()), "nameless", "1 have no name"),
    "packets that nothing came before": (
        lambda: write_packets(without_a_beginning()),
        "errors",
        "tokenizer_skipped_packets 2",
    ),
    "a time on a clock that is not known": (
        lambda: write_packets(without_a_clock()),
        "clock",
        "clock_sync_failure",
    ),
    "slices of one row that overlap": (
        lambda: write_events({**ROW, "ts": 0, "dur": 9, "name": "a"}, {**ROW, "ts": 5, "dur": 9, "name": "b"}),
        "overlaps",
        "slice_drop_overlapping_complete_event 1",
    ),
    "an arrow that ends before it starts": (
        lambda: write_events(
            {**ROW, "ts": 0, "dur": 9, "name": "a", "bind_id": "0x1", "flow_in": True},
            {**ROW, "ts": 20, "dur": 9, "name": "b", "bind_id": "0x1", "flow_out": True},
        ),
        "flows",
        "flow_end_without_start 1",
    ),
    "an arrow that goes on but never started": (
        lambda: write_events(
            {**ROW, "ts": 0, "dur": 9, "name": "a"},
            {**ROW, "ph": "t", "ts": 1, "name": "arrow", "cat": "x", "id": "0x1"},
        ),
        "flows",
        "flow_step_without_start 1",
    ),
    "a time before zero": (
        lambda: write_events({**ROW, "ts": -5, "dur": 1, "name": "a"}, {**ROW, "ts": 5, "dur": 1, "name": "b"}),
        "errors",
        "trace_sorter_negative_timestamp_dropped 1",
    ),
}


def failures(typed: Any) -> dict[str, str]:
    """The checks that failed, and what was said of each."""
    lines = [line.removeprefix("  FAIL  ") for line in typed.out.splitlines() if line.startswith("  FAIL")]
    return dict(line.split(": ", 1) for line in lines)


@pytest.mark.parametrize("defect", OTHERS)
def test_each_defect_of_another_tools_trace_is_found(type_in: Callable, folder: Path, defect: str) -> None:
    make, name, said = OTHERS[defect]
    typed = type_in("check", make())
    assert typed.code == 1
    assert said in failures(typed)[name]
    assert set(failures(typed)) <= {name, "unfinished", "errors"}
    assert typed.err == "vlmtrace: error: the trace failed\n"


def test_a_sound_trace_of_another_tool_passes_and_says_what_was_not_compared(type_in: Callable, folder: Path) -> None:
    typed = type_in("check", write_packets(GOOD))
    assert (typed.code, typed.err) == (0, "")
    assert "  ok    slices: 2 slices, with nothing to compare them with" in typed.out.splitlines()


def test_a_file_that_cannot_be_imported_fails(type_in: Callable, folder: Path) -> None:
    Path("cut.json").write_text('{"traceEvents":[{"ph":"X"')
    typed = type_in("check", "cut.json", "missing.pftrace")
    assert typed.code == 1
    assert typed.out.count("FAIL  import: ") == 2
    assert "cannot read 'missing.pftrace': No such file or directory" in typed.out
    assert typed.err == "vlmtrace: error: 2 of 2 traces failed\n"


@pytest.mark.parametrize("suffix", formats.FORMATS)
@pytest.mark.parametrize("device", [0, None])
def test_what_vlmtrace_writes_passes_slice_by_slice(
    type_in: Callable, folder: Path, suffix: str, device: int | None
) -> None:
    made = synthetic.recording(Shape(vision_inside=True), Shape(steps=0), device=device)
    api.save(made, f"run{suffix}")
    typed = type_in("check", f"run{suffix}", "--format", "json")
    assert (typed.code, typed.err) == (0, "")
    document = json.loads(typed.out)
    assert (document["format"], document["version"]) == ("vlmtrace.check", 1)
    ((trace),) = document["traces"]
    assert trace["trace"] == f"run{suffix}"
    counted = {one["check"]: one["counted"] for one in trace["checks"]}
    launches = (
        0
        if device is None
        else sum(span.name in ("generate", "vision", "prefill", "decode", "decode.step") for span in made.spans)
    )
    tokens = 0 if device is None else sum(span.name == "token" for span in made.spans)
    assert counted["arrows"] == launches + tokens
    assert counted["slices"] == len(made.spans) + launches + 1
    assert counted["samples"] > 0
    assert all(one["ok"] and one["problem"] is None for one in trace["checks"])


def test_a_trace_with_kernels_passes(type_in: Callable, folder: Path) -> None:
    api.save(with_kernels(synthetic.recording(Shape(), Shape())), "paired.pftrace")
    assert type_in("check", "paired.pftrace").code == 0


def packets_of(path: Path) -> list[Any]:
    """The packets of a trace, unpacked, so that they can be tampered with."""
    made = []
    for packet in Trace.FromString(path.read_bytes()).packet:
        packed = packet.compressed_packets
        made.extend(Trace.FromString(zlib.decompress(packed)).packet if packed else [packet])
    return made


def is_derived(packet: Any) -> bool:
    """Whether it begins a launch, whose one argument is the span that it launched."""
    event = packet.track_event
    return event.type == BEGIN and bool(event.flow_ids) and len(event.debug_annotations) == 1


def a_launch(packets: list[Any]) -> tuple[int, int]:
    """Where a derived slice begins and ends, with none inside it; a recording is read back without a look at it."""
    begin = max(at for at, packet in enumerate(packets) if is_derived(packet))
    row = packets[begin].track_event.track_uuid
    for end in range(begin + 1, len(packets)):
        packet = packets[end].track_event
        if packet.track_uuid == row and packet.type in (BEGIN, END):
            assert packet.type == END
            return begin, end
    raise AssertionError("it has no end")


def lose_a_launch(packets: list[Any]) -> None:
    begin, end = a_launch(packets)
    del packets[end], packets[begin]


def lengthen_a_launch(packets: list[Any]) -> None:
    packets[a_launch(packets)[1]].timestamp += 1


def leave_a_launch_open(packets: list[Any]) -> None:
    del packets[a_launch(packets)[1]]


def turn_an_arrow(packets: list[Any]) -> None:
    """Two launches that point to each other's stage."""
    one, other = [packet.track_event.flow_ids for packet in packets if is_derived(packet)][-2:]
    one[0], other[0] = other[0], one[0]


def lose_an_arrow(packets: list[Any]) -> None:
    next(packet for packet in packets if is_derived(packet)).track_event.ClearField("flow_ids")


def lose_a_sample(packets: list[Any]) -> None:
    packets.pop()


def lose_the_sequence(packets: list[Any]) -> None:
    """Events of no sequence: this importer drops them all."""
    for packet in packets:
        if packet.HasField("track_event"):
            packet.ClearField("trusted_packet_sequence_id")


def lose_a_span(packets: list[Any]) -> None:
    del packets[instants(packets)[-3]]


def lose_a_finding(packets: list[Any]) -> None:
    del packets[instants(packets)[-1]]


def instants(packets: list[Any]) -> list[int]:
    """Where they are: what was recorded, tokens, and at the end two findings."""
    return [at for at, packet in enumerate(packets) if packet.track_event.type == TrackEvent.TYPE_INSTANT]


def swap_end_and_begin(packets: list[Any]) -> None:
    """An end behind the begin at the same time: the importer takes the one slice's end for the other's."""
    ends = {}
    for at, packet in enumerate(packets):
        place = (packet.timestamp, packet.track_event.track_uuid)
        if packet.track_event.type == END:
            ends[place] = at
        elif packet.track_event.type == BEGIN and place in ends and not is_derived(packet):
            end = packets.pop(ends[place])
            packets.insert(at, end)
            return
    raise AssertionError("no two slices touch")


TAMPERINGS = {
    lose_a_launch: {"slices", "arrows"},
    lengthen_a_launch: {"slices"},
    leave_a_launch_open: {"unfinished", "slices"},
    turn_an_arrow: {"arrows"},
    lose_an_arrow: {"arrows"},
    lose_a_sample: {"samples"},
    lose_the_sequence: {"import"},
    lose_a_span: {"recording"},
    lose_a_finding: {"findings"},
    swap_end_and_begin: {"recording"},
}


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda tamper: tamper.__name__)
def test_whatever_vlmtrace_wrote_and_perfetto_does_not_show_is_found(
    type_in: Callable, tmp_path_factory: pytest.TempPathFactory, tamper: Callable[[list[Any]], None]
) -> None:
    path = api.save(synthetic.recording(), tmp_path_factory.mktemp("tampered") / "run.pftrace")
    packets = packets_of(path)
    write_packets(packets, str(path))
    assert type_in("check", path).code == 0
    tamper(packets)
    write_packets(packets, str(path))
    typed = type_in("check", path)
    assert typed.code == 1
    assert set(failures(typed)) == TAMPERINGS[tamper]


def test_what_is_said_shows_the_first_slice_and_cannot_act_on_a_terminal(type_in: Callable, tmp_path_factory) -> None:
    path = api.save(synthetic.recording(), tmp_path_factory.mktemp("tampered") / "run.pftrace")
    packets = packets_of(path)
    launch = next(packet for packet in packets if is_derived(packet))
    launch.track_event.ClearField("name_iid")
    launch.track_event.name = "\x1b[31mred[/]\n"
    write_packets(packets, str(path))
    said = failures(type_in("check", path))["slices"]
    assert said.startswith("1 are not as written and 1 were not written; it lacks (5000005995000, ")
    assert said.isprintable()


def test_an_importer_is_needed(type_in: Callable, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(folder))
    typed = type_in("check", write_packets(GOOD))
    assert (typed.code, typed.out) == (1, "")
    assert "pip install 'vlmtrace[query]'" in typed.err

"""Chrome trace events as text."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import synthetic
from tests.synthetic import MS, Shape
from vlmtrace import formats
from vlmtrace.formats.chrome import microseconds


def text_of(shape: Shape, device: int | None = 0) -> str:
    return b"".join(formats.write(synthetic.recording(shape, device=device), ".json")).decode()


@given(ns=st.integers(-(2**70), 2**70))
def test_nanoseconds_are_written_as_microseconds_without_loss(ns: int) -> None:
    text = microseconds(ns)
    assert Decimal(text) * 1000 == ns
    assert len(text.split(".")[1]) == 3


def test_every_event_has_a_line_of_its_own() -> None:
    head, *events, end, empty = text_of(Shape()).split("\n")
    assert head.startswith('{"otherData":{"vlmtrace":{"format":"vlmtrace","version":1')
    assert (end, empty) == ("]}", "")
    assert all(json.loads(line.removesuffix(","))["ph"] in "MXiC" for line in events)
    assert all(line.endswith(",") for line in events[:-1])


def test_times_count_from_the_origin() -> None:
    (event,) = (e for e in json.loads(text_of(Shape()))["traceEvents"] if e["name"] == "preprocess")
    assert (event["ts"], event["dur"]) == (0.0, 5 * MS / 1000)


def test_no_thread_is_numbered_zero_or_like_its_process() -> None:
    events = json.loads(text_of(Shape()))["traceEvents"]
    assert all(event["tid"] not in (0, event["pid"]) for event in events if "tid" in event)
    assert all(event["pid"] > 0 for event in events)


def test_arrows_stand_on_the_slices_they_join() -> None:
    events = json.loads(text_of(Shape()))["traceEvents"]
    out = Counter(event["bind_id"] for event in events if event.get("flow_out"))
    into = Counter(event["bind_id"] for event in events if event.get("flow_in"))
    assert out == into
    assert sorted(out.values()) == [1] * 3 + [2] * 5  # what ran forward passes hands on to its token
    left, reached = ({e["name"] for e in events if e.get(key)} for key in ("flow_out", "flow_in"))
    assert "step → launches" in left - reached
    assert {"prefill", "step"} <= left & reached
    assert "token" in reached - left


@pytest.mark.parametrize("indent", [None, 2])
def test_a_file_laid_out_anew_by_another_program_still_loads(tmp_path: Path, indent: int | None) -> None:
    recording = synthetic.recording(Shape(), Shape(vision_inside=True))
    trace = json.loads(b"".join(formats.write(recording, ".json")), parse_float=_Exact)
    path = tmp_path / "again.json"
    path.write_text(json.dumps({"traceEvents": trace["traceEvents"], "otherData": trace["otherData"]}, indent=indent))
    assert formats.read(path) == recording


class _Exact(float):
    """A number that is written as it was read, as programs do that keep decimals."""

    def __new__(cls, text: str) -> _Exact:
        made = super().__new__(cls, text)
        made.text = text
        return made

    text: str

    def __repr__(self) -> str:
        return self.text


def test_equal_recordings_make_equal_gzip_files() -> None:
    recording = synthetic.recording()
    packed = b"".join(formats.write(recording, ".json.gz"))
    assert packed == b"".join(formats.write(synthetic.recording(), ".json.gz"))
    assert gzip.decompress(packed) == b"".join(formats.write(recording, ".json"))

"""The document: what of a recording is not on a timeline."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import synthetic
from tests.strategies import anything, jsons
from vlmtrace.errors import TraceFormatError
from vlmtrace.formats.arguments import own_key, written_key
from vlmtrace.formats.document import decoded, dumped, loaded
from vlmtrace.timeline.recording import Json, Lowered, OverheadPair, SyncSite


@given(value=st.dictionaries(anything, jsons(anything), max_size=3))
def test_whatever_a_user_notes_comes_back(value: dict[str, Json]) -> None:
    recording = replace(synthetic.recording(), environment=value)
    text = dumped(recording, 0)
    text.encode()
    assert loaded(text).recording.environment == value


def test_infinity_is_written_as_json_that_every_reader_takes() -> None:
    recording = replace(synthetic.recording(), environment={"a": float("inf"), "b": float("-inf"), "c": float("nan")})

    def refuse(word: str) -> None:
        raise AssertionError(word)

    json.loads(dumped(recording, 0), parse_constant=refuse)
    assert repr(loaded(dumped(recording, 0)).recording.environment) == "{'a': inf, 'b': -inf, 'c': nan}"


def test_a_document_written_before_synchronisations_were_audited_is_one_without_an_audit() -> None:
    recording = replace(synthetic.recording(), syncs=(SyncSite("a.py", 1, "f", "prefill", 2),), audited=1)
    older = json.loads(dumped(recording, 0))
    del older["recording"]["syncs"], older["recording"]["audited"]
    loaded_again = decoded(older).recording
    assert (loaded_again.syncs, loaded_again.audited) == ((), 0)


def test_a_document_written_before_overhead_was_measured_is_one_without_a_measurement() -> None:
    lowered = Lowered("layer", 2, 100, 10_000)
    recording = replace(synthetic.recording(), overhead=(OverheadPair(100, 101),), lowered=lowered)
    older = json.loads(dumped(recording, 0))
    assert older["recording"]["overhead"] == [{"untraced_ns": 100, "traced_ns": 101}]
    del older["recording"]["overhead"], older["recording"]["lowered"]
    loaded_again = decoded(older).recording
    assert (loaded_again.overhead, loaded_again.lowered) == ((), None)


def test_it_says_what_a_whole_file_holds() -> None:
    recording = synthetic.recording()
    document = loaded(dumped(recording, 17))
    assert (document.base_ns, document.spans, document.samples) == (17, len(recording.spans), 0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "format version 2 and this vlmtrace reads version 1: update vlmtrace"),
        ({"version": "1"}, "format version '1'"),
        ({"format": "other"}, "no vlmtrace document"),
        ({"spans": "many"}, "does not say what the file holds"),
        ({"recording": None}, "recording of its vlmtrace document is None"),
    ],
)
def test_a_document_that_is_not_understood_is_refused(change: dict[str, object], says: str) -> None:
    document = json.loads(dumped(synthetic.recording(), 0)) | change
    with pytest.raises(TraceFormatError) as caught:
        decoded(document)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["name"], 7, "recording.name of its vlmtrace document is 7"),
        (["origin_ns"], 1.5, "recording.origin_ns of its vlmtrace document is 1.5"),
        (["origin_ns"], True, "recording.origin_ns of its vlmtrace document is True"),
        (["generations", 0, "role"], None, "recording.generations[0].role of its vlmtrace document is None"),
        (["generations", 0, "extra"], 1, "recording.generations[0] of its vlmtrace document has 'extra'"),
        (["tracks"], {}, "recording.tracks of its vlmtrace document is {}"),
    ],
)
def test_a_wrong_fact_is_named_by_its_path(path: list[str | int], value: object, says: str) -> None:
    document = json.loads(dumped(synthetic.recording(), 0))
    *way, last = ["recording", *path]
    at = document
    for key in way:
        at = at[key]
    at[last] = value
    with pytest.raises(TraceFormatError) as caught:
        decoded(document)
    assert says in str(caught.value)


def test_a_missing_fact_is_named() -> None:
    document = json.loads(dumped(synthetic.recording(), 0))
    del document["recording"]["cost"]
    with pytest.raises(TraceFormatError, match="has no 'cost'"):
        decoded(document)


@given(key=anything)
def test_an_argument_of_any_name_keeps_it(key: str) -> None:
    assert own_key(written_key(key)) == key
    assert written_key(key).isprintable()


@given(key=st.sampled_from(["id", "parent", "step", "number", "host_begin", "name", "", "arg:id"]))
def test_an_argument_named_like_the_formats_own_is_written_under_another_name(key: str) -> None:
    assert written_key(key) == f"arg:{key.replace(':', '%3A')}"

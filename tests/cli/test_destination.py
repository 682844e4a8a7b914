"""Where traces are written and which one is read."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from tests.synthetic import recording
from vlmtrace import api
from vlmtrace.cli import destination
from vlmtrace.errors import UsageError, VlmtraceError


def test_without_a_name_traces_are_numbered_after_the_highest_there_is(folder: Path) -> None:
    assert destination.choose(None, "llava", force=False).path == Path("llava-001.pftrace")
    for name in ("llava-001.pftrace", "llava-007.pftrace", "llava-x.pftrace", "other-099.pftrace", "llava-050.json"):
        (folder / name).touch()
    assert destination.choose(None, "llava", force=False).path == Path("llava-008.pftrace")


def test_a_number_taken_in_the_meantime_is_not_overwritten(folder: Path) -> None:
    place = destination.choose(None, "llava", force=False)
    (folder / "llava-001.pftrace").write_bytes(b"another")

    assert place.write(recording()) == Path("llava-002.pftrace")
    assert (folder / "llava-001.pftrace").read_bytes() == b"another"


def test_an_existing_file_is_overwritten_only_with_force(folder: Path) -> None:
    (folder / "a.pftrace").write_bytes(b"old")

    with pytest.raises(VlmtraceError, match=r"'a.pftrace' exists: give another name, or --force to overwrite it"):
        destination.choose("a.pftrace", "x", force=False)
    assert destination.choose("a.pftrace", "x", force=True).write(recording()) == Path("a.pftrace")
    assert api.load("a.pftrace") == recording()


@pytest.mark.parametrize(
    ("output", "kind", "says"),
    [
        ("a.txt", UsageError, "a.txt"),
        ("none/a.json", VlmtraceError, r"'none/a.json' cannot be written: No such file or directory"),
        ("taken.json", VlmtraceError, r"'taken.json' is a folder"),
        ("/proc/a.json", VlmtraceError, r"'/proc/a.json' cannot be written"),
    ],
)
def test_a_place_that_cannot_take_a_trace_is_refused_before_any_work(
    folder: Path, output: str, kind: type[VlmtraceError], says: str
) -> None:
    (folder / "taken.json").mkdir()

    with pytest.raises(kind, match=says):
        destination.choose(output, "x", force=False)
    assert sorted(path.name for path in folder.iterdir()) == ["taken.json"]


def test_a_dash_is_stdout_and_never_a_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw))

    assert destination.choose("-", "x", force=False).write(recording()) is None
    (folder / "a.pftrace").write_bytes(raw.getvalue())
    assert api.load("a.pftrace") == recording()

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with pytest.raises(UsageError, match="to the terminal"):
        destination.choose("-", "x", force=False)


def test_the_newest_trace_is_the_one_written_last_whatever_other_json_lies_about(folder: Path) -> None:
    for age, name in enumerate(("new.json.gz", "middle.pftrace", "old.json")):
        api.save(recording(), folder / name)
        os.utime(folder / name, (1_000_000 - age, 1_000_000 - age))
    (folder / "package.json").write_text("{}")

    assert destination.newest() == Path("new.json.gz")
    (folder / "new.json.gz").unlink()
    assert destination.newest() == Path("middle.pftrace")
    (folder / "middle.pftrace").unlink()
    assert destination.newest() == Path("old.json")
    (folder / "old.json").unlink()
    with pytest.raises(VlmtraceError, match="there is no trace in this folder: name a file, or make one"):
        destination.newest()

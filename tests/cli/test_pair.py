"""``vlmtrace pair``: a trace and a report become one trace, and whatever is wrong with them is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

import vlmtrace
from tests.nsight.exports import NEWEST, US, Export, Plan, generation, matching_recording
from vlmtrace.cli import boundary
from vlmtrace.cli.main import vlmtrace as group
from vlmtrace.timeline.recording import KERNELS


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with ``run.pftrace`` and ``run.sqlite``, of the same run."""
    with Export(tmp_path / "run.sqlite", NEWEST) as export:
        thread = export.process(470).thread(at=1_000_000)
        for steps in (2, 3):
            generation(thread, Plan(steps=steps, delay_ns=400 * US))
    vlmtrace.save(matching_recording(export, offset_ns=5_000_000_000), tmp_path / "run.pftrace")
    return tmp_path


def pair(*words: object) -> int:
    return boundary.run(group, ["pair", *map(str, words)])


def test_the_paired_trace_lies_beside_the_trace(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pair(run / "run.pftrace", run / "run.sqlite") == 0
    told = capsys.readouterr()
    written = run / "run-paired.pftrace"
    assert "kernels lie in a stage: prefill 60 · steps 60 · vision 48" in told.err
    assert f"Wrote {written}" in told.err.replace("\n", "")
    assert told.out == ""
    paired = vlmtrace.load(written)
    assert paired == vlmtrace.pair(run / "run.pftrace", run / "run.sqlite")
    assert any(track.kind == KERNELS for track in paired.tracks)


def test_the_summary_of_a_paired_trace_is_that_of_the_trace(run: Path) -> None:
    pair(run / "run.pftrace", run / "run.sqlite", "-q")
    alone, paired = (vlmtrace.load(run / name) for name in ("run.pftrace", "run-paired.pftrace"))
    assert vlmtrace.render(paired) == vlmtrace.render(alone)


def test_nothing_is_overwritten_without_force(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run / "run-paired.pftrace"
    out.write_text("mine")
    assert pair(run / "run.pftrace", run / "run.sqlite") == 1
    assert "exists: give another name, or --force" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert pair(run / "run.pftrace", run / "run.sqlite", "--force", "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_chrome_json_is_written_where_the_name_says_so(run: Path) -> None:
    assert pair(run / "run.pftrace", run / "run.sqlite", "-o", run / "both.json.gz") == 0
    assert vlmtrace.load(run / "both.json.gz").pairing is not None


@pytest.mark.parametrize(
    ("trace", "report", "said"),
    [
        ("run.sqlite", "run.pftrace", "is not a trace that vlmtrace wrote"),
        ("run.pftrace", "run.pftrace", "is no SQLite database"),
        ("run.pftrace", "none.sqlite", "cannot be read"),
        ("run.pftrace", "run.nsys-rep", "can be read by nsys only, and there is none here"),
    ],
)
def test_what_cannot_be_paired_is_one_line_and_leaves_the_trace(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, trace: str, report: str, said: str
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("vlmtrace.nsight.command.USUAL_PLACES", ())
    (run / "run.sqlite").rename(run / "other.sqlite")
    (run / "run.nsys-rep").write_bytes(b"report")
    if "run.sqlite" in {trace, report}:
        (run / "other.sqlite").rename(run / "run.sqlite")
    before = (run / "run.pftrace").read_bytes()
    assert pair(run / trace, run / report, "-o", run / "out.pftrace") == 1
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert (run / "run.pftrace").read_bytes() == before
    assert not (run / "out.pftrace").exists()

"""The order of runs in the comparison of ways, on processes that answer at once: what stands beside what, and when."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import overhead
import overhead_processes as processes
import overhead_report as report
from overhead_bench import Configuration

from tests.scripts.test_overhead import run


class FakeWorker:
    """A process that answers at once; ``asked`` are the visits of all of them."""

    asked: ClassVar[list[tuple[str, bool]]] = []
    fails_at: ClassVar[int] = 1000

    def __init__(self, configuration: Configuration, around: tuple[str, ...] = ()) -> None:
        self.configuration = configuration
        self.visits = 0

    def ready(self) -> dict[str, Any]:
        versions = {"gpu": "G", "python": "3", "torch": "2", "transformers": "5", "dtype": "float32", "date": "today"}
        return {**vars(self.configuration), **versions}

    def visit(self, way: str, *, write: bool = False) -> dict[str, Any]:
        self.asked.append((way, write))
        if len(self.asked) >= self.fails_at:
            raise processes.WorkerError("out of memory")
        return {"ms": 10.0, "compiled": 0, "waits": 0}

    def __enter__(self) -> FakeWorker:
        return self

    def __exit__(self, *raised: object) -> None:
        """Nothing runs."""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    monkeypatch.setattr(processes, "Worker", FakeWorker)
    monkeypatch.setattr(FakeWorker, "asked", [])
    return FakeWorker


def measure(
    out: Path,
    *ways: str,
    pairs: int = 4,
    seconds: float = 60,
    more: Sequence[tuple[str, int]] = (),
    together: bool = False,
) -> int:
    nsys = {"nsys": None, "importer": None, "libraries": None}
    options = argparse.Namespace(
        out=str(out), shapes=["small"], modes=["eager"], ways=ways, device="cpu", new=2, side=2, pairs=pairs,
        seconds=seconds, more=more, together=together, **nsys,
    )  # fmt: skip
    return overhead.run(options)


def test_runs_of_a_way_stand_between_runs_of_nothing_which_the_next_way_shares(
    fake: type[FakeWorker], tmp_path: Path
) -> None:
    assert measure(tmp_path / "made.jsonl", "again", "syncs", pairs=2) == 0
    asked = [way for way, _ in fake.asked]
    assert asked[0::3] == ["off"] * 3
    assert sorted([asked[1:3], asked[4:6]]) == [["again"] * 2, ["syncs"] * 2]
    assert len(asked) == 7


def test_only_what_is_missing_is_measured(fake: type[FakeWorker], tmp_path: Path) -> None:
    out = tmp_path / "made.jsonl"
    measure(out, "again", "syncs")
    lines = out.read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["way"] == "syncs"]
    out.write_text("".join(f"{line}\n" for line in kept))
    fake.asked.clear()
    measure(out, "again", "syncs")
    assert {way for way, _ in fake.asked} == {"off", "again"}
    assert [json.loads(line)["way"] for line in out.read_text().splitlines()] == ["syncs"] * 2 + ["again"] * 2
    fake.asked.clear()
    measure(out, "again", "syncs")
    assert fake.asked == []
    measure(out, "again", "syncs", pairs=6)
    assert [way for way, _ in fake.asked].count("again") == 2


def test_a_way_can_have_more_pairs_than_the_others(fake: type[FakeWorker], tmp_path: Path) -> None:
    measure(tmp_path / "made.jsonl", "again", "syncs", pairs=4, more=[("syncs", 10)])
    assert Counter(way for way, _ in fake.asked if way != "off") == {"again": 4, "syncs": 10}


@pytest.mark.parametrize("typed", ["syncs", "syncs=", "syncs=many", "nothing=4", "off=4"])
def test_pairs_of_a_way_that_are_mistyped_are_refused_in_one_line(typed: str, tmp_path: Path) -> None:
    made = run(tmp_path / "made.jsonl", "--more", typed)
    assert made.returncode == 2
    assert made.stderr.splitlines()[-1].endswith(f"'{typed}' is not WAY=PAIRS: give, say, stage=100")


def test_only_the_first_runs_write_their_trace(fake: type[FakeWorker], tmp_path: Path) -> None:
    measure(tmp_path / "made.jsonl", "stage", pairs=10)
    assert [write for way, write in fake.asked if way == "stage"] == [True] * 4 + [False] * 6


def test_a_profiler_has_runs_of_nothing_before_it_is_started_and_a_process_of_its_own(
    fake: type[FakeWorker], tmp_path: Path
) -> None:
    out = tmp_path / "made.jsonl"
    measure(out, "syncs", "profiler", pairs=2)
    asked = [way for way, _ in fake.asked]
    assert asked == ["off", "syncs", "syncs", "off", *["off"] * 4, "off", "profiler", "profiler", "off"]
    assert [one.get("clean") for one in report.read(out)] == [None, [10.0] * 4]


def test_processes_that_are_started_together_are_measured_in_turn(
    fake: type[FakeWorker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    start, ready, visit = FakeWorker.__init__, FakeWorker.ready, FakeWorker.visit

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **more: (steps.append(name), call(*args, **more))[1]

    monkeypatch.setattr(FakeWorker, "__init__", noted("start", start))
    monkeypatch.setattr(FakeWorker, "ready", noted("ready", ready))
    monkeypatch.setattr(FakeWorker, "visit", noted("visit", visit))
    assert measure(tmp_path / "made.jsonl", "syncs", "profiler", "process", pairs=2, together=True) == 0
    assert [step for step, _ in groupby(steps)] == ["start", "ready", "start", *["ready", "visit"] * 3]
    assert steps.count("start") == 1 + 1 + 2
    assert [row["way"] for row in report.read(tmp_path / "made.jsonl")] == ["syncs", "profiler", "process"]


def test_nothing_is_begun_when_the_time_is_up(
    fake: type[FakeWorker], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure(tmp_path / "made.jsonl", "again", seconds=-1) == 0
    assert fake.asked == []
    assert "run it again to go on" in capsys.readouterr().out


def test_a_block_that_fails_is_told_and_the_next_one_runs(
    fake: type[FakeWorker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FakeWorker, "fails_at", 8)
    out = tmp_path / "made.jsonl"
    assert measure(out, "syncs", "profiler", pairs=4) == 1
    assert [one["way"] for one in report.read(out)] == ["syncs", "syncs"]
    assert "small, eager, profiler: failed\nout of memory" in capsys.readouterr().out

"""The comparison of ways: its arithmetic on made-up rows, and real runs of a tiny model without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import overhead_floor as floor
import overhead_processes as processes
import overhead_report as report
from overhead_bench import Bench, Configuration
from overhead_ways import WAYS, Syncs

SCRIPTS = Path(__file__).parents[2] / "scripts"
TINY = Configuration("qwen2.5-vl-tiny", "eager", "cpu", new=3, side=2)


def row(way: str, off: tuple[float, float], on: tuple[float, float], **more: Any) -> dict[str, Any]:
    told = {"compiled": 0, "waits": more.pop("waits", 0), **more.pop("told", {})}
    return {
        "way": way, "off": [{"ms": ms, "compiled": 0} for ms in off], "on": [{"ms": ms, **told} for ms in on],
        "shape": "small", "mode": "eager", "new": 32, "gpu": "G", "python": "3", "torch": "2", "transformers": "5",
        "dtype": "bfloat16", "date": "2026-11-23", **more,
    }  # fmt: skip


def told(*rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["way"]: one for one in report.results(rows)}


def test_each_run_counts_against_its_neighbour_so_that_a_steady_drift_cancels() -> None:
    """Every run takes 10 ms longer than the one before; the way itself adds 5 ms."""
    made = told(row("stage", off=(100, 130), on=(115, 125)), row("stage", off=(130, 160), on=(145, 155)))["stage"]
    assert made["pairs"] == 4
    assert made["added_ms"][0] == 5
    assert (made["added_ms"][1], made["added_ms"][2]) == (-5, 15)


def test_percent_is_of_the_neighbour_and_not_of_the_median() -> None:
    made = told(row("stage", off=(100, 1000), on=(110, 1100)))["stage"]
    assert made["added_percent"][0] == pytest.approx(10)
    assert made["added_ms"][0] == 55


@pytest.mark.parametrize(
    ("interval", "says"),
    [
        ((0.5, -0.5, 1.0), None),
        ((3.0, 2.0, 4.0), "adds more than 1 %"),
        ((0.0, -2.0, 2.0), "unresolved, its interval holds 1 %. About 32 pairs would narrow it to ± 1 %"),
        ((1.5, -0.5, 3.5), "unresolved, its interval holds 1 %. About 128 pairs would narrow it to ± 0.5 %"),
        ((1.0, -1.0, 3.0), "unresolved, its interval holds 1 %. About 512 pairs would narrow it to ± 0.25 %"),
    ],
)
def test_a_limit_is_kept_or_passed_or_the_pairs_that_would_tell_are_named(
    interval: tuple[float, float, float], says: str | None
) -> None:
    """Half an interval of 4 % is 2 %. To halve that takes four times the 8 pairs, a quarter 16 times, an eighth 64."""
    said = report._unresolved("eager", {"way": "stage", "pairs": 8, "added_percent": interval})
    assert said is None if says is None else said is not None and says in said


def test_an_interval_holds_its_median_and_is_the_same_each_time() -> None:
    values = [1.0, 2.0, 3.0, 50.0, 2.5, 2.2, 1.9]
    middle, low, high = report.median_interval(values)
    assert (middle, low <= middle <= high) == (2.2, True)
    assert report.median_interval(values) == (middle, low, high)
    assert high > middle


def test_more_pairs_make_the_interval_narrower() -> None:
    few, many = ([float(i % 7) for i in range(count)] for count in (10, 1000))
    (_, low, high), (_, lower, higher) = report.median_interval(few), report.median_interval(many)
    assert higher - lower < high - low


def test_what_nobody_counted_is_absent_and_not_nothing() -> None:
    made = told(row("syncs", (10, 10), (11, 11), waits=66), row("profiler", (10, 10), (15, 15), waits=None))
    assert (made["syncs"]["waits"], made["profiler"]["waits"]) == (66, None)
    assert made["syncs"]["counted_percent"] is None
    assert "| 66 | - |" in "\n".join(report.tables([row("syncs", (10, 10), (11, 11), waits=66)]))


def test_what_vlmtrace_counted_is_a_share_of_the_call_and_is_compared_with_the_profiler() -> None:
    own = {"counted_ms": 0.5, "inside_ms": 1000.0, "bytes": 212_000, "readable_s": 0.25}
    rows = [row("stage", (1000, 1000), (1001, 1001), told=own), row("profiler", (1000, 1000), (1400, 1400))]
    made = told(*rows)["stage"]
    assert made["counted_percent"] == pytest.approx(0.05)
    text = "\n".join(report.tables(rows))
    assert "| 0.050 % | 212.0 kB | 0.25 s |" in text
    assert "added at least 400.0 ms (the lower end): vlmtrace counted 1/800 of that." in text


def test_a_profiler_whose_interval_reaches_zero_gives_no_factor() -> None:
    own = {"counted_ms": 0.5, "inside_ms": 1000.0}
    rows = [row("stage", (1000, 1000), (1001, 1001), told=own), row("profiler", (1000, 1000), (990, 1400))]
    assert "no factor between the two can be told" in "\n".join(report.tables(rows))


def test_what_a_profiler_leaves_behind_is_seen_in_its_off_runs() -> None:
    rows = [row("profiler", (110, 110), (150, 150), clean=[100, 101, 99, 100])]
    assert told(*rows)["profiler"]["left_behind_percent"] == pytest.approx(10)
    assert "take +10.0 % against those before" in "\n".join(report.tables(rows))


def test_a_run_in_which_something_was_compiled_is_told() -> None:
    rows = [row("layer", (100, 100), (900, 101), told={"compiled": 1})]
    assert "torch compiled during 2 of its timed runs" in "\n".join(report.tables(rows))


def test_nsights_report_is_of_all_its_generations_together() -> None:
    finish = {**row("nsys", (0, 0), (0, 0)), "bytes": 80_000_000, "readable_s": 31.0, "generations": 23}
    del finish["off"], finish["on"]
    rows = [row("nsys", (100, 100), (108, 108)), finish]
    made = told(*rows)["nsys"]
    assert (made["pairs"], made["bytes"], made["readable_s"]) == (2, 80_000_000, 31.0)
    assert "| 80.0 MB for 23 | 31.00 s |" in "\n".join(report.tables(rows))


def test_shapes_and_modes_have_tables_of_their_own_and_ways_their_order() -> None:
    rows = [row("syncs", (10, 10), (11, 11)), row("stage", (10, 10), (11, 11))]
    rows.append(row("stage", (10, 10), (11, 11)) | {"mode": "compiled"})
    lines = report.tables(rows)
    assert [line for line in lines if line.startswith("**")] == [
        "**small, eager**: one `generate()` of 32 tokens takes 10.0 ms with nothing added (median).",
        "**small, compiled**: one `generate()` of 32 tokens takes 10.0 ms with nothing added (median).",
    ]
    text = "\n".join(lines)
    assert text.index(WAYS["stage"].title) < text.index(WAYS["syncs"].title)


def test_the_sum_takes_the_loop_off_and_counts_two_marks() -> None:
    taken = {"empty": 10.0, "bare": 500.0, "hooked": 1500.0, "traced": 9100.0, "nvtx": 160.0}
    taken |= {"record": 1610.0, "stream": 180.0, "clock": 60.0, "guard": 210.0, "thread": 80.0, "floor": 6500.0}
    made = floor.arithmetic({name: [ns] * 5 for name, ns in taken.items()})
    assert made["hooks"][0] == 1000
    assert made["sum"][0] == 1000 + 150 + 2 * (1600 + 170 + 50 + 200 + 70)
    assert made["floor"][0] == 6000
    assert made["traced"][0] == 8600
    assert made["ratio"][0] == pytest.approx(8600 / 6000)
    assert made["ratio_to_sum"][0] == pytest.approx(8600 / 5330)


def test_the_sum_of_a_host_has_no_event_in_it() -> None:
    taken = {"empty": 0.0, "bare": 0.0, "hooked": 1000.0, "traced": 2000.0, "nvtx": 100.0, "clock": 50.0, "guard": 50.0}
    taken |= {"thread": 25.0, "floor": 1800.0}
    assert floor.arithmetic({name: [ns] * 3 for name, ns in taken.items()})["sum"][0] == 1000 + 100 + 2 * (50 + 50 + 25)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(TINY)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("way", ["stage", "module", "layer", "nvtx-layer", "syncs", "profiler"])
def test_a_visit_in_any_way_leaves_the_model_as_it_was(bench: Bench, way: str, tmp_path: Path) -> None:
    made = bench.visit(way, str(tmp_path / "trace"))
    assert made["ms"] > 0
    assert ("bytes" in made) is (not way.startswith("nvtx"))
    assert list(tmp_path.iterdir()) == []
    assert "get_compiled_call" not in bench.model.__dict__
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in bench.model.modules())


def test_the_waits_of_the_sync_way_are_counted_in_the_timed_generation_alone(bench: Bench) -> None:
    """One encoder with the projector inside it, a prefill and two steps: a wait before each and after."""
    assert bench.visit("syncs")["waits"] == 2 * (1 + 3)


def test_vlmtrace_tells_its_own_count_of_the_timed_generation(bench: Bench) -> None:
    few, many = bench.visit("stage"), bench.visit("layer")
    assert few["spans"] < many["spans"]
    assert 0 < few["counted_ms"] < few["inside_ms"] <= few["ms"]
    assert few["waits"] == 0  # there is no device to wait for


def test_details_name_more_and_more_modules(bench: Bench) -> None:
    counts = [len(list(bench.parts(detail))) for detail in ("stage", "module", "layer")]
    assert counts == sorted(set(counts))


class Compiling(nn.Linear):
    """A model that runs its steps through what it calls its compiled call, as transformers does."""

    def get_compiled_call(self) -> Any:
        return self


def test_a_compiled_step_is_timed_where_it_is_called_and_has_no_hooks_inside() -> None:
    model, given = Compiling(1, 1), torch.zeros(1)
    fake: Any = SimpleNamespace(model=model, sync=lambda: None, parts=lambda detail: [("forward", model, True)])
    with Syncs(fake, "stage") as way:
        way.ready()
        model(given)
        assert way.waits == 2
        step = model.get_compiled_call()
        step(given)
        step(given)
        assert way.waits == 2 + 2 * 2
        assert not model._forward_hooks
        way.ready()
        model(given)
        assert way.waits == 2
    assert [name for name, _, _ in way.spans] == ["forward", "compiled step", "compiled step", "forward"]
    assert "get_compiled_call" not in model.__dict__


def script(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "overhead.py"), *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


def run(out: Path, *words: object) -> subprocess.CompletedProcess[str]:
    fixed = ("--device", "cpu", "--shapes", TINY.shape, "--modes", TINY.mode, "--pairs", 2, "--side", 2)
    return script("run", "--out", out, *fixed, *words)


def executable(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_run_measures_what_can_be_had_goes_on_where_the_file_ends_and_is_reported(tmp_path: Path) -> None:
    out = tmp_path / "overhead.jsonl"
    ways = ("--new", 2, "--ways", "stage", "syncs", "events-stage", "nsys")
    first = run(out, *ways)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "events-stage is left out: it needs a GPU\nnsys is left out: give --nsys PATH" in first.stdout
    rows = report.read(out)
    assert sorted(one["way"] for one in rows) == ["stage", "syncs"]
    assert all(len(one["off"]) == len(one["on"]) == 2 for one in rows)

    nsys = executable(
        tmp_path / "nsys",
        'for word; do case $word in --output=*) prefix=${word#--output=};; esac; done\n'
        'shift; while case $1 in --*) true;; *) false;; esac; do shift; done\n"$@"; echo raw > "$prefix.qdstrm"',
    )  # fmt: skip
    importer = executable(tmp_path / "importer", 'cp "$2" "${2%.qdstrm}.nsys-rep"')
    second = run(out, *ways, "--nsys", nsys, "--importer", importer)
    assert second.returncode == 0, second.stdout + second.stderr
    pair, finish = report.read(out)[len(rows) :]
    assert report.read(out)[: len(rows)] == rows
    assert (pair["way"], len(pair["on"]), finish["way"]) == ("nsys", 2, "nsys")
    assert (finish["bytes"], finish["generations"]) == (4, 2 + 3)

    made = script("report", out, "--json", tmp_path / "made.json")
    assert made.stdout.count("\n| ") == 1 + 3
    assert [one["way"] for one in json.loads((tmp_path / "made.json").read_text())] == ["stage", "syncs", "nsys"]


def test_a_file_of_another_machine_is_not_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "overhead.jsonl"
    other = {"shape": "other", "mode": "eager", "way": "stage", "device": "cuda"}
    out.write_text(json.dumps(other) + "\n")
    made = run(out, "--ways", "again")
    assert made.returncode == 1
    assert f"{out} was begun with device cuda, here it is cpu: give another --out" in made.stderr


def test_a_process_that_fails_is_told_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(processes.WorkerError, match="No such thing"):
        processes.Worker(TINY, around=(str(executable(tmp_path / "nsys", "echo No such thing; exit 3")),))


def test_a_raw_capture_without_an_importer_says_what_to_give(tmp_path: Path) -> None:
    nsys = processes.Nsys("nsys", None, None)
    with pytest.raises(processes.WorkerError, match="left no capture"):
        nsys.report(tmp_path / "report")
    (tmp_path / "report.qdstrm").write_text("raw")
    with pytest.raises(processes.WorkerError, match="give --importer"):
        nsys.report(tmp_path / "report")


def test_the_floor_is_measured_on_the_host_where_there_is_no_gpu(tmp_path: Path) -> None:
    made = script("floor", "--device", "cpu", "--repeats", 5, "--calls", 20, "--out", tmp_path / "floor.jsonl")
    assert made.returncode == 0, made.stderr
    told = json.loads((tmp_path / "floor.jsonl").read_text())
    assert (told["path"], told["tool_attached"]) == ("host clock", False)
    parts, sums = {"hooks", "nvtx", "clock", "guard", "thread"}, {"sum", "floor", "traced", "ratio", "ratio_to_sum"}
    assert set(told["floor"]) == parts | sums
    assert "vlmtrace / floor" in made.stdout


def test_a_missing_file_and_a_torn_line_are_told_in_one_line(tmp_path: Path) -> None:
    assert "holds no results" in script("report", tmp_path / "none.jsonl").stdout
    (tmp_path / "torn.jsonl").write_text('{"way": "sta')
    made = script("report", tmp_path / "torn.jsonl")
    assert (made.returncode, made.stderr.count("\n")) == (1, 1)
    assert "line 1 is not a whole row" in made.stderr

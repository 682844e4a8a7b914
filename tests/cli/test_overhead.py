"""``vlmtrace record --measure-overhead`` and ``--max-overhead``: passes of their own, or a line why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.saved_models import saved
from vlmtrace import api
from vlmtrace.analysis import overhead as analysis
from vlmtrace.analysis.overhead import CountedCost
from vlmtrace.capture import overhead, sync_audit, workload
from vlmtrace.timeline.recording import TIMED, WARMED, Lowered, OverheadPair, Recording

_QUICK = ("--warmup", 1, "--repeats", 2, "--max-new-tokens", 3)
_PAIRS = tuple(OverheadPair(1_000_000, 1_000_000 + 1_000 * more) for more in (2, -1, 4, 3, 0, 2, 5, 1, 2, 2))


@pytest.fixture
def tiny() -> tuple[object, ...]:
    return ("--model", saved("llava"), "--image-size", "32x32", *_QUICK)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The role of each request that is made, in order."""
    roles: list[str] = []
    ask = workload.ask

    def noted(asker: Any, batch: Any, role: str, **more: Any) -> None:
        roles.append(role)
        ask(asker, batch, role, **more)

    monkeypatch.setattr(workload, "ask", noted)
    monkeypatch.setattr(overhead, "ask", noted)
    return roles


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What each detail costs, in parts per million of ``generate``."""
    made = {"stage": 500, "module": 8_000, "layer": 21_000}

    def told(recording: Recording) -> CountedCost:
        assert {generation.role for generation in recording.generations} == {WARMED}
        return CountedCost(made[recording.detail], 1_000_000)

    monkeypatch.setattr(analysis, "highest_cost", told)
    return made


def test_overhead_is_measured_behind_the_timed_requests_and_apart_from_them(
    type_in: Any, folder: Path, tiny: Any, asked: list[str]
) -> None:
    typed = type_in("record", *tiny, "--measure-overhead", "-o", "a.json")

    assert typed.code == 0, typed.err
    pair = [workload.UNTRACED, workload.TRACED]
    assert asked == [WARMED, TIMED, TIMED, *pair[::-1], *(pair + pair[::-1]) * 5]
    made = api.load("a.json")
    assert [generation.role for generation in made.generations] == [WARMED, TIMED, TIMED]
    assert len(made.overhead) == 10
    assert "tracing added " in typed.out
    assert "10 pairs)" in typed.out


@pytest.mark.parametrize("file", ["a.pftrace", "a.json", "a.json.gz"])
def test_every_format_holds_what_was_measured(
    type_in: Any, folder: Path, tiny: Any, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overhead, "measure_overhead", lambda *_: _PAIRS)

    typed = type_in("record", *tiny, "--measure-overhead", "-o", file, "--format", "json")

    assert typed.code == 0, typed.err
    assert api.load(file).overhead == _PAIRS
    added = json.loads(typed.out)["tracing"]["added"]
    assert (added["pairs"], added["median_share"]) == (10, 0.002)
    again = type_in("summary", file, "--format", "json")
    assert json.loads(again.out)["tracing"]["added"] == added


def test_without_the_option_nothing_is_measured(type_in: Any, folder: Path, tiny: Any, asked: list[str]) -> None:
    typed = type_in("record", *tiny, "-o", "a.json")

    assert asked == [WARMED, TIMED, TIMED]
    made = api.load("a.json")
    assert (made.overhead, made.lowered) == ((), None)
    assert "tracing added" not in typed.out


def test_a_failing_measurement_does_not_lose_the_recording_and_no_audit_follows(
    type_in: Any, folder: Path, tiny: Any, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MemoryError("full")

    monkeypatch.setattr(overhead.Stopwatch, "time", full)
    monkeypatch.setattr(sync_audit, "check_device", lambda _: None)

    typed = type_in("record", *tiny, "--measure-overhead", "--audit-syncs", "-o", "a.json")

    assert typed.code == 1
    assert "sample '0' failed in a traced request: MemoryError: full" in typed.err
    assert asked[3:] == [workload.TRACED]
    made = api.load("a.json")
    assert (len(made.generations), made.overhead, made.incomplete) == (3, (), None)


def test_within_the_limit_the_detail_is_as_asked_for(
    type_in: Any, folder: Path, tiny: Any, asked: list[str], costs: dict[str, int]
) -> None:
    typed = type_in("record", *tiny, "--detail", "layer", "--max-overhead", "2.1%", "-o", "a.json")

    assert typed.code == 0, typed.err
    assert asked == [WARMED, WARMED, TIMED, TIMED]
    made = api.load("a.json")
    assert (made.detail, made.lowered, len(made.generations)) == ("layer", None, 3)
    assert "lowered" not in typed.err + typed.out


@pytest.mark.parametrize(
    ("limit", "limit_ppm", "used", "tried"), [("1%", 10_000, "module", 2), ("0.005", 5_000, "stage", 3)]
)
def test_above_the_limit_the_detail_is_lowered_before_the_timed_requests_and_told(
    type_in: Any,
    folder: Path,
    tiny: Any,
    asked: list[str],
    costs: dict[str, int],
    *,
    limit: str,
    limit_ppm: int,
    used: str,
    tried: int,
) -> None:
    typed = type_in("record", *tiny, "--detail", "layer", "--max-overhead", limit, "-o", "a.pftrace")

    assert typed.code == 0, typed.err
    assert asked == [WARMED] * (tried + 1) + [TIMED, TIMED]
    made = api.load("a.pftrace")
    assert made.detail == used
    assert made.lowered == Lowered("layer", 21_000, 1_000_000, limit_ppm)
    told = f"detail lowered from layer to {used}: counted cost 2.1 % > {limit_ppm / 10_000:g} %"
    assert typed.err.splitlines()[0] == told
    assert told in typed.out


def test_what_is_measured_afterwards_is_the_lowered_detail(
    type_in: Any, folder: Path, tiny: Any, costs: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    details: list[str] = []

    def noted(_asker: Any, _requests: Any, traced: Any, *_: object) -> tuple[OverheadPair, ...]:
        details.append(traced.detail)
        return _PAIRS

    monkeypatch.setattr(overhead, "measure_overhead", noted)
    type_in("record", *tiny, "--detail", "layer", "--max-overhead", "1%", "--measure-overhead")

    assert details == ["module"]


def test_where_nothing_keeps_the_limit_it_is_refused_with_exit_code_3_and_no_file(
    type_in: Any, folder: Path, tiny: Any, asked: list[str], costs: dict[str, int]
) -> None:
    costs.update(stage=12_345, module=30_000, layer=50_000)

    typed = type_in("record", *tiny, "--detail", "layer", "--max-overhead", "1%")

    assert (typed.code, typed.out) == (3, "")
    (line,) = typed.err.splitlines()
    assert "tracing would cost 1.23 % of generate at the least detail (stage), above the limit of 1 %" in line
    assert asked == [WARMED] * 3
    assert list(folder.iterdir()) == []


def test_a_limit_that_nothing_can_keep_is_refused_by_what_is_really_counted(
    type_in: Any, folder: Path, tiny: Any
) -> None:
    typed = type_in("record", *tiny, "--detail", "layer", "--max-overhead", "0.0001%")

    assert typed.code == 3
    assert "at the least detail (stage), above the limit of 0.0001 %" in typed.err
    assert list(folder.iterdir()) == []


def test_a_limit_that_anything_keeps_lowers_nothing(type_in: Any, folder: Path, tiny: Any) -> None:
    typed = type_in("record", *tiny, "--detail", "layer", "--max-overhead", "99%", "-o", "a.json")

    assert typed.code == 0, typed.err
    assert (api.load("a.json").detail, api.load("a.json").lowered) == ("layer", None)


def test_without_warm_ups_it_asks_once_and_says_so(
    type_in: Any, folder: Path, tiny: Any, asked: list[str], costs: dict[str, int]
) -> None:
    typed = type_in("record", *tiny, "--warmup", 0, "--max-overhead", "1%", "-o", "a.json")

    assert typed.code == 0, typed.err
    assert asked == [WARMED, TIMED, TIMED]
    assert [generation.role for generation in api.load("a.json").generations] == [TIMED, TIMED]
    assert "--max-overhead asks once before the timed requests" in typed.err.splitlines()[0]


@pytest.mark.parametrize("text", ["1", "100%", "0", "0%", "-1%", "abc", "%", "nan", "inf%", "1%%", "", "0.00000001"])
def test_what_is_no_share_is_refused_with_how_to_write_one(type_in: Any, folder: Path, text: str) -> None:
    typed = type_in("record", "--demo", "--max-overhead", text)

    assert (typed.code, typed.out) == (2, "")
    (line,) = typed.err.splitlines()
    assert f"'{text}' is no share between 0 and 100 %: write 1% or 0.01" in line


@pytest.mark.parametrize("option", [("--measure-overhead",), ("--max-overhead", "1%")], ids=" ".join)
def test_a_program_is_refused_before_it_runs(type_in: Any, folder: Path, option: tuple[str, ...]) -> None:
    (folder / "job.py").write_text("raise SystemExit('the program ran')")

    typed = type_in("record", *option, "--", "job.py")

    assert (typed.code, typed.out) == (2, "")
    (line,) = typed.err.splitlines()
    assert f"'{option[0]}' needs --demo or --model" in line
    assert "the program ran" not in line

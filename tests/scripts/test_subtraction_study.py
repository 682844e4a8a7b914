"""The study's arithmetic, on samples made up to be wrong in known ways."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import subtraction_study as study


def row(decode_raw: float, total: float = 100.0, **more: float) -> dict[str, object]:
    subtraction = {"vision": 30.0, "prefill": 60.0, "total": total, "decode_raw": decode_raw}
    subtraction |= {"decode": max(0.0, decode_raw), "syncs": 6, "wall": total}
    truth = {"vision": 30.0, "prefill": 25.0, "decode": 40.0, "total": 100.5, "syncs": 1, "wall": 101.0, **more}
    return {"subtraction": subtraction, "vlmtrace": truth, "untraced": [99.0, 101.0]}


def test_a_clamped_decode_counts_as_zero_and_its_sum_is_over_the_total() -> None:
    made = study.scored([row(-5.0, total=85.0), row(10.0)], "subtraction")
    assert made["zero or negative"] == 1
    assert made["sum over total"] == 1
    assert made["mean difference ms"] == pytest.approx((40.0 + 30.0) / 2)


def test_vlmtrace_differs_from_itself_by_nothing_and_added_time_is_against_untraced() -> None:
    made = study.scored([row(10.0), row(10.0)], "vlmtrace")
    assert made["mean difference ms"] == 0
    assert made["added to the call ms"] == pytest.approx(0.5)
    assert made["added in all ms"] == pytest.approx(1.0)


def test_what_a_subtraction_adds_is_its_two_other_runs_too() -> None:
    made = study.scored([row(10.0)], "subtraction")
    assert made["added to the call ms"] == pytest.approx(0.0)
    assert made["added in all ms"] == pytest.approx(30.0 + 60.0)


def test_plans_are_the_same_each_time_and_one_in_ten_makes_one_token() -> None:
    plans = list(study.samples(50))
    assert plans == list(study.samples(50))
    assert sum(plan["new"] == 1 for plan in plans) == 5
    assert all(2 <= plan["new"] <= 32 for plan in plans if plan["new"] != 1)

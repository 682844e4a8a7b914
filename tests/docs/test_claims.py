"""What the documents claim of tests and measurements is what tests and measurements say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.capture.discovery.expected_parts import BARE, TINY
from tests.docs.markdown import ROOT

DATA = ROOT / "docs" / "data" / "h100-2026-11-23"
H200 = DATA.with_name("h200-2026-11-29")


def listed(name: str) -> str:
    text = (ROOT / "docs" / "models.md").read_text()
    found = re.search(rf"<!-- tested: {name} -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert found is not None
    return found[1]


def results(name: str, folder: Path = DATA) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_the_families_that_are_said_to_be_run_are_those_that_are() -> None:
    words = re.findall(r"[\w.-]+", listed("families").partition(", the module layout")[0])
    assert "Molmo" in listed("families")
    assert sorted(words) == sorted(TINY.keys() - {"molmo_layout", "llama"})


def test_the_families_whose_parts_are_said_to_be_found_are_those_whose_are() -> None:
    words = re.findall(r"[\w.-]*\w", listed("bare"))
    assert sorted(words) == sorted(BARE.keys() | {"molmo2"})


@pytest.mark.parametrize("one", results("syncs.jsonl"), ids=lambda one: f"{one['shape']}-{one['env']}")
def test_tracing_adds_one_wait_after_each_generation_and_none_inside(one: dict) -> None:
    ranges = one["ranges"]
    assert ranges["generate"]["per_range"] == ranges["plain"]["per_range"]
    assert len(ranges["generate"]["per_range"]) == 1
    assert ranges["wait"] == {"ranges": ranges["generate"]["ranges"], "syncs": 6, "per_range": {"1": 6}}


def test_tracing_adds_one_wait_at_each_detail() -> None:
    """Three generations at `stage`, `module` and `layer` each."""
    (one,) = results("syncs.jsonl", H200)
    ranges = one["ranges"]
    assert ranges["generate"]["per_range"].keys() == ranges["plain"]["per_range"].keys()
    assert ranges["wait"] == {"ranges": 9, "syncs": 9, "per_range": {"1": 9}}
    assert (ranges["generate"]["ranges"], ranges["vision.projector"]["ranges"]) == (9, 6)


@pytest.mark.parametrize("one", results("syncs.jsonl"), ids=lambda one: f"{one['shape']}-{one['env']}")
def test_every_synchronising_call_of_vlmtrace_is_accounted_for(one: dict) -> None:
    ranges, calls = one["ranges"], one["calls"]
    waits, anchors, recordings = ranges["wait"]["syncs"], ranges["anchor"]["syncs"], ranges["recording"]["ranges"]
    assert calls["cudaEventSynchronize_v3020"] == waits + anchors + recordings
    assert calls["cudaDeviceSynchronize_v3020"] == recordings
    ((own, _),) = ranges["generate"]["per_range"].items()
    assert ranges["recording"]["per_range"] == {str(3 * (int(own) + 1 + 5 + 1)): recordings}


def test_the_tokens_were_the_same_in_every_run_measured() -> None:
    runs = results("tokens.jsonl")
    assert len(runs) == 12
    assert all(one["same_tokens"] and one["untraced_agree"] and not any(one["widened_ns"]) for one in runs)
    assert {one["gpu"] for one in runs} == {"NVIDIA H100 80GB HBM3"}
    assert {one["torch"] for one in runs} == {"2.11.0+cu130"}

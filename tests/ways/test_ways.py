"""Every way of generating shows its stages, keeps its tokens, leaves the compiler alone and nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

from tests.ways.examination import examine
from tests.ways.ways import WAYS

PUBLISHED = Path(__file__).parents[2] / "docs" / "data" / "cpu-2026-11-23" / "ways.json"


@pytest.mark.conformance
@pytest.mark.parametrize("name", WAYS)
def test_a_way_of_generating_is_right(name: str) -> None:
    result = examine(WAYS[name])
    assert {column: complaints for column, complaints in result.wrong.items() if complaints} == {}


def test_what_is_published_is_of_every_way_and_of_both_sides_of_the_change() -> None:
    published = json.loads(PUBLISHED.read_text())
    assert transformers.__version__ in published
    assert len(published) >= 2
    assert all(found.keys() == WAYS.keys() for found in published.values())
    assert all(all(columns.values()) for found in published.values() for columns in found.values())

"""Every model type of transformers that takes images and generates: what is told of it is what ran."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.conformance.check import check
from tests.tiny.models import LEFT_OUT, build, buildable
from tests.tiny.remote_code import MOLMO_LAYOUT
from tests.tiny.shrinking import known_types

pytestmark = pytest.mark.conformance

DATA = Path(__file__).parents[2] / "docs" / "data" / "cpu-2026-11-23"


def published() -> dict[str, Any]:
    """What the documents say of the installed version."""
    minor = ".".join(transformers.__version__.split(".")[:2])
    found: dict[str, Any] = json.loads((DATA / f"conformance-{minor}.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("model_type", buildable())
def test_what_is_told_of_a_type_is_what_ran_and_what_the_documents_say(model_type: str) -> None:
    verdicts = check(build(model_type))
    assert verdicts.problems == ()
    assert verdicts.as_json() == published()["types"][model_type]


def test_the_documents_leave_no_type_out_without_a_reason() -> None:
    known = published()
    assert {*known["types"], *known["left_out"]} == {*known_types(), MOLMO_LAYOUT}
    assert known["left_out"] == {kind: reason for kind, reason in LEFT_OUT.items() if kind in known_types()}

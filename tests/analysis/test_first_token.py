"""The way to the first token, each nanosecond in one part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.altered import rebuilt
from tests.synthetic import MS, Shape, recording
from vlmtrace.analysis.first_token import BEFORE, ENTRY, first_token_parts
from vlmtrace.analysis.measured import Measured, measure
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording


def only(made: Recording) -> Measured:
    (one,) = measure(made)
    return one


def test_every_part_has_its_own_time_in_order() -> None:
    parts = [(part.name, part.ns) for part in first_token_parts(only(recording(Shape(first_token=MS))))]
    assert parts == [
        (names.PREPROCESS, 5 * MS),
        (BEFORE, MS - 5_000),
        (ENTRY, 5_000),
        (names.OTHER_SETUP, 2 * MS),
        (names.VISION, 30 * MS),
        (names.OTHER_BETWEEN, MS),
        (names.PREFILL, 20 * MS),
        (names.OTHER_FIRST_TOKEN, MS // 2),
    ]


def test_a_vision_inside_prefill_is_told_as_vision() -> None:
    parts = {part.name: part.ns for part in first_token_parts(only(recording(Shape(vision_inside=True))))}
    assert (parts[names.VISION], parts[names.PREFILL]) == (30 * MS, 20 * MS)


@given(
    lead=st.integers(0, 8 * MS),
    vision=st.integers(30 * MS, 10**9),
    inside=st.booleans(),
    device=st.sampled_from([0, None]),
    steps=st.integers(0, 2),
)
def test_the_parts_add_up_to_ttft_whatever_their_lengths(
    lead: int, vision: int, inside: bool, device: int | None, steps: int
) -> None:
    one = only(recording(Shape(lead=lead, vision=vision, vision_inside=inside, steps=steps), device=device))
    parts = first_token_parts(one)
    assert sum(part.ns for part in parts) == one.metrics.ttft_e2e
    assert sum(part.ns for part in parts if part.inside) == one.metrics.ttft
    assert all(part.ns > 0 for part in parts)


@pytest.mark.parametrize("missing", [names.PREPROCESS, names.TOKEN])
def test_what_was_not_seen_is_not_made_up(missing: str) -> None:
    one = only(rebuilt(recording(), keep=lambda span: span.name != missing))
    parts = first_token_parts(one)
    if missing == names.TOKEN:
        assert parts == ()
    else:
        assert parts[0].name == ENTRY
        assert sum(part.ns for part in parts) == one.metrics.ttft

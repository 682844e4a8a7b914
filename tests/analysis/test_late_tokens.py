"""Tokens that came late, and what the host did meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.analysis.altered import rebuilt
from tests.synthetic import MS, Shape, recording
from vlmtrace.analysis.late_tokens import LateToken, late_tokens
from vlmtrace.analysis.summary import summarise
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording
from vlmtrace.timeline.spans import NewSpan

STEADY = Shape(steps=12)


def without_tokens(made: Recording, *numbers: int) -> Recording:
    """``made`` where the first generation never marked these tokens: the one behind them comes so much later."""
    return rebuilt(
        made, keep=lambda span: span.name != names.TOKEN or span.generation != 0 or span.number not in numbers
    )


def late(made: Recording) -> tuple[LateToken, ...]:
    return late_tokens(made, summarise(made).counted)


def test_a_token_of_more_than_three_medians_is_late_and_one_of_three_is_not() -> None:
    assert late(without_tokens(recording(STEADY), 4, 5)) == ()
    (found,) = late(without_tokens(recording(STEADY), 4, 5, 6))
    assert (found.generation, found.token, found.ns, found.causes) == (0, 4, 44 * MS, ())


def test_the_longest_is_told_first() -> None:
    made = without_tokens(recording(STEADY), 2, 3, 4, 7, 8, 9, 10)
    assert [one.ns for one in late(made)] == [55 * MS, 44 * MS]


@pytest.mark.parametrize("name", [names.GC, names.COMPILE, names.CAPTURE])
def test_what_the_host_did_between_the_two_marks_is_its_cause(name: str) -> None:
    made = without_tokens(recording(STEADY), 4, 5, 6)
    before = next(span.begin for span in made.spans.named(names.TOKEN) if span.number == 3)
    host = [track.kind for track in made.tracks].index("host")
    spans = [NewSpan(name, host, (before + begin * MS, before + end * MS)) for begin, end in ((-5, 2), (10, 19))]
    (found,) = late(rebuilt(made, more=tuple(spans)))
    assert found.causes == ((name, 11 * MS),)


def test_retries_of_the_allocator_are_told_of_the_generation() -> None:
    made = without_tokens(recording(STEADY), 4, 5, 6)
    retried = replace(made.generations[0], device_state={"alloc_retries": 2})
    (found,) = late(replace(made, generations=(retried,)))
    assert found.alloc_retries == 2

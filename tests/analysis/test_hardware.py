"""Findings about the GPU and its allocator."""

from __future__ import annotations

from tests.analysis.altered import with_generation
from tests.synthetic import Shape, recording
from vlmtrace.analysis.case import Slug
from vlmtrace.analysis.summary import summarise
from vlmtrace.timeline.recording import Json, Recording


def told(made: Recording) -> dict[Slug, str]:
    return {finding.slug: finding.evidence for finding in summarise(made).findings}


def with_state(**state: Json) -> Recording:
    return with_generation(recording(*(Shape(),) * 5), 2, device_state=state)


def test_nothing_is_said_where_nothing_is_known_or_wrong() -> None:
    fine = with_state(alloc_retries=0, sm_clock_mhz=1980, max_sm_clock_mhz=1980, throttled_by=[])
    for made in (recording(*(Shape(),) * 5), fine):
        assert not {Slug.THROTTLED, Slug.LOW_CLOCKS, Slug.ALLOCATOR_RETRIED} & told(made).keys()


def test_each_reason_that_held_the_clock_down_is_counted() -> None:
    evidence = told(with_state(throttled_by=["sw_power_cap", "hw_slowdown"]))[Slug.THROTTLED]
    assert "1 of 1 generation that NVML was asked after" in evidence
    assert "sw_power_cap in 1" in evidence
    assert "hw_slowdown in 1" in evidence


def test_a_clock_at_four_fifths_is_not_low_and_one_below_is() -> None:
    assert Slug.LOW_CLOCKS not in told(with_state(sm_clock_mhz=800, max_sm_clock_mhz=1000))
    assert "799 of 1,000 MHz" in told(with_state(sm_clock_mhz=799, max_sm_clock_mhz=1000))[Slug.LOW_CLOCKS]


def test_retries_name_the_generation_that_had_most() -> None:
    assert "2 times in #2" in told(with_state(alloc_retries=2))[Slug.ALLOCATOR_RETRIED]

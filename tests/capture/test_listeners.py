"""NVTX ranges: nested, balanced, named by the stage alone; and nothing at all where no tool listens."""

from __future__ import annotations

from tests.capture.fake_nvtx import FakeDomain
from vlmtrace.capture.listeners import Fanout, NvtxRanges, attached_nvtx_domain
from vlmtrace.timeline import names
from vlmtrace.timeline.marks import POINT
from vlmtrace.timeline.spans import NONE

STEP = names.KIND_OF[names.STEP]
LAYER = names.KIND_OF[names.LAYER]
TOKEN = names.KIND_OF[names.TOKEN]


def test_without_a_tool_there_is_no_domain_to_push_to() -> None:
    assert attached_nvtx_domain() is None


def test_a_range_is_called_as_its_stage_and_a_step_carries_its_number() -> None:
    domain = FakeDomain()
    ranges = NvtxRanges(domain, names.KINDS.__getitem__)
    ranges.mark(STEP, 4)
    ranges.mark(LAYER, 17)
    ranges.mark(~LAYER, NONE)
    ranges.mark(~STEP, NONE)
    assert domain.log == [("push", "decode.step", 4), ("push", "layer", None), ("pop",), ("pop",)]
    assert domain.depth == 0


def test_points_push_nothing() -> None:
    domain = FakeDomain()
    NvtxRanges(domain, names.KINDS.__getitem__).mark(POINT | TOKEN, 1)
    assert domain.log == []


def test_unwinding_closes_what_an_interrupt_left_open() -> None:
    domain = FakeDomain()
    ranges = NvtxRanges(domain, names.KINDS.__getitem__)
    ranges.mark(STEP, 0)
    ranges.mark(LAYER, 0)
    ranges.unwind(0)
    assert domain.depth == ranges.depth == 0


def test_the_outer_listener_is_told_first_of_a_begin_and_last_of_an_end() -> None:
    told: list[tuple[str, int, int]] = []

    class Told:
        def __init__(self, name: str) -> None:
            self.name = name

        def mark(self, code: int, number: int) -> None:
            told.append((self.name, code, number))

    both = Fanout(Told("outer"), Told("inner"))
    both.mark(STEP, 3)
    both.mark(POINT | TOKEN, 0)
    both.mark(~STEP, NONE)
    assert told == [
        *(("outer", STEP, 3), ("inner", STEP, 3)),
        *(("outer", POINT | TOKEN, 0), ("inner", POINT | TOKEN, 0)),
        *(("inner", ~STEP, NONE), ("outer", ~STEP, NONE)),
    ]

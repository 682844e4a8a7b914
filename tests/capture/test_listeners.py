"""NVTX ranges: nested, balanced, named by the stage alone; and nothing at all where no tool listens."""

from __future__ import annotations

from tests.capture.fake_nvtx import FakeDomain
from vlmtrace.capture.listeners import Fanout, NvtxRanges, attached_nvtx_domain
from vlmtrace.timeline import names

STEP = names.KIND_OF[names.STEP]
LAYER = names.KIND_OF[names.LAYER]
TOKEN = names.KIND_OF[names.TOKEN]


def test_without_a_tool_there_is_no_domain_to_push_to() -> None:
    assert attached_nvtx_domain() is None


def test_a_range_is_called_as_its_stage_and_a_step_carries_its_number() -> None:
    domain = FakeDomain()
    ranges = NvtxRanges(domain, names.KINDS.__getitem__)
    ranges.enter(STEP, 4)
    ranges.enter(LAYER, 17)
    ranges.leave(LAYER)
    ranges.leave(STEP)
    assert domain.log == [("push", "decode.step", 4), ("push", "layer", None), ("pop",), ("pop",)]
    assert domain.depth == 0


def test_points_push_nothing() -> None:
    domain = FakeDomain()
    NvtxRanges(domain, names.KINDS.__getitem__).point(TOKEN, 1)
    assert domain.log == []


def test_unwinding_closes_what_an_interrupt_left_open() -> None:
    domain = FakeDomain()
    ranges = NvtxRanges(domain, names.KINDS.__getitem__)
    ranges.enter(STEP, 0)
    ranges.enter(LAYER, 0)
    ranges.unwind(0)
    assert domain.depth == ranges.depth == 0


def test_listeners_are_told_in_turn_and_left_in_reverse() -> None:
    told: list[tuple[str, str]] = []

    class Told:
        def __init__(self, name: str) -> None:
            self.name = name

        def enter(self, kind: int, number: int) -> None:
            told.append((self.name, "enter"))

        def leave(self, kind: int) -> None:
            told.append((self.name, "leave"))

        def point(self, kind: int, number: int) -> None:
            told.append((self.name, "point"))

    both = Fanout(Told("a"), Told("b"))
    both.enter(STEP, 0)
    both.point(TOKEN, 0)
    both.leave(STEP)
    assert told == [(n, w) for w, order in (("enter", "ab"), ("point", "ab"), ("leave", "ba")) for n in order]

"""When the allocator is read, and whose each peak is: of boundaries that are made up, in every order they come in."""

from __future__ import annotations

import pytest
import torch

from tests.capture.fakes import FakeAllocator
from vlmtrace.capture.listeners import Fanout
from vlmtrace.capture.memory import Allocator, MemoryMeter, tell_peaks
from vlmtrace.capture.tape import Tape
from vlmtrace.timeline import names
from vlmtrace.timeline.assembly import Node, forest, stage_tree
from vlmtrace.timeline.marks import POINT

WEIGHTS = 1_000
STAGES = (names.GENERATE, names.VISION, names.PREFILL, names.DECODE)


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> FakeAllocator:
    made = FakeAllocator(WEIGHTS)
    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", made.stats)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", made.reset)
    return made


class Leaving(Allocator):
    """An allocator that remembers who left."""

    def __init__(self) -> None:
        super().__init__(0)
        self.left: list[object] = []

    def leave(self, reader: object) -> None:
        super().leave(reader)
        self.left.append(reader)


def played(allocator: FakeAllocator, script: str) -> str:
    """The stages and visions that a script makes, and what the peak of each is above what is held, if it has one.

    A word begins the stage of that name, ``/`` ends the innermost, ``token`` is a token, a number is bytes needed.
    """
    shared, tape = Leaving(), Tape(None)
    meter = MemoryMeter(tape, shared)
    mark = Fanout(meter, tape).mark
    open_kinds: list[int] = []
    mark(names.KIND_OF[names.GENERATE])
    for word in script.split():
        if word == "/":
            mark(~open_kinds.pop())
        elif word == names.TOKEN:
            mark(POINT | names.KIND_OF[word])
        elif word.isdecimal():
            allocator.need(int(word))
        else:
            open_kinds.append(names.KIND_OF[names.full(word)])
            mark(open_kinds[-1])
    tape.mark(~names.KIND_OF[names.GENERATE])
    meter.close()
    assert shared.left == [meter]
    tape.resolve()
    (generate,) = forest(tape.marks, tape.marks.device, names.KINDS.__getitem__)
    stage_tree(generate, "stage")
    tell_peaks(generate, meter.readings, tape.marks)

    def told(node: Node) -> str:
        peak = node.args.get("peak_bytes")
        return f"{node.name}={peak - WEIGHTS}" if isinstance(peak, int) else node.name

    return " ".join(told(node) for node in generate.walk() if node.name in STAGES)


SCRIPTS = {
    "vision before the prefill": (
        "70 vision 50 / 40 prefill 30 / 20 token step 10 / token 5 step 15 / 12 token",
        "generate=70 vision=50 prefill=30 decode=15",
        7,
    ),
    "vision inside it": (
        "prefill 31 vision 50 / 30 / 20 token step 10 / token",
        "generate=50 prefill=31 vision=50 decode=10",
        7,
    ),
    "chunks": ("prefill 30 / 40 prefill 35 / 90 token", "generate=90 prefill=40", 5),
    "vision inside of chunks": (
        "prefill 30 vision 50 / 31 / prefill 35 vision 60 / / token",
        "generate=60 prefill=35 vision=50 vision=60",
        9,
    ),
    "two loops of one token": ("prefill 30 / token 80 prefill 20 / token", "generate=80 prefill=30 prefill=20", 6),
    "two loops": (
        "prefill 30 / token step 10 / 80 prefill 20 / token step 5 / 9",
        "generate=80 prefill=30 decode=80 prefill=20 decode=9",
        8,
    ),
    "vision in a step": (
        "prefill 30 / token step 10 vision 90 / / 20 step 5 / token",
        "generate=90 prefill=30 decode=90 vision",
        5,
    ),
    "encoder and projector by themselves": (
        "vision.encoder 50 / 60 vision.projector 40 / 70 prefill 30 /",
        "generate=70 vision=60 prefill=30",
        7,
    ),
    "encoder and projector of a feature call": (
        "vision vision.encoder 50 / 9 vision.projector 40 / / 60 prefill 30 /",
        "generate=60 vision=50 prefill=30",
        6,
    ),
    "two visions": ("vision 50 / 70 vision 40 / prefill 30 /", "generate=70 vision=50 vision=40 prefill=30", 8),
    "a stage that was never left": ("prefill 30", "generate=30 prefill=30", 3),
}


@pytest.mark.parametrize(("script", "expected", "readings"), SCRIPTS.values(), ids=SCRIPTS)
def test_what_lies_between_two_readings_belongs_to_the_stage_there(
    allocator: FakeAllocator, script: str, expected: str, readings: int
) -> None:
    assert played(allocator, script) == expected
    assert allocator.reads == readings


def test_a_reset_by_one_thread_takes_no_peak_from_another(allocator: FakeAllocator) -> None:
    shared, mine, other = Allocator(0), object(), object()
    shared.read(mine)
    shared.read(other)
    allocator.need(400)
    assert shared.read(other) == (WEIGHTS, 20, WEIGHTS + 400)
    allocator.need(300)
    assert shared.read(other) == (WEIGHTS, 20, WEIGHTS + 300)
    assert shared.read(mine) == (WEIGHTS, 20, WEIGHTS + 400)
    shared.leave(other)
    allocator.need(100)
    assert shared.read(mine) == (WEIGHTS, 20, WEIGHTS + 100)

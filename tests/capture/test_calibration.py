"""Prices on a made-up clock: each holds what it is called after, once, and nothing of what is called besides."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

import vlmtrace
from tests.capture.fake_nvtx import FakeAttributes, FakeDomain
from tests.capture.fakes import FakeHost
from tests.capture.test_recorder import NEW, build, generate
from vlmtrace.capture import calibration, lanes
from vlmtrace.capture.calibration import Prices, calibrate
from vlmtrace.capture.listeners import NvtxRanges
from vlmtrace.capture.observed import CURRENT, Loop, Observed
from vlmtrace.capture.recorder import Recorder, RecorderOptions
from vlmtrace.capture.tape import Tape
from vlmtrace.timeline import names


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """A clock that stands still but for what is spent; torch's own work takes no time on it."""
    host = FakeHost(tick=0)
    monkeypatch.setattr(calibration, "time", SimpleNamespace(perf_counter_ns=host.now))
    return host


class SlowDomain(FakeDomain):
    def __init__(self, host: FakeHost) -> None:
        super().__init__()
        self.host = host

    def push_range(self, attributes: FakeAttributes) -> None:
        self.host.spend(30)
        super().push_range(attributes)

    def pop_range(self) -> None:
        self.host.spend(20)
        super().pop_range()


def test_each_price_is_of_one_thing_alone(host: FakeHost) -> None:
    def mark(_code: int, _number: int) -> None:
        host.spend(700)

    ranges = NvtxRanges(SlowDomain(host), names.KINDS.__getitem__)
    assert calibrate(Tape(None), mark, lambda: host.spend(900), ranges) == Prices(700, 50, 900)
    assert ranges.count == ranges.depth == 0


def test_without_a_tool_ranges_cost_nothing(host: FakeHost) -> None:
    tape = Tape(None)
    assert calibrate(tape, tape.mark, lambda: None, None) == Prices()
    assert len(tape) > 0, "what was marked is left on the tape"


def test_what_interrupts_a_single_call_is_not_in_the_price(host: FakeHost) -> None:
    calls = iter(range(10_000))

    def mark(_code: int, _number: int) -> None:
        host.spend(700 if next(calls) % 10 else 1_000_000)

    assert calibrate(Tape(None), mark, lambda: None, None).mark_ns == 700


def test_a_busy_stretch_of_the_machine_is_not_in_the_price(host: FakeHost) -> None:
    calls = iter(range(10_000))

    def mark(_code: int, _number: int) -> None:
        host.spend(700 if next(calls) > 200 else 5_000)

    assert calibrate(Tape(None), mark, lambda: None, None).mark_ns == 700


def test_work_beside_the_marks_needs_no_other_threads() -> None:
    """On a busy machine whatever waits for threads of torch's takes milliseconds."""
    work = """
import os, sys, torch
from vlmtrace.capture.calibration import _other_work
work, threads = _other_work(), lambda: len(os.listdir("/proc/self/task"))
before = threads()
work()
assert threads() == before, "torch has begun threads for it"
torch.nn.functional.layer_norm(torch.ones(8, 8), (8,))
assert threads() > before, "threads are begun here where they are needed"
"""
    subprocess.run([sys.executable, "-c", work], check=True, env=os.environ | {"OMP_NUM_THREADS": "2"})


def test_a_thread_in_a_generation_is_still_in_it_afterwards() -> None:
    observed = Observed(lambda _code, _number: None, lambda: None, Loop(None))
    CURRENT.observed = observed
    try:
        calibrate(Tape(None), lambda _code, _number: None, lambda: None, None)
        assert CURRENT.observed is observed
    finally:
        CURRENT.observed = None


def test_a_generation_costs_its_marks_and_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "calibrate", lambda *_: Prices(mark_ns=10, token_ns=1_000_000))
    tiny = build("llava")
    with vlmtrace.trace(tiny.model, detail="stage") as session:
        generate(tiny)
    cost = session.recording.cost
    assert (cost.mark_ns, cost.token_ns) == (10, 1_000_000)
    # generate, vision, encoder, projector and each forward begin and end; each token is one mark.
    assert cost.host_ns == (NEW * 1_000_000 + 10 * (2 * (4 + NEW) + NEW),)


def test_only_spans_have_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "calibrate", lambda *_: Prices(range_ns=10))
    tiny, domain = build("llava"), FakeDomain()
    recorder = Recorder(RecorderOptions("ranges"), [tiny.model], domain)
    with recorder:
        generate(tiny)
    pushed = [entry[1] for entry in domain.log if entry[0] == "push"]
    assert recorder.finish().cost.host_ns == (10 * len(pushed),)


def test_a_clock_is_priced_once_for_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    priced: list[Tape] = []
    monkeypatch.setattr(lanes, "calibrate", lambda tape, *_: priced.append(tape) or Prices(mark_ns=3))
    tiny = build("llava")
    with vlmtrace.trace(tiny.model) as session:
        for _ in range(2):
            thread = threading.Thread(target=generate, args=(tiny,))
            thread.start()
            thread.join()
    assert len(priced) == 1
    assert len(session.recording.cost.host_ns) == 2
    assert all(session.recording.cost.host_ns)


def test_room_that_grows_inside_a_generation_is_a_cost_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "calibrate", lambda *_: Prices())
    reserve = Tape.reserve

    def growing(tape: Tape, room: int) -> None:
        reserve(tape, room)
        tape.grown_ns += 5_000

    tiny = build("llava")
    with vlmtrace.trace(tiny.model, detail="stage") as session:
        generate(tiny)
        monkeypatch.setattr(Tape, "reserve", growing)
        generate(tiny)
    assert session.recording.cost.host_ns == (0, NEW * 5_000)

"""Marks on a fake device: resolved once, chained, and true to what the device did."""

from __future__ import annotations

import itertools

import pytest

from tests.capture.fakes import FakeDevice, FakeHost
from vlmtrace.capture.tape import Tape
from vlmtrace.timeline.alignment import Constraints, fit_offset, fit_rate, tightest_marks
from vlmtrace.timeline.marks import POINT, UNRESOLVED
from vlmtrace.timeline.spans import NONE

MS = 1_000_000


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


def test_marking_waits_for_nothing_and_asks_for_no_elapsed_time(host: FakeHost) -> None:
    device = FakeDevice(host)
    tape = Tape(device, now=host.now)
    tape.anchor()
    waits = device.waits
    for _ in range(100):
        device.launch(5 * MS)
        tape.mark(1, 0)
        tape.mark(~1, NONE)
    assert device.waits == waits
    assert len(tape.marks) == 0


def test_the_host_time_is_read_before_the_event_is_recorded(host: FakeHost) -> None:
    device = FakeDevice(host, latency=0)
    tape = Tape(device, now=host.now)
    tape.anchor()
    tape.mark(3, 7)
    event = tape._events[0]
    tape.wait(tape.fence())
    tape.resolve()
    assert tape.marks.host[0] <= device.truth[event]
    assert (tape.marks.code[0], tape.marks.number[0]) == (3, 7)


def test_ends_and_points_are_told_apart_from_begins(host: FakeHost) -> None:
    tape = Tape(None, now=host.now)
    tape.mark(2, 5)
    tape.mark(POINT | 4, 6)
    tape.mark(~2, NONE)
    tape.resolve()
    assert list(tape.marks.code) == [2, POINT | 4, ~2]
    assert list(tape.marks.number) == [5, 6, -1]
    assert tape.marks.device == tape.marks.host


def test_a_tape_grows_when_its_room_was_too_small_and_loses_nothing(host: FakeHost) -> None:
    device = FakeDevice(host)
    tape = Tape(device, capacity=4, now=host.now)
    tape.anchor()
    for n in range(50):
        tape.mark(1, n)
    tape.wait(tape.fence())
    tape.resolve()
    assert list(tape.marks.number) == list(range(50))
    assert list(tape.marks.device) == sorted(tape.marks.device)


def test_a_stream_that_is_met_later_is_recorded_on_and_its_mark_is_told_once(host: FakeHost) -> None:
    device = FakeDevice(host)
    tape = Tape(device, now=host.now)
    tape.anchor()
    for device.current in ("a", "b", "a"):
        tape.mark(1, NONE)
    tape.wait(tape.fence())
    tape.resolve()
    assert len(tape.marks) == 3
    assert sorted(device.streams) == ["a", "b"]


def test_a_mark_recorded_into_a_graph_is_unresolved_and_its_neighbours_are_not(host: FakeHost) -> None:
    device = FakeDevice(host)
    tape = Tape(device, now=host.now)
    tape.anchor()
    tape.mark(1, 0)
    device.capturing = True
    tape.mark(2, 0)
    device.capturing = False
    tape.mark(~1, NONE)
    tape.wait(tape.fence())
    tape.resolve()
    assert [at == UNRESOLVED for at in tape.marks.device] == [False, True, False]


def test_events_are_given_back_when_a_tape_is_closed(host: FakeHost) -> None:
    device = FakeDevice(host)
    tape = Tape(device, now=host.now)
    tape.anchor()
    tape.close()
    assert not device.alive


def test_a_lost_device_leaves_the_host_times(host: FakeHost) -> None:
    tape = Tape(FakeDevice(host), now=host.now)
    tape.anchor()
    tape.mark(1, 0)
    tape.lose()
    assert list(tape.marks.device) == [UNRESOLVED]
    assert tape.marks.host[0] > 0


@pytest.mark.parametrize("minutes", [0, 10])
def test_after_ten_minutes_a_step_is_as_precise_as_after_one_second(host: FakeHost, minutes: int) -> None:
    """One long generation: steps of 30 ms on the device, 20 ppm of drift, float32 elapsed times."""
    device = FakeDevice(host, drift_ppm=20)
    tape = Tape(device, now=host.now)
    tape.anchor()
    true: list[int] = []
    length = 30 * MS
    for n in range(30 + minutes * 2_000):
        host.spend(length)
        device.launch(length // 2)
        tape.mark(1, n)
        true.append(device.truth[tape._events[len(tape) - 1]])
    after = tape.wait(fence := tape.fence())
    tape.resolve()
    waited = (after, tape.position(fence))
    tape.anchor()
    marks = tightest_marks(tape.marks.host, tape.marks.device)
    fitted = fit_offset(
        fit_rate(tape.anchors), tape.marks.device[0], Constraints(marks, [waited], tape.anchors, tape.chain_ns)
    )
    placed = [fitted(at) for at in tape.marks.device]
    steps = [b - a for a, b in itertools.pairwise(placed)]
    truth = [b - a for a, b in itertools.pairwise(true)]
    errors = [abs(a - b) for a, b in zip(steps, truth, strict=True)]
    assert max(errors[-20:]) <= 200, "the last steps are off by more than float32 at one second explains"
    assert max(abs(a - b) for a, b in zip(placed, true, strict=True)) <= fitted.bound_ns


def test_growing_is_timed_and_having_room_is_not(host: FakeHost) -> None:
    tape = Tape(FakeDevice(host), 8, host.now)
    grown = tape.grown_ns
    tape.reserve(8)
    assert tape.grown_ns == grown
    tape.reserve(10_000)
    assert tape.grown_ns == grown + host.tick


def test_a_closed_tape_takes_no_more_marks_and_leaves_the_device_alone(host: FakeHost) -> None:
    device = FakeDevice(host)
    tape = Tape(device, 8, host.now)
    tape.anchor()
    tape.mark(0, NONE)
    tape.wait(tape.fence())
    tape.resolve()
    tape.close()
    tape.mark(~0, NONE)
    tape.reserve(100)
    assert len(tape.marks) == 1
    assert not device.alive


def test_a_tape_that_another_thread_is_writing_keeps_its_events(host: FakeHost) -> None:
    device = FakeDevice(host)
    tape = Tape(device, 8, host.now)
    tape.close(in_use=True)
    assert device.alive

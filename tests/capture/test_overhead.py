"""Requests made with and without tracing: in which order, how each is timed, and that untraced is untraced."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import pytest
import torch

from tests.leftovers import leftovers, snapshot
from tests.saved_models import saved
from vlmtrace.capture import loading, overhead
from vlmtrace.capture.loading import LoadOptions
from vlmtrace.capture.overhead import Stopwatch, measure_overhead, pairs_for
from vlmtrace.capture.recorder import RecorderOptions, active
from vlmtrace.capture.samples import Sample
from vlmtrace.capture.workload import TRACED, UNTRACED, Asker, WorkloadOptions
from vlmtrace.errors import VlmtraceError
from vlmtrace.timeline.recording import OverheadPair

_HI, _BYE = Sample("hi", "Hi", (), 2), Sample("bye", "Bye", (), 3)


class Clock:
    """A clock that stands still unless something takes time."""

    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        return self.now

    def taking(self, ns: int) -> Callable[..., str]:
        def act(*_: object, **__: object) -> str:
            self.now += ns
            return "done"

        return act


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of stopwatches; collecting garbage takes some of it."""
    made = Clock()
    monkeypatch.setattr(Stopwatch.__init__, "__defaults__", (made,))
    monkeypatch.setattr(overhead.gc, "collect", made.taking(1_000_000))
    return made


@pytest.fixture
def asker() -> Asker:
    loaded = loading.load(LoadOptions(str(saved("text")), device="cpu"))
    return Asker(loaded, WorkloadOptions(ignore_eos=True))


def measured(
    asker: Asker, pairs: int, *samples: Sample, detail: str = "stage"
) -> tuple[tuple[OverheadPair, ...], list[tuple[int, int, str]]]:
    """What was measured, and what progress was told."""
    told: list[tuple[int, int, str]] = []
    made = measure_overhead(
        asker, [(sample,) for sample in samples or (_HI,)], RecorderOptions("x", detail), pairs,
        lambda *step: told.append(step),
    )  # fmt: skip
    return made, told


@pytest.mark.parametrize(("repeats", "pairs"), [(1, 10), (10, 10), (11, 12), (12, 12), (101, 102)])
def test_there_are_as_many_pairs_as_repeats_ten_at_least_and_each_order_equally_often(repeats: int, pairs: int) -> None:
    assert pairs_for(repeats) == pairs


def test_a_call_is_timed_from_an_idle_device_to_an_idle_device(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was queued before the call is none of its time; what it leaves in the queue is."""
    queued = [5_000, 70]
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: clock.taking(queued.pop(0))())
    watch = Stopwatch(device=0)

    assert watch.time(clock.taking(300)) == "done"
    assert watch.lap() == 370


def test_without_a_device_nothing_is_waited_for(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("it waited"))
    watch = Stopwatch(device=None)
    watch.time(clock.taking(300))
    assert watch.lap() == 300


@pytest.mark.parametrize("calls", [0, 2])
def test_a_request_that_is_not_one_call_is_not_timed(clock: Clock, calls: int) -> None:
    watch = Stopwatch(device=None)
    for _ in range(calls):
        watch.time(clock.taking(1))
    with pytest.raises(VlmtraceError, match=f"made {calls} calls of generate"):
        watch.lap()
    watch.time(clock.taking(5))
    assert watch.lap() == 5


def test_the_order_turns_round_with_each_pair_behind_one_that_is_not_kept(asker: Asker) -> None:
    made, told = measured(asker, 4)

    assert len(made) == 4
    assert [role for _, _, role in told] == [
        TRACED, UNTRACED,
        UNTRACED, TRACED, TRACED, UNTRACED, UNTRACED, TRACED, TRACED, UNTRACED,
    ]  # fmt: skip
    assert [(number, total) for number, total, _ in told] == [(number, 10) for number in range(10)]


def test_both_of_a_pair_make_the_same_request_and_pairs_go_through_the_requests(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = asker.ask

    def noted(batch: Any, around: Any) -> list[str]:
        asked.append(batch[0].id)
        return ask(batch, around)

    monkeypatch.setattr(asker, "ask", noted)
    measured(asker, 2, _HI, _BYE)

    assert asked == ["bye", "bye", "hi", "hi", "bye", "bye"]


def test_each_time_is_put_where_it_belongs(asker: Asker, clock: Clock) -> None:
    """A model that takes 1 µs a forward, and 400 ns more where it is traced."""
    asker.model.register_forward_pre_hook(
        lambda *_: clock.taking(1_000 if active() is None else 1_400)() and None,
    )
    made, _ = measured(asker, 2, _HI)
    assert made == (OverheadPair(2_000, 2_800),) * 2


@pytest.mark.parametrize("detail", ["stage", "layer"])
def test_untraced_is_as_without_vlmtrace_and_traced_is_with_all_that_the_detail_attaches(
    asker: Asker, detail: str
) -> None:
    model = asker.model

    def wraps() -> int:
        return sum(name in vars(one) for one in model.modules() for name in ("_call_impl", "get_image_features"))

    seen: list[tuple[bool, int, frozenset[str], list[str]]] = []
    model.register_forward_pre_hook(
        lambda *_: seen.append((active() is not None, wraps(), frozenset(vars(model)), leftovers(before))),
    )
    before, bare, own = snapshot(), wraps(), frozenset(vars(model))

    measured(asker, 2, detail=detail)

    runs = [next(run) for _, run in groupby(seen, key=lambda one: one[0])]
    assert [traced for traced, *_ in runs] == [True, False, True, False]
    for traced, attached, names, left in seen:
        if traced:
            assert attached > bare + (0 if detail == "stage" else 4)
            assert left
        else:
            assert (attached, names, left) == (bare, own, [])
    assert (wraps(), frozenset(vars(model)), active()) == (bare, own, None)


def test_attaching_is_done_before_the_time_begins(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    attached: list[bool] = []
    time = Stopwatch.time

    def noted(watch: Stopwatch, call: Callable[[], Any]) -> Any:
        attached.append("_get_stopping_criteria" in vars(asker.model))
        return time(watch, call)

    monkeypatch.setattr(Stopwatch, "time", noted)
    measured(asker, 2)

    assert attached == [True, False, False, True, True, False]


@pytest.mark.parametrize(("failing", "role"), [(1, "a traced"), (2, "an untraced")])
def test_a_request_that_fails_says_which_and_leaves_no_recorder(
    asker: Asker, failing: int, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = asker.model.forward, []

    def fails(*given: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) > 2 * (failing - 1):
            raise ValueError("full")
        return forward(*given, **more)

    monkeypatch.setattr(asker.model, "forward", fails)
    with pytest.raises(VlmtraceError, match=f"sample 'hi' failed in {role} request: ValueError: full"):
        measured(asker, 2)
    assert active() is None


def test_a_generate_that_is_not_traced_is_said_to_be_none_that_can_be_timed(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asker.model, "generate", lambda input_ids, **_: input_ids, raising=False)
    with pytest.raises(VlmtraceError, match="a request made 0 calls of generate"):
        measured(asker, 2)

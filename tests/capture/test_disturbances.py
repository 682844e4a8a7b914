"""What the host can see of why a step took long."""

from __future__ import annotations

import gc
import threading

import pytest
import torch

from tests.capture.fakes import FakeHost
from vlmtrace.capture.disturbances import Disturbances
from vlmtrace.timeline import names


def test_a_collection_is_seen_with_its_times_and_what_it_found() -> None:
    host = FakeHost(start=0, tick=10)
    seen = Disturbances(host.now, shortest_ns=0)
    seen.install()
    gc.collect(1)
    seen.remove()
    (found,) = [d for d in seen.seen if d.args["gc_generation"] == 1][-1:]
    assert found.name == names.GC
    assert found.end - found.begin == 10
    assert found.thread == threading.get_native_id()


def test_a_collection_that_took_no_time_to_speak_of_is_left_out() -> None:
    seen = Disturbances(FakeHost(tick=10).now)
    seen.install()
    gc.collect(0)
    seen.remove()
    assert seen.seen == []


def test_nothing_is_seen_after_it_was_removed() -> None:
    before = list(gc.callbacks)
    seen = Disturbances()
    seen.install()
    seen.remove()
    seen.seen.clear()
    gc.collect()
    assert seen.seen == []
    assert gc.callbacks == before


@pytest.fixture
def fresh_compiler() -> None:
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_compiler")
def test_a_compilation_is_seen_once_dynamo_is_loaded() -> None:
    handler = torch._dynamo.callback.callback_handler
    before = (list(handler.start_callbacks), list(handler.end_callbacks))
    seen = Disturbances(shortest_ns=0)
    seen.install()
    torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2))
    seen.remove()
    compiled = [d for d in seen.seen if d.name == names.COMPILE]
    assert len(compiled) == 1
    assert compiled[0].args == {"trigger": "dynamo"}
    assert compiled[0].end > compiled[0].begin
    assert (handler.start_callbacks, handler.end_callbacks) == before

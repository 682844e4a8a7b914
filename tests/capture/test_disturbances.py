"""What the host can see of why a step took long."""

from __future__ import annotations

import gc
import sys
import threading
import types

import pytest
import torch

from tests.capture.fakes import FakeHost
from vlmtrace.capture import disturbances
from vlmtrace.capture.disturbances import Disturbances
from vlmtrace.capture.recorder import Recorder, RecorderOptions
from vlmtrace.capture.tape import Tape
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


class Manager:
    """Stands where torch's manager of CUDA graphs does."""

    def run_eager(self, graph: str) -> str:
        return f"ran {graph}"

    def record_function(self, graph: str) -> str:
        raise RuntimeError(graph)


def test_a_graph_being_captured_is_seen_once_its_manager_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    host = FakeHost(start=0, tick=10)
    seen = Disturbances(host.now, shortest_ns=0)
    seen.install()
    Manager().run_eager("before")
    trees = types.ModuleType("torch._inductor.cudagraph_trees")
    trees.CUDAGraphTreeManager = Manager  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, trees.__name__, trees)
    seen.watch_compiler()
    seen.watch_compiler()
    assert Manager().run_eager("a graph") == "ran a graph"
    with pytest.raises(RuntimeError, match="another"):
        Manager().record_function("another")
    seen.remove()
    Manager().run_eager("after")
    captures = [d for d in seen.seen if d.name == names.CAPTURE]
    assert [d.args["trigger"] for d in captures] == ["graph warm-up", "graph"]
    assert all(d.end - d.begin == 10 for d in captures)
    assert Manager.run_eager.__name__ == "run_eager"
    assert not hasattr(Manager.run_eager, "__wrapped__")


def test_a_manager_that_is_loaded_between_tokens_is_found_and_nothing_is_looked_for_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder, tape = Recorder(RecorderOptions("disturbed")), Tape(None)
    recorder.disturbances = seen = Disturbances(FakeHost().now, shortest_ns=0)
    seen.install()
    with monkeypatch.context() as nothing_loaded:
        nothing_loaded.setattr(seen, "watch_compiler", lambda: pytest.fail("nothing has been loaded"))
        recorder._between_tokens(tape, 0)
    trees = types.ModuleType("torch._inductor.cudagraph_trees_of_a_test")
    trees.CUDAGraphTreeManager = Manager  # type: ignore[attr-defined]
    monkeypatch.setattr(
        disturbances, "_CALLS", ((trees.__name__, "CUDAGraphTreeManager", "run_eager", names.CAPTURE, "graph"),)
    )
    monkeypatch.setitem(sys.modules, trees.__name__, trees)
    recorder._between_tokens(tape, 0)
    Manager().run_eager("a graph")
    seen.remove()
    assert [d.name for d in seen.seen if d.name == names.CAPTURE] == [names.CAPTURE]


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


@pytest.mark.usefixtures("fresh_compiler")
def test_the_compiler_is_listened_to_again_after_it_was_reset() -> None:
    seen = Disturbances(shortest_ns=0)
    seen.install()
    torch._dynamo.reset()
    seen.watch_compiler()
    torch.compile(lambda x: x + 2, backend="eager")(torch.ones(2))
    torch._dynamo.reset()
    seen.remove()
    assert names.COMPILE in {d.name for d in seen.seen}


@pytest.mark.usefixtures("fresh_compiler")
def test_a_collection_between_the_graphs_of_a_compiled_function_is_not_compiled() -> None:
    def collect(x: torch.Tensor) -> torch.Tensor:
        x = x + 1
        gc.collect()
        return x + 1

    def frames() -> int:
        torch._dynamo.reset_code_caches()
        torch._dynamo.utils.counters.clear()
        torch.compile(collect, backend="eager")(torch.ones(2))
        return torch._dynamo.utils.counters["frames"]["total"]

    alone = frames()
    seen = Disturbances(shortest_ns=0)
    seen.install()
    beside = frames()
    seen.remove()
    assert beside == alone
    assert names.GC in {d.name for d in seen.seen}

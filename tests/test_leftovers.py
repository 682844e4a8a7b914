"""The check that nothing is left behind sees each thing that could be."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import pytest

from tests.leftovers import leftovers, snapshot


@pytest.fixture
def mixin() -> type:
    return pytest.importorskip("transformers.generation.utils").GenerationMixin


def test_a_process_in_which_nothing_happened_has_no_leftovers() -> None:
    assert leftovers(snapshot()) == []


def test_a_wrapped_method_of_a_watched_class_is_found(mixin: type, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot()
    with monkeypatch.context() as patch:
        patch.setattr(mixin, "generate", lambda self: None)
        assert leftovers(before) == ["GenerationMixin.generate was left patched"]
    assert leftovers(before) == []


def test_a_method_added_to_a_subclass_is_found(mixin: type) -> None:
    child = type("Child", (mixin,), {})
    before = snapshot()
    child.generate = lambda self: None  # type: ignore[attr-defined]
    assert leftovers(before) == ["Child.generate was left patched"]


def test_an_import_finder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot()
    monkeypatch.setattr(sys, "meta_path", [object(), *sys.meta_path])
    (found,) = leftovers(before)
    assert found.startswith("sys.meta_path was")


def test_a_running_thread_is_found() -> None:
    before = snapshot()
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="straggler")
    thread.start()
    try:
        assert leftovers(before) == ["thread 'straggler' still runs"]
    finally:
        end.set()
        thread.join()
    assert leftovers(before) == []


def test_changed_arguments_folder_main_module_and_signal_handler_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = snapshot()
    monkeypatch.setattr(sys, "argv", ["other"])
    monkeypatch.setitem(sys.modules, "__main__", sys)
    monkeypatch.chdir(tmp_path)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        found = leftovers(before)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert [line.split(" was ")[0] for line in found] == [
        "the handler of SIGINT",
        "sys.modules['__main__']",
        "sys.argv",
        "the working folder",
    ]


def test_a_global_module_hook_is_found() -> None:
    module = pytest.importorskip("torch.nn.modules.module")
    before = snapshot()
    handle = module.register_module_forward_hook(lambda *args: None)
    try:
        assert leftovers(before) == ["the number of global module hooks was (0, 0, 0) and is (1, 0, 0)"]
    finally:
        handle.remove()

"""``vlmtrace record --memory``: the allocator is read where stages begin and end, or one line why it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vlmtrace import api
from vlmtrace.capture import memory, recorder

_QUICK = ("--demo", "--warmup", 0, "--repeats", 1, "--max-new-tokens", 2)


@pytest.fixture
def asked(noting_starts: Callable[..., list[Any]]) -> list[bool]:
    """A machine that has an allocator; answered is what each recorder was told."""
    return noting_starts(memory, recorder.Recorder, lambda one: one.options.memory)


@pytest.mark.parametrize("words", [("--memory",), ()])
def test_a_model_is_read_where_it_was_asked_for(
    type_in: Any, folder: Path, asked: list[bool], words: tuple[str, ...]
) -> None:
    typed = type_in("record", *_QUICK, *words, "-o", "a.json")
    assert typed.code == 0, typed.err
    assert asked == [bool(words)]
    assert len(api.load("a.json").generations) == 1


def test_a_program_is_read_too(type_in: Any, folder: Path, asked: list[bool]) -> None:
    (folder / "job.py").write_text("raise SystemExit(3)")
    assert type_in("record", "--memory", "--", "job.py").code == 3
    assert asked == [True]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_it_is_refused_before_anything_is_loaded(
    type_in: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmtrace.capture.loading.load_demo", lambda *_: pytest.fail("the model was loaded"))
    typed = type_in("record", *_QUICK, "--memory")
    assert (typed.code, typed.out) == (2, "")
    (line,) = typed.err.strip().splitlines()
    assert "--memory" in line
    assert list(folder.iterdir()) == []

"""``vlmtrace record --sample-gpu``: a thread that asks NVML while it records, or one line why there is none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vlmtrace import api
from vlmtrace.capture import gpu_sampler

_QUICK = ("--demo", "--warmup", 0, "--repeats", 1, "--max-new-tokens", 2)


@pytest.fixture
def started(noting_starts: Callable[..., list[Any]]) -> list[float]:
    """A machine that can be sampled; answered are the periods of the samplers that were started, in seconds."""
    return noting_starts(gpu_sampler, gpu_sampler.GpuSampler, lambda sampler: sampler._period)


def test_it_samples_as_often_as_it_is_asked(type_in: Any, folder: Path, started: list[float]) -> None:
    typed = type_in("record", *_QUICK, "--sample-gpu", 20, "-o", "a.json")
    assert typed.code == 0, typed.err
    assert started == [1 / 20]
    assert len(api.load("a.json").generations) == 1


def test_a_program_is_sampled_too_and_its_failure_ends_it(type_in: Any, folder: Path, started: list[float]) -> None:
    (folder / "job.py").write_text("raise SystemExit(3)")
    typed = type_in("record", "--sample-gpu", 5, "--", "job.py")
    assert typed.code == 3
    assert started == [1 / 5]
    assert not [thread for thread in threading.enumerate() if "sampler" in thread.name]


def test_nothing_is_sampled_without_being_asked(type_in: Any, folder: Path, started: list[float]) -> None:
    assert type_in("record", *_QUICK).code == 0
    assert started == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_where_nothing_can_be_sampled_it_is_refused_before_anything_is_loaded(
    type_in: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmtrace.capture.loading.load_demo", lambda *_: pytest.fail("the model was loaded"))
    typed = type_in("record", *_QUICK, "--sample-gpu", 10)
    assert (typed.code, typed.out) == (2, "")
    (line,) = typed.err.strip().splitlines()
    assert "--sample-gpu needs" in line
    assert list(folder.iterdir()) == []

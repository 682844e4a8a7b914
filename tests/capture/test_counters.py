"""Counters of a recording: the KV cache of real generations, and the allocator's bytes around made-up ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import vlmtrace
from tests import synthetic
from tests.models import Tiny, build
from tests.synthetic import Shape
from vlmtrace.capture.boundaries import called, forward
from vlmtrace.capture.counters import counter, with_counters
from vlmtrace.capture.observed import CURRENT, Loop, Observed, nothing, unheard
from vlmtrace.capture.wraps import Wraps
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Counter, Recording

NEW = 5
CACHE = "KV cache"


def generate(tiny: Tiny, **more: Any) -> Any:
    with torch.no_grad():
        return tiny.model.generate(**tiny.inputs, max_new_tokens=NEW, do_sample=False, **more)


def recorded(tiny: Tiny, **more: Any) -> Recording:
    with vlmtrace.trace(tiny.model) as session:
        generate(tiny, **more)
    return session.recording


def cache_of(recording: Recording) -> Counter:
    (found,) = (one for one in recording.counters if one.name == CACHE)
    return found


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("more", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_the_cache_is_as_large_as_the_one_that_generate_answers(name: str, more: dict[str, Any]) -> None:
    tiny = build(name)
    answered = generate(tiny, return_dict_in_generate=True, **more).past_key_values
    held = sum(one.numel() * one.element_size() for layer in answered.layers for one in (layer.keys, layer.values))

    recording = recorded(tiny, **more)

    made = cache_of(recording)
    forwards = [span for span in recording.spans if span.name in (names.PREFILL, names.STEP)]
    assert list(made.times) == [*(span.end for span in forwards), recording.spans[recording.generations[0].span].end]
    assert (made.values[-2], made.values[-1]) == (held, 0)
    assert made.unit == "bytes"
    growth = {after - before for before, after in zip(made.values[:-2], made.values[1:-1], strict=True)}
    assert len(growth) == 1
    assert held % growth.pop() == 0


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_the_cache_is_seen_by_the_name_that_a_forward_is_given_it_by(name: str) -> None:
    """transformers 5.24 gave it another name."""

    class Forward(nn.Module):
        def forward(self, ids: torch.Tensor, **_: Any) -> torch.Tensor:
            return ids

    model, cache, wraps = Forward(), object(), Wraps()
    wraps.add(model, called(model), forward)
    CURRENT.observed = observed = Observed(unheard, nothing, Loop(model))
    try:
        model(torch.zeros(1, 1), **{name: cache})
    finally:
        CURRENT.observed = None
        wraps.remove()
    assert observed.cache is cache


def test_a_static_cache_is_whole_from_the_prefill_on() -> None:
    values = cache_of(recorded(build("llava"), cache_implementation="static", disable_compile=True)).values
    assert len(set(values[:-1])) == 1
    assert values[0] > 0
    assert values[-1] == 0


def test_without_a_cache_there_is_no_counter() -> None:
    assert recorded(build("llava"), use_cache=False).counters == ()


@pytest.mark.parametrize("ending", [".pftrace", ".json"])
def test_counters_come_back_from_a_file(ending: str, tmp_path: Path) -> None:
    recording = recorded(build("llava"))
    assert recording.counters
    assert vlmtrace.load(vlmtrace.save(recording, tmp_path / f"t{ending}")) == recording


def test_no_cache_outlives_its_generation() -> None:
    import gc
    import weakref

    from transformers import Cache

    tiny = build("llava")
    seen: list[Any] = []
    forward = tiny.model.forward

    def watches(*args: Any, **kwargs: Any) -> Any:
        if not seen:
            seen.append(weakref.ref(kwargs["past_key_values"]))
            assert isinstance(seen[0](), Cache)
        return forward(*args, **kwargs)

    watches.__signature__ = __import__("inspect").signature(forward)  # type: ignore[attr-defined]
    tiny.model.forward = watches
    try:
        with vlmtrace.trace(tiny.model):
            generate(tiny)
            gc.collect()
            assert seen[0]() is None
    finally:
        del tiny.model.forward


def test_the_allocator_s_bytes_are_those_before_and_after_each_generation() -> None:
    recording = synthetic.recording(Shape(), Shape())
    ended: list[Any] = [
        SimpleNamespace(
            device=0,
            cache=None,
            readings=(),
            memory_before={"allocated_bytes": 100 + at, "reserved_bytes": 500, "peak_bytes": 100},
            device_state={"allocated_bytes": 110 + at, "reserved_bytes": 600, "sm_clock_mhz": 1980},
        )
        for at in (0, 1)
    ]
    made = {one.name: one for one in with_counters(recording, ended, ()).counters}

    spans = [recording.generate_span(one) for one in recording.generations]
    assert list(made["allocated"].times) == [time for span in spans for time in (span.begin, span.end)]
    assert list(made["allocated"].values) == [100, 110, 101, 111]
    assert list(made["reserved"].values) == [500, 600, 500, 600]
    assert list(made["peak allocated"].values) == [100, 100]
    assert {(one.unit, one.device) for one in made.values()} == {("bytes", 0)}


def test_what_was_sampled_stands_behind_and_samples_are_in_order() -> None:
    made = counter("power", "mW", 0, [(5, 1), (3, 2)])
    assert (list(made.times), list(made.values)) == ([3, 5], [2, 1])
    recording = replace(synthetic.recording(), counters=())
    ended: list[Any] = [SimpleNamespace(device=None, cache=None)]
    assert with_counters(recording, ended, [made]).counters == (made,)

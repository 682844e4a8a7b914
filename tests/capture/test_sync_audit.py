"""Synchronisations found by line and stage, from warnings emitted by hand where CUDA would emit them."""

from __future__ import annotations

import functools
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import CodeType
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import vlmtrace
from tests.models import build
from tests.synthetic import MS, ORIGIN, Shape, recording
from vlmtrace.capture.sync_audit import Caught, SyncAudit, catching, check_device, device_of, sites
from vlmtrace.errors import UsageError, VlmtraceError
from vlmtrace.timeline import names

MESSAGE = "called a synchronizing CUDA operation (Triggered internally at /pytorch/c10/cuda/CUDAFunctions.cpp:202.)"
HERE = "tests/capture/test_sync_audit.py"
NEW = 4
THREAD = 4711
"""The generating thread of synthetic recordings."""


@pytest.fixture(autouse=True)
def mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Every sync debug mode that was set, the first of them before the test; it ends as it began."""
    modes: list[Any] = [0]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    yield modes
    assert modes[-1] == modes[0]


def waits(*_: Any) -> None:
    """Stands for an operation that synchronises: as a forward hook it changes nothing."""
    warnings.warn(MESSAGE, stacklevel=1)


def code(text: str, path: str) -> CodeType:
    return compile(text, path, "exec")


def test_a_warning_is_caught_with_its_line_function_and_thread() -> None:
    with catching() as caught:
        waits()
    (one,) = caught
    assert (one.file, one.line, one.function) == (HERE, waits.__code__.co_firstlineno + 2, "waits")
    assert one.thread == threading.get_native_id()


def test_the_line_is_the_innermost_outside_torch() -> None:
    library: dict[str, Any] = {"__name__": "torch._tensor", "message": MESSAGE}
    exec(code("import warnings\ndef tolist():\n    warnings.warn(message)\n", "/site/torch/_tensor.py"), library)
    model: dict[str, Any] = {"__name__": "family.models.modeling_x", "tolist": library["tolist"]}
    exec(code("class Model:\n    def join(self):\n        tolist()\n", "/site/family/models/modeling_x.py"), model)
    with catching() as caught:
        model["Model"]().join()
    assert [(one.file, one.line, one.function) for one in caught] == [("family/models/modeling_x.py", 3, "Model.join")]


@pytest.mark.parametrize(
    ("module", "path", "shown"),
    [
        ("family.models.x", "/env/site-packages/family/models/x.py", "family/models/x.py"),
        ("family.models", "/env/family/models/__init__.py", "family/models/__init__.py"),
        ("family", "/src/family/__init__.py", "family/__init__.py"),
        ("family.models.x", "/elsewhere/made.py", "made.py"),
        ("__main__", "/home/somebody/secret/job.py", "job.py"),
        ("job", "/home/somebody/secret/job.py", "job.py"),
    ],
)
def test_a_file_is_named_from_its_package_on_and_never_by_its_owners_folders(
    module: str, path: str, shown: str
) -> None:
    with catching() as caught:
        exec(code("import warnings; warnings.warn(message)", path), {"__name__": module, "message": MESSAGE})
    assert [one.file for one in caught] == [shown]


def test_every_repeat_on_one_line_counts() -> None:
    with catching() as caught:
        for _ in range(3):
            waits()
    assert len({(one.file, one.line) for one in caught}) == 1
    assert len(caught) == 3


def test_other_warnings_pass_and_what_torch_says_of_its_mode_does_not() -> None:
    with warnings.catch_warnings(record=True) as passed:
        warnings.simplefilter("always")
        with catching() as caught:
            warnings.warn("something else", stacklevel=1)
            warnings.warn("Synchronization debug mode is a prototype feature and does not yet …", stacklevel=1)
        assert [str(one.message) for one in passed] == ["something else"]
    assert caught == []


def test_mode_filters_and_display_are_put_back_also_after_an_error(mode: list[Any]) -> None:
    before = (warnings.showwarning, list(warnings.filters))

    def fails() -> None:
        with catching():
            assert mode == [0, "warn"]
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fails()
    assert mode == [0, "warn", 0]
    assert (warnings.showwarning, list(warnings.filters)) == before


def generate(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        made: torch.Tensor = model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    return made


def by_stage(audit: SyncAudit) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for site in audit.sites:
        counts[site.stage] += site.count
    return dict(counts)


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A tiny model that waits in its vision tower, behind it, in each layer of text, and when asked whether to stop."""
    tiny = build("llava")
    model = tiny.model
    waiting = (model.model.vision_tower, *model.model.language_model.layers)
    hooks = [module.register_forward_hook(waits) for module in waiting]
    features = type(model.model).get_image_features
    stopping = transformers.StoppingCriteriaList.__call__

    def slow(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def slowed(*args: Any, **kwargs: Any) -> Any:
            made = original(*args, **kwargs)
            waits()
            return made

        return slowed

    monkeypatch.setattr(type(model.model), "get_image_features", slow(features))
    monkeypatch.setattr(transformers.StoppingCriteriaList, "__call__", slow(stopping))
    yield tiny
    for hook in hooks:
        hook.remove()


def test_each_wait_is_placed_in_the_stage_that_it_happened_in(waiting: Any) -> None:
    layers = len(waiting.model.model.language_model.layers)
    with warnings.catch_warnings(action="ignore"):
        expected = generate(waiting.model, waiting.inputs)
    with SyncAudit([waiting.model]) as audit:
        waits()
        ids = generate(waiting.model, waiting.inputs)
        waits()
    assert torch.equal(ids, expected)
    assert audit.generations == 1
    assert by_stage(audit) == {
        names.ENCODER: 1,
        names.VISION: 1,
        names.PREFILL: layers,
        names.OTHER_FIRST_TOKEN: 1,
        names.STEP: layers * (NEW - 1),
        names.GAP: NEW - 2,
        names.OTHER_TAIL: 1,
    }


def test_the_counts_of_several_generations_are_summed_and_the_most_frequent_comes_first(waiting: Any) -> None:
    with SyncAudit([waiting.model]) as once:
        generate(waiting.model, waiting.inputs)
    with SyncAudit([waiting.model]) as twice:
        generate(waiting.model, waiting.inputs)
        generate(waiting.model, waiting.inputs)
    assert twice.generations == 2
    assert by_stage(twice) == {stage: 2 * count for stage, count in by_stage(once).items()}
    assert [site.count for site in twice.sites] == sorted((site.count for site in twice.sites), reverse=True)


def test_a_generation_that_fails_is_not_counted_and_leaves_nothing_behind(waiting: Any, mode: list[Any]) -> None:
    hooks = len(waiting.model._forward_hooks)
    wrong = {**waiting.inputs, "input_ids": waiting.inputs["input_ids"][:, :1]}

    def audited() -> SyncAudit:
        with SyncAudit([waiting.model]) as audit:
            generate(waiting.model, waiting.inputs)
            with pytest.raises(ValueError, match=r"."):
                generate(waiting.model, wrong)
        return audit

    audit = audited()
    assert audit.generations == 1
    assert by_stage(audit)[names.STEP] == len(waiting.model.model.language_model.layers) * (NEW - 1)
    assert mode == [0, "warn", 0]
    assert len(waiting.model._forward_hooks) == hooks


def test_an_audit_never_runs_inside_a_recording_and_leaves_no_trace_of_having_tried(mode: list[Any]) -> None:
    tiny = build("llava")
    with vlmtrace.trace(tiny.model) as session:
        with pytest.raises(VlmtraceError, match="already running"), SyncAudit():
            pass
        generate(tiny.model, tiny.inputs)
    assert len(session.recording.generations) == 1
    assert session.recording.audited == 0
    assert mode == [0]


def test_what_was_audited_is_put_into_a_recording_that_was_timed_apart(waiting: Any) -> None:
    with vlmtrace.trace(waiting.model) as session, warnings.catch_warnings(action="ignore"):
        generate(waiting.model, waiting.inputs)
    with SyncAudit([waiting.model]) as audit:
        generate(waiting.model, waiting.inputs)
    whole = audit.onto(session.recording)
    assert (whole.syncs, whole.audited) == (audit.sites, 1)
    assert whole.spans == session.recording.spans


def test_an_audit_cannot_be_read_before_its_end() -> None:
    with SyncAudit() as audit, pytest.raises(VlmtraceError, match="not finished"):
        _ = audit.sites


@pytest.mark.parametrize("device", ["cpu", "mps", "meta"])
def test_a_device_other_than_cuda_is_refused_by_its_name(device: str) -> None:
    with pytest.raises(UsageError, match=f"needs a CUDA device, and this would run on '{device}'"):
        check_device(device)


def test_a_cuda_device_is_taken() -> None:
    check_device("cuda:1")
    check_device(torch.device("cuda"))


def test_python_refuses_to_audit_a_model_on_the_cpu() -> None:
    model = nn.Linear(2, 2)
    assert device_of(model) == torch.device("cpu")
    with pytest.raises(UsageError, match="'cpu'"):
        vlmtrace.audit_syncs(model)


def caught_at(*times: int, thread: int = THREAD) -> list[Caught]:
    return [Caught(at, thread, "a.py", 1, "f") for at in times]


def test_a_wait_on_another_thread_is_not_the_generations() -> None:
    made = recording(Shape(), device=None)
    inside = next(made.spans.named(names.PREFILL)).host_begin
    assert sites(made, caught_at(inside, thread=THREAD + 1)) == ()
    assert [site.stage for site in sites(made, caught_at(inside))] == [names.PREFILL]


def test_a_vision_inside_a_step_counts_as_the_step() -> None:
    made = recording(Shape(vision_inside=True), device=None)
    inside = next(made.spans.named(names.VISION)).host_end - 1
    assert [site.stage for site in sites(made, caught_at(inside))] == [names.VISION]
    renamed = tuple(names.STEP if text == names.PREFILL else text for text in made.spans.strings)
    uncached = replace(made, spans=replace(made.spans, strings=renamed))
    assert [site.stage for site in sites(uncached, caught_at(inside))] == [names.STEP]


@given(st.lists(st.integers(ORIGIN - MS, ORIGIN + 300 * MS), max_size=20), st.booleans(), st.integers(0, 3))
def test_every_wait_inside_a_generation_has_exactly_one_stage(times: list[int], inside: bool, steps: int) -> None:
    made = recording(Shape(vision_inside=inside, steps=steps), Shape(steps=steps), device=None)
    generates = list(made.spans.named(names.GENERATE))
    expected: Counter[str] = Counter()
    for at in times:
        around = [
            span
            for span in made.spans
            if span.host_begin <= at < span.host_end and span.name not in (names.GENERATE, names.DECODE)
        ]
        if any(span.host_begin <= at < span.host_end for span in generates):
            expected[min(around, key=lambda span: span.duration).name] += 1
    found: Counter[str] = Counter()
    for site in sites(made, caught_at(*times)):
        found[site.stage] += site.count
    assert found == expected

"""Generations in several threads, and those that are cut off, outlive their recording or fork: nothing is left."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from typing import Any

import pytest
import torch
from transformers import StoppingCriteria, pipeline

import vlmtrace
from tests.capture.test_awkward import own
from tests.capture.test_recorder import counts, generate, record, state_of
from tests.models import Tiny, build
from tests.saved_models import saved
from vlmtrace.capture import outcome, recorder
from vlmtrace.capture.attachment import Attachment
from vlmtrace.capture.discovery.search import discover
from vlmtrace.capture.ended import STILL_RUNNING
from vlmtrace.capture.plans import Plans


def test_threads_that_generate_first_at_the_same_time_share_one_plan() -> None:
    tiny, together = own("llama"), threading.Barrier(4)

    def first() -> None:
        together.wait()
        generate(tiny)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with vlmtrace.trace() as session:
            threads = [threading.Thread(target=first) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(session.recording.models) == 1
    found = counts(session.recording)
    assert (found["prefill"], found["decode.step"], found["token"]) == (4, 12, 16)


class Holds(StoppingCriteria):
    """Holds a generation up at its third token."""

    def __init__(self) -> None:
        self.calls = itertools.count()
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        if next(self.calls) == 2:
            self.reached.set()
            assert self.go_on.wait(30)
        return torch.zeros(len(input_ids), dtype=torch.bool)


def test_a_generation_that_outlives_the_recording_is_kept_as_far_as_it_came() -> None:
    tiny, holds = own("llama"), Holds()
    before = state_of(tiny.model)
    thread = threading.Thread(target=lambda: generate(tiny, stopping_criteria=[holds]))
    with vlmtrace.trace() as session:
        generate(tiny)
        thread.start()
        assert holds.reached.wait(30)
    recording = session.recording
    holds.go_on.set()
    thread.join()
    assert [g.error for g in recording.generations] == [None, STILL_RUNNING]
    assert recording.incomplete == STILL_RUNNING
    assert counts(recording)["token"] == 4 + 3
    assert state_of(tiny.model) == before


def test_a_recording_beside_a_generation_that_outlived_the_last_one_is_as_it_would_be_alone() -> None:
    tiny, holds = own("llava"), Holds()
    alone, before = counts(record(tiny)[1]), state_of(tiny.model)
    thread = threading.Thread(target=lambda: generate(tiny, stopping_criteria=[holds]))
    with vlmtrace.trace():
        thread.start()
        assert holds.reached.wait(30)
    assert state_of(tiny.model) == before
    with vlmtrace.trace(tiny.model, detail="layer") as session:
        generate(tiny)
        holds.go_on.set()
        thread.join()
        generate(tiny)
    assert counts(session.recording) == alone + alone
    assert state_of(tiny.model) == before
    assert counts(record(tiny)[1]) == alone


def test_two_models_that_share_a_part_are_each_told_of_their_own() -> None:
    one, other, holds = own("llava"), own("llava"), Holds()
    other.model.model.vision_tower = one.model.model.vision_tower
    alone, before = counts(record(one)[1]), state_of(one.model)
    thread = threading.Thread(target=lambda: generate(one, stopping_criteria=[holds]))
    with vlmtrace.trace(detail="layer") as session:
        thread.start()
        assert holds.reached.wait(30)
        generate(other)
        holds.go_on.set()
        thread.join()
    assert counts(session.recording) == alone + alone
    assert state_of(one.model) == before


def test_a_recording_that_ends_while_it_attaches_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal's handler may end it, on the very thread that attaches."""
    tiny = own("llava")
    generate(tiny)
    before, wrap = state_of(tiny.model), Attachment._wrap_language
    session = vlmtrace.trace(tiny.model)

    def ends(attachment: Attachment) -> None:
        session.__exit__(None, None, None)
        wrap(attachment)

    session.__enter__()
    monkeypatch.setattr(Attachment, "_wrap_language", ends)
    generate(tiny)
    monkeypatch.undo()
    assert state_of(tiny.model) == before
    assert counts(record(tiny, "stage")[1])["prefill"] == 1


def test_a_second_thread_is_told_though_the_first_generates_compiled() -> None:
    """What is inside a compiled forward is not listened to, and another thread's may not be compiled."""
    model = own("llava").model
    attachment = Attachment(discover(model, {}), "layer")
    with attachment:
        attached = state_of(model)
        attachment.drop_language()
        assert state_of(model) != attached
        with attachment:
            assert state_of(model) == attached


def test_a_plan_that_a_late_thread_has_left_is_not_the_next_recordings() -> None:
    tiny = own("llava")
    Plans("layer", {}).of(tiny.model)
    with vlmtrace.trace(detail="stage") as session:
        generate(tiny)
    assert counts(session.recording) == counts(record(tiny, "stage")[1])


def test_an_interrupt_after_the_last_token_keeps_the_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = build("llama")

    def interrupted(_rows: object) -> dict[str, Any]:
        raise KeyboardInterrupt

    with vlmtrace.trace(tiny.model) as session:
        generate(tiny)
        monkeypatch.setattr(outcome, "output_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            generate(tiny)
    assert [g.error for g in session.recording.generations] == [None, "KeyboardInterrupt"]
    assert counts(session.recording)["token"] == 8


@pytest.mark.parametrize("error", [ValueError, StopIteration, GeneratorExit, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["model.vision_tower", "model.language_model.layers.1", "lm_head", ""])
@pytest.mark.parametrize("side", ["before", "after"])
def test_whatever_is_raised_wherever_passes_through_and_leaves_nothing(
    error: type[BaseException], place: str, side: str
) -> None:
    tiny = own("llava")
    expected = generate(tiny).tolist()  # also lets transformers put on the model what it does once
    before = state_of(tiny.model)

    def raises(*_: Any) -> None:
        raise error("here")

    module = tiny.model.get_submodule(place)
    hook = (module.register_forward_pre_hook if side == "before" else module.register_forward_hook)(raises)
    session = vlmtrace.trace(tiny.model, detail="layer")
    with pytest.raises(error), session:
        generate(tiny)
    hook.remove()
    assert [entry[:2] for entry in state_of(tiny.model)] == [entry[:2] for entry in before]
    assert session.recording.generations[0].error == f"{error.__name__}: here"
    assert ids_after(tiny) == expected


def ids_after(tiny: Tiny) -> list[list[int]]:
    made: list[list[int]] = record(tiny)[0].tolist()
    return made


def test_the_lanes_of_threads_that_have_ended_give_their_room_back() -> None:
    tiny = build("llama")
    with vlmtrace.trace(tiny.model) as session:
        for _ in range(3):
            thread = threading.Thread(target=generate, args=(tiny,))
            thread.start()
            thread.join()
        tapes = [lane.voices[None].tape for lane in session._recorder.lanes.all]
        assert [tape.closed for tape in tapes] == [True, True, False]
    assert counts(session.recording)["token"] == 3 * 4


def test_the_text_of_a_thread_is_kept_with_its_own_generation() -> None:
    asked = pipeline("image-text-to-text", model=str(saved("llava")))
    chat = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    tiny = build("llama")

    def elsewhere() -> None:
        generate(tiny)

    with vlmtrace.trace(keep_text=True) as session:
        text = asked.tokenizer.batch_decode(asked.model.generate(torch.tensor([[5, 6]]), max_new_tokens=2))
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        asked(text=chat, max_new_tokens=2, return_full_text=False)
    first, second, third = session.recording.generations
    assert first.output["text"] == text
    assert "text" not in second.output
    assert "text" in third.output
    assert counts(session.recording)["request"] >= 1


def test_a_forked_child_generates_unrecorded() -> None:
    tiny = build("llama")
    with vlmtrace.trace(tiny.model) as session:
        generate(tiny)
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            os._exit(0 if recorder.active() is None and generate(tiny).numel() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(session.recording.generations) == 1

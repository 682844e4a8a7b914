"""The check itself: what is told wrongly it finds."""

from __future__ import annotations

import pytest

from tests.conformance.check import check
from tests.tiny.models import build
from vlmtrace.capture import attachment, boundaries
from vlmtrace.timeline import assembly


@pytest.mark.parametrize(
    ("stages", "column", "problem"),
    [
        ({"vision.projector": "lm_head"}, "projector", "vision.projector lm_head did not see the image alone"),
        ({"vision.projector": "model.vision_tower.post_layernorm"}, "projector", "multi_modal_projector"),
        ({"vision": "model.language_model"}, "encoder", "looked first and is no encoder"),
        ({"layer": "model.vision_tower.encoder.layers"}, "layers", "decoder blocks: told"),
        ({"lm_head": "model.language_model.norm"}, "lm_head", "output head: told"),
    ],
)
def test_a_part_that_is_named_wrongly_is_found(stages: dict[str, str], column: str, problem: str) -> None:
    verdicts = check(build("llava"), stages)
    assert getattr(verdicts, column) == "wrong"
    assert problem in " ".join(verdicts.problems)


def test_vision_that_is_not_told_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachment.Attachment, "_wrap_vision", lambda self: None)
    verdicts = check(build("mllama"))
    assert (verdicts.vision, verdicts.encoder) == ("wrong", "wrong")


def test_vision_where_nothing_saw_the_image_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "_drop_idle_projectors", lambda generate: None)
    assert "a vision span in which nothing saw the image" in check(build("gemma3n")).problems


def test_a_prefill_taken_for_a_step_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundaries, "_PREFILL", boundaries._STEP)
    assert check(build("llava")).stages == "wrong"


def test_what_is_left_on_a_model_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = build("llava")
    monkeypatch.setattr(attachment.Attachment, "_remove", lambda self: None)
    assert check(tiny).left == "wrong"

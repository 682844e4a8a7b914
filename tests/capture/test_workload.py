"""Samples, batches, and requests put to real tiny models."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.saved_models import saved
from vlmtrace.capture import demo, loading, workload
from vlmtrace.capture.loading import LoadOptions
from vlmtrace.capture.samples import Sample
from vlmtrace.capture.workload import Asker, WorkloadOptions
from vlmtrace.errors import UsageError, VlmtraceError

_PICTURE = demo.draw(32, 24)


@dataclass
class Marked:
    """What a workload sets on a recorder, and what it was at each generation."""

    role: str | None = None
    tags: dict[str, Any] = field(default_factory=dict)


def _load(name: str) -> loading.Loaded:
    return loading.load(LoadOptions(str(saved(name)), device="cpu"))


def _sample(prompt: str = "What?", *images: Any, tokens: int = 4, name: str = "0") -> Sample:
    return Sample(name, prompt, images, tokens)


def test_a_prompt_is_kept_as_hash_and_length_unless_text_is_kept() -> None:
    kept = workload.digest("Grüße", keep=False)

    assert workload.digest("Grüße", keep=True) == "Grüße"
    assert isinstance(kept, dict)
    assert kept["length"] == 5
    assert len(str(kept["sha256"])) == 64


def test_warm_ups_come_first_and_repeats_go_through_the_batches_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    asker = Asker(_load("text"), WorkloadOptions(warmup=3, repeats=2))
    recorder, seen = Marked(), []
    monkeypatch.setattr(asker, "ask", lambda batch, around: seen.append((recorder.role, recorder.tags["sample"])))
    moved: list[tuple[int, int, str]] = []
    requests = [(_sample(name="a"),), (_sample(name="b"), _sample(name="c"))]

    workload.run(asker, requests, recorder, lambda *step: moved.append(step))

    assert seen == [
        ("warmup", "a"), ("warmup", ["b", "c"]), ("warmup", "a"),
        ("timed", "a"), ("timed", ["b", "c"]), ("timed", "a"), ("timed", ["b", "c"]),
    ]  # fmt: skip
    assert moved == [(number, 7, role) for number, (role, _) in enumerate(seen)]


@pytest.mark.parametrize("name", ["llava", "untemplated", "text"])
def test_a_batch_of_unequal_prompts_is_answered_as_each_prompt_alone(name: str) -> None:
    picture = () if name == "text" else (_PICTURE,)
    asker = Asker(_load(name), WorkloadOptions(batch=2))
    short, long = _sample("Hi", *picture), _sample("What is to be seen here?", *picture)

    together = asker.ask([short, long])

    assert together == [asker.ask([short])[0], asker.ask([long])[0]]


def test_a_prompt_without_a_picture_goes_to_a_vision_model_too() -> None:
    for name in ("llava", "untemplated"):
        asker = Asker(_load(name), WorkloadOptions())
        assert len(asker.ask([_sample("Hi")])) == 1


def test_several_pictures_go_into_one_prompt(tmp_path: Path) -> None:
    _PICTURE.convert("L").save(tmp_path / "grey.png")
    asker = Asker(_load("llava"), WorkloadOptions())
    seen = _inputs_of_generate(asker)

    asker.ask([_sample("Compare", _PICTURE, tmp_path / "grey.png")])

    assert seen[0]["pixel_values"].shape[0] == 2


def test_floating_inputs_take_the_models_dtype_and_token_ids_stay_whole() -> None:
    loaded = loading.load(LoadOptions(str(saved("llava")), "bfloat16", "cpu"))
    asker = Asker(loaded, WorkloadOptions())
    seen = _inputs_of_generate(asker)

    asker.ask([_sample("Hi", _PICTURE)])

    assert seen[0]["pixel_values"].dtype == torch.bfloat16
    assert seen[0]["input_ids"].dtype == torch.int64


def test_end_of_text_can_be_ignored() -> None:
    loaded = _load("text")
    first = loaded.model.generate(**loaded.processor("Hi", return_tensors="pt"), max_new_tokens=1, do_sample=False)
    loaded.model.generation_config.eos_token_id = int(first[0, -1])
    outputs = _outputs_of_generate(loaded.model)

    Asker(loaded, WorkloadOptions()).ask([_sample("Hi", tokens=6)])
    Asker(loaded, WorkloadOptions(ignore_eos=True)).ask([_sample("Hi", tokens=6)])

    ended, whole = (output.shape[1] for output in outputs)
    assert whole - ended == 5


def test_sampling_repeats_with_its_seed_and_differs_with_another() -> None:
    def answer(seed: int) -> list[str]:
        asker = Asker(_load("text"), WorkloadOptions(sample=True, seed=seed))
        answers = asker.ask([_sample("Hi", tokens=12)])
        assert answers == asker.ask([_sample("Hi", tokens=12)])
        return answers

    assert answer(1) != answer(2)


def test_the_cache_asked_for_is_the_cache_used() -> None:
    asker = Asker(_load("text"), WorkloadOptions(cache="static"))
    seen = _inputs_of_generate(asker)

    asker.ask([_sample("Hi")])

    assert seen[0]["cache_implementation"] == "static"


def test_a_picture_for_a_model_that_only_reads_is_refused() -> None:
    asker = Asker(_load("text"), WorkloadOptions())

    asker.check([_sample("Hi")])
    with pytest.raises(UsageError, match="sample '0' has an image, but LlamaForCausalLM comes with a tokenizer only"):
        asker.check([_sample("Hi", _PICTURE)])


def test_a_request_that_fails_is_said_in_one_line_with_its_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    asker = Asker(_load("text"), WorkloadOptions(warmup=0, repeats=1))
    monkeypatch.setattr(asker, "ask", _raising(ValueError("shapes\ndo not match")))

    with pytest.raises(VlmtraceError) as raised:
        workload.run(asker, [(_sample(name="cat"),)], Marked(), lambda *_: None)
    assert str(raised.value) == "sample 'cat' failed in a timed request: ValueError: shapes do not match"


def test_running_out_of_gpu_memory_says_what_to_make_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    asker = Asker(_load("text"), WorkloadOptions(warmup=1, repeats=1))
    monkeypatch.setattr(asker, "ask", _raising(torch.OutOfMemoryError("CUDA out of memory. Tried to …")))

    with pytest.raises(VlmtraceError, match="failed in a warm-up request: out of GPU memory: give a smaller --batch"):
        workload.run(asker, [(_sample(),)], Marked(), lambda *_: None)


def _raising(error: Exception):
    def ask(batch, around):
        raise error

    return ask


def _inputs_of_generate(asker: Asker) -> list[dict[str, Any]]:
    """What the asker's own model is called with from now on."""
    seen: list[dict[str, Any]] = []
    generate = asker.model.generate

    def watched(**inputs: Any):
        seen.append(inputs)
        return generate(**inputs)

    asker.model.generate = watched
    return seen


def _outputs_of_generate(model: Any) -> list[Any]:
    seen: list[Any] = []
    generate = model.generate

    def watched(**inputs: Any):
        seen.append(generate(**inputs))
        return seen[-1]

    model.generate = watched
    return seen

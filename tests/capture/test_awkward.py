"""Awkward ways to generate: nested, drafted, chunked, compiled in place. None shows a wrong stage."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LogitsProcessor

import vlmtrace
from tests.capture.test_recorder import counts, generate, record, state_of
from tests.models import Tiny, build
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording


def own(name: str) -> Tiny:
    """A model that a test may change."""
    tiny = build(name)
    return Tiny(copy.deepcopy(tiny.model), tiny.inputs, tiny.has)


def lengths(recording: Recording) -> list[object]:
    return [span.args["length"] for span in recording.spans.named(names.TOKEN)]


def prompt_of(tiny: Tiny) -> int:
    return int(tiny.inputs["input_ids"].shape[1])


class Asks(LogitsProcessor):
    """Asks a model inside another's loop, as a guard or a reward would."""

    def __init__(self, tiny: Tiny) -> None:
        self.tiny = tiny

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        with vlmtrace.span("guard"):
            generate(self.tiny, max_new_tokens=2)
        return scores


@pytest.mark.parametrize("name", ["llama", "llava"])
@pytest.mark.parametrize("inner", ["same", "other"])
def test_a_generate_inside_a_loop_is_no_stage_of_the_generation(name: str, inner: str) -> None:
    tiny = own(name)
    plain = counts(record(tiny)[1])
    ids, recording = record(tiny, logits_processor=[Asks(tiny if inner == "same" else own(name))])
    assert torch.equal(ids, generate(tiny))
    assert counts(recording) == plain + Counter(guard=4)
    assert lengths(recording) == [prompt_of(tiny) + n for n in (1, 2, 3, 4)]
    assert recording.generations[0].new_tokens == (4,)


def test_a_forward_that_guides_the_next_token_is_no_step() -> None:
    tiny = own("llava")
    expected = generate(tiny, guidance_scale=1.5)
    ids, recording = record(tiny, guidance_scale=1.5)
    assert torch.equal(ids, expected)
    assert counts(recording) == counts(record(tiny)[1])


def test_a_forward_that_asks_its_own_model_shows_what_it_would_without() -> None:
    tiny = own("llava")
    plain = counts(record(tiny)[1])

    def ask(_module: nn.Module, _args: object) -> None:
        handle.remove()
        generate(tiny)

    handle = tiny.model.register_forward_pre_hook(ask)
    assert counts(record(tiny)[1]) == plain


@pytest.mark.parametrize("draft", ["early exit", "assistant", "lookup"])
def test_drafts_are_neither_prefills_nor_tokens(draft: str) -> None:
    tiny = own("llama")
    more: dict[str, Any] = {
        "early exit": {"assistant_early_exit": 1},
        "assistant": {"assistant_model": build("llama", 1).model},
        "lookup": {"prompt_lookup_num_tokens": 2},
    }[draft]
    expected = generate(tiny, max_new_tokens=8, **more)
    ids, recording = record(tiny, max_new_tokens=8, **more)
    assert torch.equal(ids, expected)
    found = counts(recording)
    assert (found["prefill"], found["decode"]) == (1, 1)
    assert found["token"] == found["decode.step"] + 1
    reached = lengths(recording)
    assert reached == sorted(set(reached)), "each mark has more tokens than the one before"
    assert reached[-1] == prompt_of(tiny) + 8
    assert recording.generations[0].new_tokens == (8,)


def test_drafts_lie_on_a_track_of_their_own_and_each_step_tells_what_it_let_pass() -> None:
    tiny = own("llama")
    with vlmtrace.trace(tiny.model) as session:
        generate(tiny, max_new_tokens=8, assistant_model=tiny.model.__class__(tiny.model.config))
        generate(tiny, max_new_tokens=8, prompt_lookup_num_tokens=2)
        generate(tiny)
    spans = session.recording.spans
    drafts = list(spans.named(names.DRAFT))
    assert {(d.generation, session.recording.tracks[d.track].kind) for d in drafts} == {(0, "drafts")}
    forwards = {g: [s for s in spans if s.generation == g and s.name in (names.PREFILL, names.STEP)] for g in range(3)}
    assert len(drafts) == len([f for f in forwards[0] if f.args["proposed"]])
    for number in (0, 1):
        told = [f.args for f in forwards[number]]
        assert all(0 <= args["accepted"] <= args["proposed"] for args in told)
        assert sum(args["accepted"] + 1 for args in told) == 8
    assert all("proposed" not in f.args for f in forwards[2])


def test_a_prefill_counts_only_what_the_cache_does_not_hold() -> None:
    tiny = own("llama")

    def second_turn(first: Any) -> torch.Tensor:
        ids = torch.cat([first.sequences, torch.tensor([[9, 10, 11]])], dim=1)
        made: torch.Tensor = tiny.model.generate(
            input_ids=ids, past_key_values=first.past_key_values, max_new_tokens=2, do_sample=False
        )
        return made

    with vlmtrace.trace(tiny.model) as session:
        second_turn(generate(tiny, return_dict_in_generate=True))
    prompt = prompt_of(tiny)
    first, second = session.recording.spans.named(names.PREFILL)
    assert first.args == {"input_tokens": prompt, "kv": prompt}
    assert second.args == {"input_tokens": 3 + 1, "kv": prompt + 4 + 3}
    assert [g.new_tokens for g in session.recording.generations] == [(4,), (2,)]


def test_the_chunks_of_a_prefill_add_up_to_the_prompt() -> None:
    tiny = build("llama")
    _, recording = record(tiny, prefill_chunk_size=3)
    (prefill,) = recording.spans.named(names.PREFILL)
    assert counts(recording)["prefill.chunk"] == 2
    assert prefill.args["input_tokens"] == prompt_of(tiny)


def test_embeddings_alone_are_a_prompt_whose_tokens_are_counted() -> None:
    tiny = build("llama")
    embedded = tiny.model.get_input_embeddings()(tiny.inputs["input_ids"]).detach()
    with vlmtrace.trace(tiny.model) as session:
        tiny.model.generate(inputs_embeds=embedded, max_new_tokens=4, do_sample=False)
    (prefill,) = session.recording.spans.named(names.PREFILL)
    assert prefill.args == {"input_tokens": prompt_of(tiny)}
    assert session.recording.generations[0].new_tokens == (4,)


def test_a_loop_of_a_users_own_shows_its_forwards_and_no_tokens() -> None:
    def loop(model: nn.Module, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        for _step in range(3):
            input_ids = torch.cat([input_ids, model(input_ids=input_ids).logits[:, -1:].argmax(-1)], dim=1)
        return input_ids

    _, recording = record(build("llama"), custom_generate=loop)
    found = counts(recording)
    assert (found["prefill"], found["decode.step"], found["token"]) == (1, 2, 0)
    assert all("tokens" not in step.args for step in recording.spans.named(names.STEP))
    assert recording.generations[0].new_tokens == (3,)


def test_a_decoding_method_that_calls_generate_again_is_where_prefill_and_decode_run() -> None:
    tiny = build("llama")

    def again(model: nn.Module, *_: Any, **__: Any) -> Any:
        return generate(tiny)

    plain = generate(tiny)
    ids, recording = record(tiny, custom_generate=again)
    assert torch.equal(ids, plain)
    assert counts(recording)[names.PREFILL] == 1
    assert counts(recording)[names.STEP] == len(plain[0]) - prompt_of(tiny) - 1
    assert recording.generations[0].new_tokens == (len(plain[0]) - prompt_of(tiny),)


def test_continuous_batching_is_not_traced_and_that_is_said() -> None:
    tiny = own("llama")
    with vlmtrace.trace() as session:
        tiny.model.init_continuous_batching()
    assert session.recording.generations == ()
    (said,) = [one for one in session.summary().findings if one.slug == "not-traced"]
    assert said.evidence.startswith("continuous batching (generate_batch) was begun 1 time")


class Counting:
    """A backend for ``torch.compile`` that counts the graphs it is given and runs them as they are."""

    def __init__(self) -> None:
        self.graphs = 0

    def backend(self, graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


def compile_model(model: nn.Module, counting: Counting) -> None:
    model.compile(backend=counting.backend)


def compile_forward(model: nn.Module, counting: Counting) -> None:
    model.forward = torch.compile(model.forward, backend=counting.backend)


def compile_tower(model: nn.Module, counting: Counting) -> None:
    model.get_submodule("model.vision_tower").compile(backend=counting.backend)


@pytest.mark.parametrize("compiled", [compile_model, compile_forward, compile_tower])
@pytest.mark.parametrize("detail", ["stage", "layer"])
def test_a_model_compiled_in_place_shows_its_stages_and_is_not_compiled_again(
    compiled: Callable[[nn.Module, Counting], None], detail: str
) -> None:
    torch.compiler.reset()
    tiny, counting = own("llava"), Counting()
    expected = generate(tiny)
    compiled(tiny.model, counting)
    generate(tiny)
    generate(tiny)
    graphs, before = counting.graphs, state_of(tiny.model)
    assert graphs > 0
    ids, recording = record(tiny, detail)
    generate(tiny)
    assert counting.graphs == graphs
    assert state_of(tiny.model) == before
    assert torch.equal(ids, expected)
    found = counts(recording)
    assert (found["prefill"], found["decode.step"], found["token"]) == (1, 3, 4)
    # Where the compiled forward runs it (up to transformers 5.17), vision cannot be told from the rest.
    apart = compiled is compile_tower or hasattr(tiny.model, "_prepare_multimodal_encoder_kwargs_for_generation")
    assert found["vision"] == apart
    assert recording.generations[0].mode == ("eager" if compiled is compile_tower else "compiled")


def test_an_encoder_compiled_in_place_is_shown_at_module_detail() -> None:
    torch.compiler.reset()
    tiny = own("llava")
    compile_tower(tiny.model, Counting())
    assert counts(record(tiny, "module")[1])["vision.encoder"] == 1


def test_a_part_that_runs_as_copies_is_left_as_it_is() -> None:
    """A copy takes the instance's methods along: one that called the part itself would use its weights."""
    tiny = own("llava")
    tower = tiny.model.model.vision_tower
    tiny.model.model.vision_tower = nn.DataParallel(tower)
    wrapped = {}

    def look(_module: nn.Module, _args: object) -> None:
        wrapped.update({name: "_call_impl" in vars(one) for name, one in tiny.model.model.named_modules()})

    hook = tower.register_forward_pre_hook(look)
    ids, _ = record(tiny)
    hook.remove()
    assert torch.equal(ids, generate(tiny))
    assert wrapped["language_model"]
    assert not any(found for name, found in wrapped.items() if name.startswith("vision_tower.module"))


@pytest.mark.parametrize("name", sorted(names.RESERVED - {names.PREPROCESS, names.H2D, names.DETOKENIZE}))
def test_a_users_span_that_is_called_like_a_stage_is_told_apart(name: str) -> None:
    tiny = build("llama")
    with vlmtrace.trace(tiny.model) as session, vlmtrace.span(name):
        generate(tiny)
    plain = counts(record(tiny, "stage")[1])
    assert counts(session.recording) == plain + Counter([f"{name} (span)"])

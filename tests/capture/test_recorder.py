"""Whole generations of real tiny models: the stages they really ran, the same tokens, and nothing left behind."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

import vlmtrace
from tests.capture.fake_nvtx import FakeDomain
from tests.capture.fakes import Fake, allocator_counters
from tests.models import NAMES, Tiny, build
from vlmtrace.capture import recorder
from vlmtrace.capture.gpu_sampler import GpuSampler
from vlmtrace.capture.plans import Plans
from vlmtrace.capture.recorder import Recorder, RecorderOptions
from vlmtrace.errors import UsageError, VlmtraceError
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import COLD, TIMED, WARMED, Recording

NEW = 4


def generate(tiny: Tiny, **more: Any) -> torch.Tensor:
    inputs = {name: value.clone() for name, value in tiny.inputs.items()}
    torch.manual_seed(0)
    with torch.no_grad():
        made: torch.Tensor = tiny.model.generate(**inputs, **{"max_new_tokens": NEW, "do_sample": False, **more})
    return made


def record(tiny: Tiny, detail: str = "layer", **more: Any) -> tuple[torch.Tensor, Recording]:
    with vlmtrace.trace(tiny.model, detail=detail) as session:
        ids = generate(tiny, **more)
    return ids, session.recording


def counts(recording: Recording) -> Counter[str]:
    """Spans by name, without what the host did of itself."""
    return Counter(span.name for span in recording.spans if span.name not in (names.GC, names.COMPILE))


def state_of(model: nn.Module) -> list[tuple[str, list[str], int, int]]:
    """What tracing could leave on a model: instance attributes and hooks, of each module."""
    return [
        (name, sorted(module.__dict__), len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]


class Witness:
    """Sees which modules run, by hooks of its own: independent of discovery."""

    def __init__(self, model: nn.Module) -> None:
        self.ran: list[str] = []
        self._handles = [
            module.register_forward_pre_hook(lambda _m, _a, name=name: self.ran.append(name))
            for name, module in model.named_modules()
        ]

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


@pytest.mark.parametrize("name", NAMES)
def test_each_family_shows_the_stages_that_it_really_ran(name: str) -> None:
    tiny = build(name)
    expected = generate(tiny)
    witness = Witness(tiny.model)
    generate(tiny)
    witness.close()
    before = state_of(tiny.model)
    ids, recording = record(tiny)
    assert state_of(tiny.model) == before, "something is left on the model"
    assert torch.equal(ids, expected)
    found = counts(recording)
    assert (found["prefill"], found["decode"], found["decode.step"]) == (1, 1, NEW - 1)
    assert found["token"] == NEW
    for stage in tiny.has - {names.VISION}:
        paths = {span.args.get("path") for span in recording.spans if span.name == stage} - {None}
        assert found[stage] > 0, f"{stage} is missing"
        assert all(path in witness.ran for path in paths), f"{stage} is shown for a module that did not run"
    assert (found["vision"] > 0) == (names.VISION in tiny.has)
    assert recording.generations[0].new_tokens == (NEW,)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "mllama", "blip-2"])
@pytest.mark.parametrize("detail", ["stage", "module"])
def test_less_detail_shows_the_same_stages_with_fewer_marks(name: str, detail: str) -> None:
    tiny = build(name)
    full = counts(record(tiny)[1])
    less = record(tiny, detail)[1]
    coarse = [n for n in full if not n.startswith(("vision.", "prefill.", "layer", "lm_head"))]
    assert {n: counts(less)[n] for n in coarse} == {n: full[n] for n in coarse}
    assert counts(less)["layer"] == 0
    assert less.cost.marks < sum(full.values()) * 2


def test_one_new_token_has_no_decode() -> None:
    recording = record(build("llava"), max_new_tokens=1)[1]
    found = counts(recording)
    assert (found["decode"], found["decode.step"], found["token"]) == (0, 0, 1)
    assert recording.generations[0].new_tokens == (1,)


def test_steps_carry_their_number_tokens_and_cache_length() -> None:
    tiny = build("llava")
    recording = record(tiny)[1]
    prompt = tiny.inputs["input_ids"].shape[1]
    steps = list(recording.spans.named(names.STEP))
    assert [step.number for step in steps] == [0, 1, 2]
    assert [step.args["kv"] for step in steps] == [prompt + 1, prompt + 2, prompt + 3]
    assert [step.args["tokens"] for step in steps] == [1, 2, 3]


def test_what_is_known_of_the_inputs_is_kept_and_the_outputs_are_a_fingerprint() -> None:
    generation = record(build("llava"))[1].generations[0]
    assert generation.inputs["batch"] == 1
    assert generation.inputs["images"] == 1
    assert generation.inputs["visual_tokens"] == 16
    assert set(generation.output) == {"ids_sha256", "sequences"}


@pytest.mark.parametrize(("name", "tokens"), [("blip-2", 4), ("kosmos-2", 4), ("llama4", 4), ("qwen3_vl", 4)])
def test_visual_tokens_are_counted_where_the_image_became_them(name: str, tokens: int) -> None:
    assert record(build(name))[1].generations[0].inputs["visual_tokens"] == tokens


def test_padding_after_the_end_is_not_counted() -> None:
    tiny = build("llama")
    two = Tiny(tiny.model, {name: value.repeat(2, 1) for name, value in tiny.inputs.items()}, tiny.has)
    first = generate(tiny)[0, tiny.inputs["input_ids"].shape[1]].item()
    recording = record(two, eos_token_id=[first], pad_token_id=0, min_new_tokens=0)[1]
    assert recording.generations[0].new_tokens == (1, 1)


@pytest.mark.parametrize(
    ("more", "steps"),
    [
        ({"num_beams": 3}, NEW - 1),
        ({"use_cache": False}, NEW - 1),
        ({"do_sample": True, "num_return_sequences": 2}, NEW - 1),
        ({"cache_implementation": "static"}, NEW - 1),
    ],
    ids=["beams", "uncached", "sampled", "static"],
)
def test_other_ways_of_generating_keep_their_tokens_and_steps(more: dict[str, Any], steps: int) -> None:
    tiny = build("llava")
    expected = generate(tiny, **more)
    ids, recording = record(tiny, **more)
    assert torch.equal(ids, expected)
    assert (counts(recording)["prefill"], counts(recording)["decode.step"]) == (1, steps)


def test_without_a_role_the_first_generation_of_each_shape_is_cold() -> None:
    tiny = build("llama")
    longer = Tiny(tiny.model, {n: torch.cat([v, v], dim=1) for n, v in tiny.inputs.items()}, tiny.has)
    with vlmtrace.trace() as session:
        for which in (tiny, tiny, longer, tiny, longer):
            generate(which)
    assert [g.role for g in session.recording.generations] == [COLD, TIMED, COLD, TIMED, TIMED]


def test_a_role_and_tags_given_are_kept() -> None:
    tiny = build("llama")
    with Recorder(RecorderOptions("roles")) as made:
        made.role = WARMED
        generate(tiny)
        made.role = TIMED
        vlmtrace.tag(sample=7)
        generate(tiny)
    recording = made.finish()
    assert [g.role for g in recording.generations] == [WARMED, TIMED]
    assert [dict(g.tags) for g in recording.generations] == [{}, {"sample": 7}]


def test_only_the_named_model_is_recorded() -> None:
    with vlmtrace.trace(build("llama").model) as session:
        generate(build("llava"))
        generate(build("llama"))
    (model,) = session.recording.models
    assert (model.class_name, len(session.recording.generations)) == ("LlamaForCausalLM", 1)


def test_a_method_taken_before_the_block_records_nothing_and_the_summary_says_so() -> None:
    tiny = build("llama")
    taken = tiny.model.generate
    with vlmtrace.trace(tiny.model) as session:
        taken(**tiny.inputs, max_new_tokens=2)
    assert session.recording.generations == ()
    assert "nothing-recorded" in session.render()


def test_a_method_taken_inside_the_block_records_nothing_after_it() -> None:
    tiny = build("llama")
    before = state_of(tiny.model)
    with vlmtrace.trace(tiny.model) as first:
        taken = tiny.model.generate
        taken(**tiny.inputs, max_new_tokens=2)
    taken(**tiny.inputs, max_new_tokens=2)
    assert state_of(tiny.model) == before
    with vlmtrace.trace(tiny.model) as second:
        taken(**tiny.inputs, max_new_tokens=2)
        generate(tiny)
    assert [len(session.recording.generations) for session in (first, second)] == [1, 1]


@pytest.mark.parametrize("name", ["llava", "blip-2"])
def test_a_generate_that_the_model_holds_itself_is_the_generation(name: str) -> None:
    tiny = build(name)
    expected = counts(record(tiny)[1])
    own = tiny.model.__dict__["generate"] = tiny.model.generate
    try:
        _, recording = record(tiny)
        assert tiny.model.__dict__["generate"] is own
    finally:
        del tiny.model.__dict__["generate"]
    assert counts(recording) == expected
    assert recording.models[0].class_name == type(tiny.model).__name__


def test_users_spans_lie_around_and_inside_generations() -> None:
    tiny = build("llama")
    work = vlmtrace.span("work")
    with vlmtrace.trace(tiny.model) as session, vlmtrace.span("sample"):
        work(generate)(tiny)
    recording = session.recording
    (sample,), (inner,) = recording.spans.named("sample"), recording.spans.named("work")
    generation = recording.generate_span(recording.generations[0])
    assert inner.parent == sample.row
    assert generation.parent == inner.row


def test_layers_of_one_step_in_so_many_are_told_and_all_of_a_prefill() -> None:
    tiny = build("llava")
    with Recorder(RecorderOptions("sampled", detail="layer", every=3)) as made:
        ids = generate(tiny, max_new_tokens=9)
    recording = made.finish()
    steps = [span for span in recording.spans if span.name == names.STEP]
    (prefill,) = recording.spans.named(names.PREFILL)
    layers = Counter(span.parent for span in recording.spans if span.name == names.LAYER)
    count = layers.pop(prefill.row)
    assert len(steps) == 8
    assert layers == {step.row: count for step in steps if step.number is not None and step.number % 3 == 0}
    assert recording.workload["every"] == 3
    assert torch.equal(ids, generate(tiny, max_new_tokens=9))


def test_spans_and_tags_outside_of_a_recording_do_nothing() -> None:
    with vlmtrace.span("nothing"):
        vlmtrace.tag(sample=1)


def test_an_exception_passes_through_and_what_was_recorded_is_kept() -> None:
    tiny = build("llava")
    before = state_of(tiny.model)
    steps = iter(range(100))

    def stop(_module: nn.Module, _args: object) -> None:
        if next(steps) == 2:
            raise ValueError("in the middle")

    hook = tiny.model.lm_head.register_forward_pre_hook(stop)
    session = vlmtrace.trace(tiny.model)
    with pytest.raises(ValueError, match="in the middle"), session:
        generate(tiny)
    hook.remove()
    assert state_of(tiny.model) == before
    (generation,) = session.recording.generations
    assert generation.error == "ValueError: in the middle"
    assert session.recording.incomplete == "ValueError: in the middle"
    assert counts(session.recording)["decode.step"] == 2
    assert any(step.incomplete for step in session.recording.spans.named(names.STEP))


def test_an_interrupt_in_the_middle_of_decode_leaves_no_range_open(monkeypatch: pytest.MonkeyPatch) -> None:
    domain = FakeDomain()
    monkeypatch.setattr(recorder, "attached_nvtx_domain", lambda: domain)
    tiny = build("llava")
    steps = iter(range(100))

    def stop(_module: nn.Module, _args: object) -> None:
        if next(steps) == 2:
            raise KeyboardInterrupt

    hook = tiny.model.lm_head.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt), vlmtrace.trace(tiny.model, detail="layer"):
        generate(tiny)
    hook.remove()
    assert (domain.depth, domain.started) == (0, [])


def test_ranges_are_nested_and_named_and_warm_ups_stay_out_of_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    domain = FakeDomain()
    monkeypatch.setattr(recorder, "attached_nvtx_domain", lambda: domain)
    tiny = build("llava")
    with Recorder(RecorderOptions("nvtx")) as made:
        domain.log.clear()
        made.role = WARMED
        generate(tiny)
        made.role = TIMED
        generate(tiny)
    pushed = domain.open_and_close()
    pushed = pushed[next(i for i, name in enumerate(pushed) if name == "warmup") :]
    assert [n for n in pushed if n in {"warmup", "generate", "recording"}] == ["warmup", "recording", "generate"]
    assert pushed.count("decode.step") == 2 * (NEW - 1)
    assert (domain.depth, domain.started) == (0, [])
    payloads = [entry[2] for entry in domain.log if entry[:2] == ("push", "decode.step")]
    assert payloads == [0, 1, 2, 0, 1, 2]
    prefills = [entry[2] for entry in domain.log if entry[:2] == ("push", "prefill")]
    assert prefills == [tiny.inputs["input_ids"].shape[1]] * 2
    made.finish()


def test_generations_in_several_threads_have_tracks_of_their_own() -> None:
    tiny = build("llama")
    expected = generate(tiny)
    made: list[torch.Tensor] = []
    with vlmtrace.trace(tiny.model, detail="layer") as session:
        threads = [threading.Thread(target=lambda: made.append(generate(tiny)), name=f"worker {i}") for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(torch.equal(ids, expected) for ids in made)
    recording = session.recording
    assert {t.thread_name for t in recording.tracks} == {"worker 0", "worker 1", "worker 2"}
    assert counts(recording)["decode.step"] == 3 * (NEW - 1)


def test_a_second_recording_at_the_same_time_is_refused() -> None:
    with vlmtrace.trace(), pytest.raises(VlmtraceError, match="already running"), vlmtrace.trace():
        pass


def test_a_recording_that_was_refused_leaves_its_model_to_the_next() -> None:
    tiny = build("llava")
    with vlmtrace.trace(), pytest.raises(VlmtraceError), vlmtrace.trace(tiny.model, detail="layer"):
        pass
    never_entered = vlmtrace.trace(tiny.model, detail="layer")
    with vlmtrace.trace(detail="stage") as session:
        generate(tiny)
    assert counts(session.recording) == counts(record(tiny, "stage")[1])
    del never_entered


def test_a_torch_that_calls_modules_in_another_way_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "__call__", lambda self, *args, **kwargs: self.forward(*args, **kwargs))
    with pytest.raises(VlmtraceError, match=r"torch .* calls modules in a way that this vlmtrace cannot see"):
        vlmtrace.trace(build("llama").model).__enter__()
    assert recorder.active() is None


def test_a_recording_cannot_be_read_before_it_is_finished() -> None:
    with vlmtrace.trace() as session, pytest.raises(VlmtraceError, match="after the with block"):
        _ = session.recording


def test_an_unknown_detail_or_stage_path_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"'fine'.*stage, module, layer"):
        vlmtrace.trace(detail="fine")
    with pytest.raises(UsageError, match=r"model\.nowhere"):
        vlmtrace.trace(build("llava").model, stages={"vision": "model.nowhere"})


def test_a_named_stage_is_traced_where_discovery_is_overruled() -> None:
    tiny = build("molmo_layout")
    with vlmtrace.trace(tiny.model, stages={"vision": "model.vision_backbone"}) as session:
        generate(tiny)
    assert counts(session.recording)["vision"] == 1
    found = {stage.stage: stage.how for stage in session.recording.models[0].stages}
    assert found[names.ENCODER] == "--stage"


def test_a_model_that_was_traced_can_be_copied_and_pickled_while_tracing_goes_on() -> None:
    tiny = build("llama")
    with vlmtrace.trace() as session:
        generate(tiny)
        twin = copy.deepcopy(tiny.model)
        pickle.loads(pickle.dumps(tiny.model))
        ids = generate(Tiny(twin, tiny.inputs, tiny.has))
    assert torch.equal(ids, generate(tiny))
    assert len(session.recording.generations) == 2
    assert "_vlmtrace_plan" not in tiny.model.__dict__


@pytest.mark.parametrize("more", [{}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 2}, {"use_cache": False}])
def test_what_a_generation_made_dies_with_it_and_not_when_the_collector_comes(more: dict[str, Any]) -> None:
    """Else the next one's cache lies elsewhere on the device, and each generation captures its CUDA graph anew."""
    tiny = build("llava")

    def alive() -> int:
        return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())

    def left(times: int) -> int:
        generate(tiny, **more)
        gc.collect()
        before = alive()
        for _ in range(times):
            generate(tiny, **more)
        return alive() - before

    gc.collect()
    gc.disable()
    try:
        untraced = left(3)
        with vlmtrace.trace(tiny.model, detail="layer"):
            traced = left(3)
    finally:
        gc.enable()
    assert traced == untraced


def test_a_later_generation_does_not_walk_over_the_modules_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk over all of them takes milliseconds, by which each ``generate()`` would be longer."""
    tiny = build("llava")
    asked: list[int] = []
    original = nn.Module.named_modules

    def named_modules(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        asked.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "named_modules", named_modules)

    def once() -> int:
        asked.clear()
        generate(tiny)
        return len(asked)

    once()
    untraced = once()
    first = next(name for name, _ in tiny.model.named_parameters())
    with vlmtrace.trace(tiny.model, detail="stage"):
        once()
        assert once() - untraced <= first.count(".") + 1, "more than the way down to the first parameter"


def test_a_model_that_is_moved_is_asked_again_where_it_runs() -> None:
    model = copy.deepcopy(build("llava").model)
    plan = Plans("stage", {}).of(model)
    assert plan.working_device(model) == torch.device("cpu")
    model.to("meta")
    assert plan.working_device(model) is None


def test_a_recording_does_not_keep_a_model_alive() -> None:
    made = copy.deepcopy(build("llama").model)
    gone = weakref.ref(made)
    with vlmtrace.trace():
        generate(Tiny(made, build("llama").inputs, frozenset()))
        del made
        gc.collect()
        assert gone() is None


def test_a_collection_in_the_middle_of_decode_is_on_the_hosts_row_of_its_generation() -> None:
    tiny = build("llava")
    steps = iter(range(100))

    def collect(_module: nn.Module, _args: object) -> None:
        if next(steps) == 2:
            gc.collect()

    hook = tiny.model.lm_head.register_forward_pre_hook(collect)
    recording = record(tiny)[1]
    hook.remove()
    (pause,) = [s for s in recording.spans.named(names.GC) if s.args["gc_generation"] == 2]
    step = list(recording.spans.named(names.STEP))[1]
    assert recording.tracks[pause.track].kind == "host"
    assert pause.generation == 0
    assert step.host_begin <= pause.begin <= pause.end <= step.host_end


def test_a_collection_is_told_once_where_the_system_has_given_a_threads_number_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny = build("llama")
    monkeypatch.setattr(threading, "get_native_id", lambda: 7)

    def work() -> None:
        generate(tiny)
        gc.collect()

    with vlmtrace.trace(tiny.model) as session:
        for _ in range(2):
            thread = threading.Thread(target=work, name="worker")
            thread.start()
            thread.join()
    pauses = [(span.begin, span.end) for span in session.recording.spans.named(names.GC)]
    assert len(pauses) >= 2
    assert len(pauses) == len(set(pauses))


def test_a_users_preprocessing_is_the_stage_of_that_name() -> None:
    tiny = build("llama")
    with vlmtrace.trace(tiny.model) as session:
        with vlmtrace.span("preprocess"):
            pass
        generate(tiny)
        with vlmtrace.span("prefill"):
            pass
    recording = session.recording
    (preprocess,) = recording.spans.named(names.PREPROCESS)
    (request,) = recording.spans.named(names.REQUEST)
    assert preprocess.parent == request.row
    assert counts(recording)["prefill"] == 1, "a span called as a stage inside generate is not that stage"


def test_on_a_device_stages_are_timed_by_its_clock_and_one_wait_is_added(fake: Fake) -> None:
    tiny = build("llava")
    hooks = [
        module.register_forward_pre_hook(lambda *_: fake.device.launch(400_000))
        for module in (tiny.model.model.vision_tower, tiny.model.model.language_model)
    ]
    with vlmtrace.trace(tiny.model) as session:
        generate(tiny)
        waits = fake.device.waits
        ids = generate(tiny)
        added = fake.device.waits - waits
    for hook in hooks:
        hook.remove()
    recording = session.recording
    assert torch.equal(ids, generate(tiny))
    assert recording.on_device
    assert recording.cost.path == "fake"
    assert recording.cost.waits == 2
    assert added == 1 + 5, "one wait, and the five readings of the anchor after it"
    assert len(recording.clocks) == 2
    for generation, clock in zip(recording.generations, recording.clocks, strict=True):
        assert generation.clock == clock.generation
        assert clock.widened_ns == 0
        assert clock.bound_ns < 20_000
    steps = list(recording.spans.named(names.STEP))
    assert len(steps) == 2 * (NEW - 1)
    assert all(step.duration >= 400_000 for step in steps)
    assert all(span.begin >= span.host_begin for span in recording.spans if span.name == names.STEP)
    (wait, _) = recording.spans.named(names.WAIT)
    assert recording.tracks[wait.track].device is None


def test_a_device_that_is_lost_leaves_the_host_times_and_says_so(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = build("llama")

    def broken(_event: int) -> None:
        raise RuntimeError("device-side assert")

    with vlmtrace.trace(tiny.model) as session:
        generate(tiny)
        monkeypatch.setattr(fake.device, "wait", broken)
        generate(tiny)
    assert session.recording.generations[0].error is None
    assert session.recording.generations[1].error == "device times lost: device-side assert"


def test_counters_of_a_device_are_of_the_device_that_the_generation_ran_on(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[int] = []
    monkeypatch.setattr(GpuSampler, "watch", lambda _sampler, device: watched.append(device))
    held = iter(range(100, 200))
    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", lambda _device: allocator_counters(held=next(held)))
    tiny = build("llava")
    with Recorder(RecorderOptions("tiny", sample_gpu=10), [tiny.model]) as made:
        for _ in range(2):
            generate(tiny)
    recording = made.finish()

    assert watched == [0, 0]
    counters = {one.name: one for one in recording.counters}
    spans = [recording.generate_span(one) for one in recording.generations]
    assert list(counters["allocated"].times) == [time for span in spans for time in (span.begin, span.end)]
    assert list(counters["allocated"].values) == [100, 101, 102, 103]
    assert (counters["allocated"].device, counters["KV cache"].device) == (0, 0)

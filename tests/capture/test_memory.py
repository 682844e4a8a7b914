"""What is held at the borders of stages, and each stage's own peak, from an allocator whose bytes are made up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import vlmtrace
from tests.capture.fakes import Fake, FakeAllocator
from tests.models import NAMES, Tiny, build
from vlmtrace.capture import lanes, memory
from vlmtrace.capture.calibration import Prices
from vlmtrace.capture.kernel_profile import KernelProfile
from vlmtrace.capture.recorder import Recorder, RecorderOptions
from vlmtrace.errors import UsageError
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Counter, Recording

NEW = 4
WEIGHTS, SEEING, READING, STEPPING = 1_000, 500, 300, 200
"""What the model holds, and what its tower, its prefill and each step need for a moment."""
STAGES = (names.GENERATE, names.VISION, names.PREFILL, names.DECODE)


@pytest.fixture
def allocator(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> FakeAllocator:
    made = FakeAllocator(WEIGHTS)
    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", made.stats)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", made.reset)
    return made


@pytest.fixture
def tiny(allocator: FakeAllocator) -> Iterator[Tiny]:
    """A model whose parts need memory for a moment; each forward of its language model adds 10 bytes to the cache."""
    made = build("llava")
    forwards = 0

    def read(*_: Any) -> None:
        nonlocal forwards
        allocator.need(STEPPING if forwards % NEW else READING)
        allocator.hold(10)
        forwards += 1

    hooks = [
        made.model.model.vision_tower.register_forward_pre_hook(lambda *_: allocator.need(SEEING)),
        made.model.model.language_model.register_forward_pre_hook(read),
    ]
    yield made
    for hook in hooks:
        hook.remove()


def generate(tiny: Tiny, **more: Any) -> None:
    with torch.no_grad():
        tiny.model.generate(**tiny.inputs, **{"max_new_tokens": NEW, "do_sample": False, **more})


def recorded(tiny: Tiny, *, asked: bool = True, times: int = 1, detail: str = "stage", **more: Any) -> Recording:
    with Recorder(RecorderOptions("tiny", detail, memory=asked), [tiny.model]) as made:
        for _ in range(times):
            generate(tiny, **more)
    return made.finish()


def peaks(recording: Recording, generation: int = 0) -> dict[str, Any]:
    """The peak of each stage that has one."""
    spans = recording.spans_of(recording.generations[generation])
    return {span.name: span.args["peak_bytes"] for span in spans if "peak_bytes" in span.args}


def counter(recording: Recording, name: str) -> Counter:
    (found,) = (one for one in recording.counters if one.name == name)
    return found


@pytest.mark.parametrize("detail", ["stage", "module", "layer"])
def test_each_stage_has_its_own_peak_wherever_the_image_is_encoded(tiny: Tiny, detail: str) -> None:
    recording = recorded(tiny, detail=detail)
    assert peaks(recording) == {
        names.GENERATE: WEIGHTS + SEEING,
        names.VISION: WEIGHTS + SEEING,
        names.PREFILL: WEIGHTS + READING,
        names.DECODE: WEIGHTS + 10 * (NEW - 1) + STEPPING,
    }
    assert recording.generations[0].device_state["peak_bytes"] == WEIGHTS + SEEING


def test_a_peak_before_the_generation_is_none_of_its(tiny: Tiny, allocator: FakeAllocator) -> None:
    allocator.need(50_000)
    recording = recorded(tiny, times=2)
    assert peaks(recording)[names.GENERATE] == WEIGHTS + SEEING
    assert peaks(recording, 1)[names.GENERATE] == WEIGHTS + 10 * NEW + SEEING


def test_a_peak_outside_of_all_stages_is_the_generations_alone(
    tiny: Tiny, allocator: FakeAllocator, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = tiny.model._prepare_generation_config

    def needs(*args: Any, **kwargs: Any) -> Any:
        allocator.need(9_000)
        return prepare(*args, **kwargs)

    monkeypatch.setattr(tiny.model, "_prepare_generation_config", needs)
    made = peaks(recorded(tiny))
    assert made.pop(names.GENERATE) == WEIGHTS + 9_000
    assert max(made.values()) == made[names.VISION] == WEIGHTS + SEEING


def test_the_counters_have_a_sample_at_each_border(tiny: Tiny) -> None:
    recording = recorded(tiny)
    of = {span.name: span for span in recording.spans if span.name in STAGES}
    begins = [of[name].begin for name in STAGES]
    ends = [of[name].end for name in STAGES if name != names.DECODE]

    allocated = counter(recording, "allocated")
    assert list(allocated.times) == sorted(begins + ends)
    assert set(counter(recording, "reserved").values) == {20}
    held = dict(zip(allocated.times, allocated.values, strict=True))
    assert (held[of[names.PREFILL].begin], held[of[names.PREFILL].end]) == (WEIGHTS, WEIGHTS + 10)
    assert held[of[names.GENERATE].end] == WEIGHTS + 10 * NEW
    peak = counter(recording, "peak allocated")
    highest = dict(zip(peak.times, peak.values, strict=True))
    assert highest[of[names.VISION].begin] == WEIGHTS + SEEING
    assert highest[of[names.DECODE].begin] == WEIGHTS + 10 * (NEW - 1) + STEPPING
    assert highest[of[names.GENERATE].end] == WEIGHTS + 10 * NEW, (
        "behind a generation nothing is known but what is held"
    )


@pytest.mark.parametrize("new", [2, 9])
def test_no_step_is_read(tiny: Tiny, allocator: FakeAllocator, new: int) -> None:
    recorded(tiny, max_new_tokens=new)
    borders = 7
    assert (allocator.resets, allocator.reads) == (borders, borders + 2), "two are those around every generation"


def test_begins_are_read_before_their_mark_and_ends_after_it(
    tiny: Tiny, allocator: FakeAllocator, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_at: list[int] = []

    def stats(device: int) -> dict[str, Any]:
        read_at.append(fake.host.ns)
        return allocator.stats(device)

    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", stats)
    recording = recorded(tiny)
    of = {span.name: span for span in recording.spans if span.name in STAGES}
    marks = sorted(mark for span in recording.spans for mark in (span.host_begin, span.host_end))
    for name, span in of.items():
        before = max(mark for mark in (0, *marks) if mark < span.host_begin)
        assert any(before < at < span.host_begin for at in read_at), name
        if name != names.DECODE:
            after = min(mark for mark in (*marks, span.host_end + 10**9) if mark > span.host_end)
            assert any(span.host_end < at < after for at in read_at), name


def test_without_being_asked_nothing_is_reset_and_marks_go_to_the_tape_itself(
    tiny: Tiny, allocator: FakeAllocator
) -> None:
    with Recorder(RecorderOptions("tiny"), [tiny.model]) as made:
        generate(tiny)
        voice = made.lanes.voice(0)
        assert voice.listener is voice.tape
    recording = made.finish()
    assert (allocator.resets, allocator.reads) == (0, 2)
    assert peaks(recording) == {}
    assert len(counter(recording, "allocated").times) == 2


def test_a_generation_that_breaks_off_keeps_what_was_read_and_the_next_is_whole(
    tiny: Tiny, allocator: FakeAllocator
) -> None:
    calls = iter(range(100))

    def breaks(*_: Any) -> None:
        if next(calls) == 2:
            allocator.need(7_000)
            raise RuntimeError("out of luck")

    hook = tiny.model.model.language_model.register_forward_pre_hook(breaks)
    with Recorder(RecorderOptions("tiny", memory=True), [tiny.model]) as made:
        with pytest.raises(RuntimeError, match="out of luck"):
            generate(tiny)
        generate(tiny)
    hook.remove()
    recording = made.finish()
    broken, whole = peaks(recording), peaks(recording, 1)
    assert broken[names.PREFILL] == WEIGHTS + READING
    assert broken[names.DECODE] == broken[names.GENERATE] > WEIGHTS + 7_000
    assert set(whole) == set(STAGES)
    assert whole[names.GENERATE] < broken[names.GENERATE]


def test_a_model_that_sees_nothing_has_a_prefill_and_a_decode(allocator: FakeAllocator) -> None:
    assert set(peaks(recorded(build("llama")))) == {names.GENERATE, names.PREFILL, names.DECODE}


def test_where_no_decode_ran_none_has_a_peak(tiny: Tiny) -> None:
    assert set(peaks(recorded(tiny, max_new_tokens=1))) == {names.GENERATE, names.VISION, names.PREFILL}


@pytest.mark.parametrize("name", NAMES)
def test_every_family_has_a_peak_for_each_stage_outside_of_decode(name: str, allocator: FakeAllocator) -> None:
    recording = recorded(build(name))
    spans = recording.spans
    homes = {names.GENERATE, names.PREFILL}
    wanted = [
        span
        for span in spans
        if span.name in STAGES and (span.name != names.VISION or spans[span.parent or 0].name in homes)
    ]
    assert {span.name for span in wanted} >= {names.GENERATE, names.PREFILL, names.DECODE}
    assert [span.name for span in wanted if span.args.get("peak_bytes") != WEIGHTS] == []


def test_chunks_of_a_prefill_are_one_stage(allocator: FakeAllocator) -> None:
    tiny = build("llama")
    sizes = iter([100, 900, 100])
    hook = tiny.model.model.register_forward_pre_hook(lambda *_: allocator.need(next(sizes, 0)))
    recording = recorded(tiny, prefill_chunk_size=3)
    hook.remove()
    assert len(list(recording.spans.named(names.PREFILL_CHUNK))) > 1
    assert peaks(recording)[names.PREFILL] == WEIGHTS + 900


def test_vision_that_is_run_anew_in_every_step_counts_in_decode(tiny: Tiny, allocator: FakeAllocator) -> None:
    recording = recorded(tiny, use_cache=False)
    inside = [span for span in recording.spans.named(names.VISION) if "peak_bytes" not in span.args]
    assert all(recording.spans[span.parent or 0].name == names.STEP for span in inside)
    expected = (SEEING if inside else STEPPING) + WEIGHTS + 10 * (NEW - 1)
    assert peaks(recording)[names.DECODE] == expected
    assert allocator.resets == 7


def test_what_reading_took_is_counted_as_a_cost_of_tracing(
    tiny: Tiny, allocator: FakeAllocator, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "calibrate", lambda *_: Prices())

    def slow(device: int) -> None:
        fake.host.spend(50_000)
        allocator.reset(device)

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", slow)
    inside, tick = 5, fake.host.tick
    assert recorded(tiny).cost.host_ns == (inside * (50_000 + tick),)
    assert recorded(tiny, asked=False).cost.host_ns == (0,)


def test_a_trace_keeps_the_peaks(tiny: Tiny, tmp_path: Any) -> None:
    recording = recorded(tiny)
    assert vlmtrace.load(vlmtrace.save(recording, tmp_path / "t.pftrace")) == recording


@pytest.mark.parametrize("answer", [{}, RuntimeError("another allocator")])
def test_another_allocator_has_no_peaks_and_harms_nothing(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    def stats(_device: int) -> dict[str, Any]:
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", stats)
    recording = recorded(build("llama"))
    assert peaks(recording) == {}
    assert recording.generations[0].error is None


def test_on_the_hosts_clock_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "allocator_state", lambda _device: pytest.fail("the allocator was read"))
    assert peaks(recorded(build("llama"))) == {}


def test_a_ring_reads_nothing(tiny: Tiny, allocator: FakeAllocator, fake: Fake) -> None:
    with Recorder(RecorderOptions("tiny", slowest=1, memory=True), [tiny.model]):
        generate(tiny)
        fake.host.spend(1_000_000)
    assert (allocator.resets, allocator.reads) == (0, 0)


def test_a_profile_of_kernels_reads_none() -> None:
    assert not KernelProfile(None, RecorderOptions("tiny", memory=True)).recorder.options.memory


def test_threads_that_generate_on_one_device_share_its_allocator(allocator: FakeAllocator) -> None:
    made = Recorder(RecorderOptions("tiny", memory=True))
    meters: list[Any] = []

    def run() -> None:
        meters.append(made.lanes.voice(0).meter)

    with made:
        run()
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    made.finish()
    assert meters[0] is not meters[1]
    assert meters[0]._allocator is meters[1]._allocator


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_from_python_it_is_refused_without_a_gpu() -> None:
    with pytest.raises(UsageError, match="needs a CUDA device"):
        vlmtrace.trace(build("llama").model, memory=True)

"""Provoked findings: for each one a recording that it is told of, and the words in which the documents say when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.analysis.altered import rebuilt, with_generation, with_inputs
from tests.synthetic import MS, US, Shape, recording
from vlmtrace.analysis.findings import Slug
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import FoundStage, Recording, SyncSite
from vlmtrace.timeline.spans import NewSpan, SpansBuilder
from vlmtrace.timeline.validation import validate

__all__ = ["provoked"]


def provoked() -> Iterator[tuple[Slug, str, Recording]]:
    """Each finding, when it is told, and a recording that it is told of; in the order of their list."""
    good = recording(*(Shape(lead=8 * MS),) * 5)
    yield from _provoked_by_what_ran(good)
    yield from _provoked_by_times(good)
    yield from _provoked_by_versions(good)
    yield from _provoked_by_waste(good)


def _provoked_by_what_ran(good: Recording) -> Iterator[tuple[Slug, str, Recording]]:
    strings = tuple(names.OTHER_SETUP if text == names.VISION else text for text in good.spans.strings)
    blind = replace(good, spans=replace(good.spans, strings=strings))
    guess = FoundStage(names.PROJECTOR, "model.bridge", "named bridge", guess=True)
    guessed = replace(good, models=(replace(good.models[0], stages=(guess,)),))
    two_models = with_generation(replace(good, models=good.models * 2), 3, model=1)
    one_token = recording(*(Shape(lead=8 * MS),) * 4, Shape(steps=0, lead=8 * MS))
    broken = with_generation(good, 4, error="RuntimeError: boom")
    yield Slug.NOTHING_RECORDED, "no generation was recorded", _emptied(good)
    batched = replace(good, workload={**good.workload, "continuous_batching": 1})
    yield Slug.NOT_TRACED, "continuous batching ran, which has no generations to trace", batched
    yield Slug.INCOMPLETE, "an error or an interrupt ended a generation, or the recording", broken
    yield Slug.NO_VISION, "images went in and no vision stage was seen", blind
    yield Slug.NO_VISION, "no image went in", with_inputs(blind, batch=1)
    textual = replace(blind, models=(replace(good.models[0], class_name="LlamaForCausalLM", stages=()),))
    yield Slug.NO_VISION, "the model has no vision part", with_inputs(textual, batch=1)
    yield Slug.NOT_SEPARABLE, "a stage that was asked for ran inside compiled code", with_mode(good, "compiled")
    yield Slug.GUESSED_STAGE, "nothing but a module’s name says that it is a stage", guessed
    yield Slug.SEVERAL_MODELS, "the counted generations are not all of one model", two_models
    yield Slug.ONE_TOKEN_OUTPUT, "a generation ended with its first token", one_token


def _provoked_by_times(good: Recording) -> Iterator[tuple[Slug, str, Recording]]:
    few = recording(*(Shape(lead=8 * MS),) * 3)
    drifting = recording(*(Shape(lead=8 * MS, step=(30 - 2 * at) * MS) for at in range(8)))
    spiky = recording(*(Shape(lead=8 * MS),) * 5, Shape(lead=8 * MS, steps=1, step=40 * MS))
    late = recording(*(Shape(lead=8 * MS),) * 4, Shape(lead=8 * MS, late=MS))
    clocks = good.clocks
    widened = replace(good, clocks=(replace(clocks[0], widened_ns=20 * US), *clocks[1:]))
    wide = replace(good, clocks=tuple(replace(clock, bound_ns=3 * MS) for clock in clocks))
    yield Slug.FEW_REPEATS, "fewer than five generations are counted", few
    yield Slug.WARM_UP_DRIFT, "like generations get longer or shorter, surely and by more than 5 %", drifting
    host = next(at for at, track in enumerate(good.tracks) if track.kind == "host")
    step = next(good.spans.named(names.STEP))
    graphs = NewSpan(names.CAPTURE, host, (step.begin, step.begin + MS), generation=0)
    compiling = rebuilt(good, more=(graphs,))
    yield Slug.COMPILED_IN_REPEATS, "the compiler was at work in a timed generation", compiling
    yield Slug.OUTLIER_STEPS, "steps are longer than three times the median of their like", spiky
    held = with_generation(good, 1, device_state={"throttled_by": ["sw_power_cap"]})
    slow = with_generation(good, 1, device_state={"sm_clock_mhz": 345, "max_sm_clock_mhz": 1980})
    retried = with_generation(good, 1, device_state={"alloc_retries": 2})
    yield Slug.THROTTLED, "NVML told at the end of a generation that something held the clock down", held
    yield Slug.LOW_CLOCKS, "a generation ended with the SM clock below 80 % of the highest", slow
    yield Slug.ALLOCATOR_RETRIED, "the CUDA allocator freed its cache and asked again during a generation", retried
    yield Slug.SHARED_STREAM, "generations of different threads ran on one GPU at the same time", _side_by_side(good)
    yield Slug.WALL_MISMATCH, "host wall and device length differ by more than the clock’s bound + 50 µs", late
    yield Slug.CLOCK_WIDENED, "marks and anchors of a generation contradict each other", widened
    yield Slug.WIDE_CLOCK, "the clock’s bound is more than a quarter of a judged stage", wide


def _provoked_by_versions(good: Recording) -> Iterator[tuple[Slug, str, Recording]]:
    future = replace(good, environment={**good.environment, "transformers": "6.1.0"})
    yield Slug.UNTESTED_VERSION, "transformers is older or newer than what was tested", future


def _provoked_by_waste(good: Recording) -> Iterator[tuple[Slug, str, Recording]]:
    waiting = recording(*(Shape(lead=0),) * 5)
    compiled = replace(waiting, generations=tuple(replace(g, mode="compiled") for g in waiting.generations))
    step = next(good.spans.named(names.STEP))
    again = NewSpan(
        names.VISION,
        next(good.spans.named(names.VISION)).track,
        (step.begin + MS, step.end - MS),
        parent=step.row,
        generation=0,
    )
    site = SyncSite("transformers/models/tiny/modeling_tiny.py", 321, "TinyVision.forward", names.ENCODER, 8)
    audited = replace(good, syncs=(site,), audited=1)
    slow = recording(*(Shape(lead=MS, vision=3 * MS),) * 5)
    yield (
        Slug.VISION_REPEATED,
        "vision ran inside a step, or more often than there were images",
        rebuilt(good, more=(again,)),
    )
    yield Slug.PREFILL_RECOMPUTED, "steps ran without a cache", replace(good, workload={"use_cache": False})
    yield Slug.SLOW_PREPROCESSING, "preprocessing takes longer than vision, in the median", slow
    yield Slug.HOST_BOUND_DECODE, "the verdict on decode is host-bound", waiting
    yield Slug.HOST_BOUND_DECODE, "the same, and decode is compiled already", compiled
    yield Slug.SYNC_IN_STAGE, "an audit saw the host wait for the GPU inside vision, prefill or a step", audited


def _emptied(made: Recording) -> Recording:
    """A recording in which nothing happened."""
    spans, _ = SpansBuilder().freeze()
    return validate(replace(made, spans=spans, generations=(), clocks=(), tracks=()))


def _side_by_side(made: Recording) -> Recording:
    """The same with its last generation on another thread, while the one before it ran."""
    last = len(made.generations) - 1
    before, moved = (made.generate_span(made.generations[at]).begin for at in (last - 1, last))
    builder = SpansBuilder()
    for span in made.spans:
        ours = span.generation != last
        early = 0 if ours else moved - before - MS
        builder.add(
            NewSpan(
                span.name,
                span.track + (0 if ours else len(made.tracks)),
                (span.begin - early, span.end - early),
                (span.host_begin - early, span.host_end - early),
                span.parent,
                span.generation,
                span.number,
                span.incomplete,
                span.args,
            )
        )
    spans, row_of = builder.freeze()
    other = tuple(replace(track, thread=track.thread + 1, thread_name="Thread-1") for track in made.tracks)
    generations = tuple(replace(g, span=row_of[g.span]) for g in made.generations)
    return validate(replace(made, spans=spans, tracks=made.tracks + other, generations=generations))


def with_mode(made: Recording, mode: str) -> Recording:
    """All generations decoded that way."""
    return replace(made, generations=tuple(replace(g, mode=mode) for g in made.generations))

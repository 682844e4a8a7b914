"""Findings: the closed list of reasons to distrust or act on a number, each with its evidence and a remedy.

A new one is a :class:`Slug` and a function from :class:`Case` to a finding (or ``None``) in :data:`_FINDERS`. Those
about how steady the run was, how far its clocks can be trusted and what work was wasted have files of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from vlmtrace.analysis import hardware, steadiness, trust, waste
from vlmtrace.analysis.case import Case, Finding, Slug, counted_text
from vlmtrace.analysis.launch import Verdict
from vlmtrace.analysis.measured import Measured
from vlmtrace.timeline import names

__all__ = ["ENOUGH_REPEATS", "Case", "Finding", "Slug", "find"]

_PIXELS: Final = re.compile(r"pixel_values|(^|_)(images?|patches|videos?)$")
"""Names under which models take an image's own numbers."""
ENOUGH_REPEATS: Final = 5
"""With fewer timed generations a median says little and a 95th percentile is the slowest one."""


def find(case: Case) -> tuple[Finding, ...]:
    """Every finding that holds, in the order of :class:`Slug`."""
    return tuple(finding for finder in _FINDERS if (finding := finder(case)) is not None)


def _nothing_recorded(case: Case) -> Finding | None:
    if case.recording.generations:
        return None
    return Finding(
        Slug.NOTHING_RECORDED,
        "no generate() of a traced model was called",
        "call it as model.generate() while tracing: a method taken from the model before is not seen",
    )


def _not_traced(case: Case) -> Finding | None:
    times = _integer(case.recording.workload.get("continuous_batching"))
    if not times:
        return None
    return Finding(
        Slug.NOT_TRACED,
        f"continuous batching (generate_batch) was begun {counted_text(times, 'time')}, and is not traced",
        "trace generate() for its stages; for continuous batching record with Nsight Systems",
    )


def _incomplete(case: Case) -> Finding | None:
    broken = [one.generation for one in case.measured if not one.complete]
    reason = case.recording.incomplete or next((one.error for one in broken if one.error), None)
    if reason is None and not broken:
        return None
    left = f"{counted_text(len(broken), 'generation')} left out" if broken else "the recording ended early"
    return Finding(Slug.INCOMPLETE, f"{left}: {reason}" if reason else left, "record again for a whole one")


def _no_vision(case: Case) -> Finding | None:
    if not case.counted or any(one.stages.vision for one in case.counted):
        return None
    given = any(map(_has_pixels, case.counted))
    if given and all(one.generation.mode == "compiled" for one in case.counted):
        return None  # it may have run inside compiled code: told as that
    if given:
        return Finding(
            Slug.NO_VISION,
            "images went in, but no vision part was seen to run",
            "name it: --stage vision=MODULE.PATH (record --dry-run and summary --stages show the tree)",
        )
    models = [case.recording.models[at] for at in sorted({one.generation.model for one in case.counted})]
    if not any(part.stage == names.VISION for model in models for part in model.stages):
        return Finding(
            Slug.NO_VISION,
            f"no vision ran: none was found in {models[0].class_name}, and no image went in",
            "if it can see, name what sees: --stage vision=MODULE.PATH",
        )
    return Finding(Slug.NO_VISION, "no vision ran: no image went in", "pass one to see the vision stage")


def _has_pixels(one: Measured) -> bool:
    """Whether ``generate()`` was handed an image or a video, also where nobody can count how many."""
    images, shapes = one.generation.inputs.get("images"), one.generation.inputs.get("shapes")
    return bool(images) or any(_PIXELS.search(name) for name in (shapes if isinstance(shapes, dict) else ()))


def _not_separable(case: Case) -> Finding | None:
    """Stages inside compiled code: its call is timed as a whole, and nothing in it can be told apart from outside.

    Told where that hides something that was asked for: finer detail, or a vision that no span shows.
    """
    compiled = [one for one in case.counted if one.generation.mode == "compiled"]
    hidden = ["layers and head of the compiled steps"] if case.recording.detail != "stage" else []
    if any(not one.stages.vision and _has_pixels(one) for one in compiled):
        hidden.append("vision")
    if not compiled or not hidden:
        return None
    return Finding(
        Slug.NOT_SEPARABLE,
        f"{' and '.join(hidden)} ran inside compiled code in {len(compiled):,} of "
        f"{counted_text(len(case.counted), 'generation')}: they are part of the stage around them",
        "record once more without compiling to tell them apart",
    )


TESTED_FROM: Final = (5, 0)
TESTED_TO: Final = (5, 23)
"""The oldest and the newest release of transformers whose models were held against what really ran."""


def _untested_version(case: Case) -> Finding | None:
    """Stages may lie elsewhere in a version that nobody looked at."""
    version = case.recording.environment.get("transformers")
    found = re.match(r"(\d+)\.(\d+)", version) if isinstance(version, str) else None
    if found is None or TESTED_FROM <= (int(found[1]), int(found[2])) <= TESTED_TO:
        return None
    tested = " to ".join(".".join(map(str, end)) for end in (TESTED_FROM, TESTED_TO))
    return Finding(
        Slug.UNTESTED_VERSION,
        f"transformers {version}: vlmtrace is tested with {tested}",
        "run scripts/conformance.py with it, or compare with a version that is tested",
    )


def _guessed_stage(case: Case) -> Finding | None:
    guesses = [part for model in case.recording.models for part in model.stages if part.guess]
    if not guesses:
        return None
    told = ", ".join(f"{part.stage} is taken to be {part.path!r}" for part in guesses[:2])
    more = f" and {len(guesses) - 2} more" if len(guesses) > 2 else ""
    return Finding(Slug.GUESSED_STAGE, f"by name alone, {told}{more}", f"confirm with --stage {guesses[0].stage}=PATH")


def _several_models(case: Case) -> Finding | None:
    models = {one.generation.model for one in case.counted}
    if len(models) < 2:
        return None
    return Finding(
        Slug.SEVERAL_MODELS, f"generations of {len(models)} models are counted together", "record one at a time"
    )


def _one_token_output(case: Case) -> Finding | None:
    bare = sum(one.account.decode is None for one in case.counted)
    if not bare:
        return None
    return Finding(
        Slug.ONE_TOKEN_OUTPUT,
        f"no decode forward ran in {bare} of {counted_text(len(case.counted), 'generation')}: decode is absent, not 0",
        "raise --max-new-tokens, or use --ignore-eos",
    )


def _few_repeats(case: Case) -> Finding | None:
    count = len(case.counted)
    if not 0 < count < ENOUGH_REPEATS:
        return None
    return Finding(
        Slug.FEW_REPEATS,
        f"{counted_text(count, 'generation')} counted: p50 and p95 say little",
        f"record {ENOUGH_REPEATS} or more, such as --repeats 10",
    )


def _host_bound_decode(case: Case) -> Finding | None:
    judgement = case.judgements.get(names.DECODE)
    if judgement is None or judgement.verdict is not Verdict.HOST:
        return None
    compiled = all(one.generation.mode == "compiled" for one in case.counted)
    return Finding(
        Slug.HOST_BOUND_DECODE,
        f"the GPU waits for the host in {judgement.host_bound_parts} of {counted_text(judgement.parts, 'step')}",
        "try a larger --batch" if compiled else "try --cache static",
    )


def _sync_in_stage(case: Case) -> Finding | None:
    """Waits inside a stage only: between steps every generation has one, when it asks whether to stop."""
    counts = dict.fromkeys((names.VISION, names.PREFILL, names.STEP), 0)
    inside = []
    for site in case.recording.syncs:
        stage = site.stage if site.stage == names.STEP else site.stage.partition(".")[0]
        if stage in counts:
            counts[stage] += site.count
            inside.append(site)
    if not inside:
        return None
    told = ", ".join(
        f"{count / case.recording.audited:.3g} times in {stage}" for stage, count in counts.items() if count
    )
    most = max(inside, key=lambda site: site.count)
    return Finding(
        Slug.SYNC_IN_STAGE,
        f"the host waits for the GPU {told} per generation, most often at {most.file}:{most.line} ({most.function})",
        "keep on the host what that line reads back, or read it back once",
    )


_FINDERS: Final[tuple[Callable[[Case], Finding | None], ...]] = (
    _nothing_recorded,
    _not_traced,
    _incomplete,
    _no_vision,
    _not_separable,
    _guessed_stage,
    _untested_version,
    _several_models,
    _one_token_output,
    _few_repeats,
    steadiness.warm_up_drift,
    steadiness.compiled_in_repeats,
    steadiness.outlier_steps,
    hardware.throttled,
    hardware.low_clocks,
    hardware.allocator_retried,
    trust.shared_stream,
    trust.wall_mismatch,
    trust.clock_widened,
    trust.wide_clock,
    waste.vision_repeated,
    waste.prefill_recomputed,
    waste.slow_preprocessing,
    _host_bound_decode,
    _sync_in_stage,
)


def _integer(value: object) -> int:
    return value if isinstance(value, int) else 0

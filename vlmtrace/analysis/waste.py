"""Waste: findings about work that was done again, or that holds up the rest."""

from __future__ import annotations

from math import prod

from vlmtrace.analysis.case import Case, Finding, Slug, counted_text
from vlmtrace.analysis.measured import Measured
from vlmtrace.analysis.stats import median
from vlmtrace.timeline import names
from vlmtrace.units import duration_text

__all__ = ["prefill_recomputed", "slow_preprocessing", "vision_repeated"]


def vision_repeated(case: Case) -> Finding | None:
    """Vision inside a decode step, or more vision spans than the images that went in."""
    again = [one for one in case.counted if one.stages.vision_in_decode or _more_than_images(one)]
    if not again:
        return None
    inside = sum(len(one.stages.vision_in_decode) for one in again)
    steps = sum(len(one.stages.steps) for one in again)
    most = max(again, key=lambda one: _looks(one) + len(one.stages.vision_in_decode))
    spans, images = _looks(most), most.generation.inputs.get("images")
    evidence = (
        f"vision ran {counted_text(inside, 'time')} inside {counted_text(steps, 'decode step')}"
        if inside
        else f"vision ran {spans:,} times for {counted_text(images if isinstance(images, int) else 0, 'image')}"
    )
    return Finding(
        Slug.VISION_REPEATED,
        f"{evidence} (generation #{most.generation.index})",
        "keep the cache on (use_cache=True)" if inside else "hand all images over in one call, or keep their features",
    )


def _looks(one: Measured) -> int:
    """How often an image was looked at: a projector that runs apart from its encoder looks at nothing again."""
    encoded = sum("encoder_ns" in span.args for span in one.stages.vision)
    return encoded or len(one.stages.vision)


def _more_than_images(one: Measured) -> bool:
    """Whether there are more vision spans than one per image, or per tile where images come in tiles.

    Not where videos may have asked for theirs.
    """
    images, shapes = one.generation.inputs.get("images"), one.generation.inputs.get("shapes")
    if not isinstance(images, int):
        return False
    most = max(1, images)
    for name, shape in shapes.items() if isinstance(shapes, dict) else ():
        if "video" in name:
            return False
        if "pixel" in name and isinstance(shape, list):
            # All but channels, height and width count pictures: (batch, tiles, channels, height, width).
            most = max(most, prod(size for size in shape[:-3] if isinstance(size, int)))
    return _looks(one) > most


def prefill_recomputed(case: Case) -> Finding | None:
    """Every step computes the whole prompt again: the inputs or the workload say so, or the steps look at images.

    A step that goes on from a cache is given the new tokens alone and has no image to look at. How long steps take
    proves nothing: where the host is the limit, one token takes as long as a prompt.
    """
    told = case.recording.workload.get("use_cache") is False
    bare = [
        one
        for one in case.counted
        if one.stages.steps and (told or one.generation.inputs.get("use_cache") is False or one.stages.vision_in_decode)
    ]
    if not bare:
        return None
    steps = median([step for one in bare for step in one.account.steps])
    prefill = median([one.account.prefill for one in bare if one.account.prefill is not None])
    times = f" (step p50 {duration_text(steps)}, prefill p50 {duration_text(prefill)})" if steps and prefill else ""
    return Finding(
        Slug.PREFILL_RECOMPUTED,
        f"no cache in {len(bare):,} of {counted_text(len(case.counted), 'generation')}: every step computes the whole "
        f"sequence again{times}",
        "keep the cache on (use_cache=True)",
    )


def slow_preprocessing(case: Case) -> Finding | None:
    """The processor takes longer than the vision stage that it feeds, in the median."""
    before = [
        sum(span.duration for span in spans)
        for one in case.counted
        if one.account.vision is not None and (spans := one.stages.around.get(names.PREPROCESS))
    ]
    vision = median([one.account.vision for one in case.counted if one.account.vision is not None])
    taken = median(before)
    if taken is None or vision is None or taken <= vision:
        return None
    return Finding(
        Slug.SLOW_PREPROCESSING,
        f"preprocess p50 {duration_text(taken)} is longer than vision p50 {duration_text(vision)}",
        "prepare the next images while this one generates, or use a faster image processor",
    )

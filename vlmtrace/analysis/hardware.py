"""Hardware: findings about what the GPU and its allocator were doing beside the generations."""

from __future__ import annotations

from typing import Final

from vlmtrace.analysis.case import Case, Finding, Slug, counted_text

__all__ = ["LOW_CLOCK", "allocator_retried", "low_clocks", "throttled"]

LOW_CLOCK: Final = 0.8
"""A counted generation that ends with its SM clock below this share of the highest one ran on low clocks."""


def throttled(case: Case) -> Finding | None:
    """Something held the GPU's clock down while a counted generation ran, as NVML told at its end."""
    held: dict[str, int] = {}
    asked = told = 0
    for one in case.counted:
        reasons = one.generation.device_state.get("throttled_by")
        asked += isinstance(reasons, list)
        if isinstance(reasons, list) and reasons:
            told += 1
            for reason in reasons:
                held[str(reason)] = held.get(str(reason), 0) + 1
    if not told:
        return None
    most = ", ".join(f"{reason} in {count:,}" for reason, count in sorted(held.items(), key=lambda item: -item[1]))
    return Finding(
        Slug.THROTTLED,
        f"the GPU's clock was held down at the end of {told:,} of "
        f"{counted_text(asked, 'generation')} that NVML was asked after: {most}",
        "cool the GPU or raise its power limit; compare only recordings that were held down alike",
    )


def low_clocks(case: Case) -> Finding | None:
    """The SM clock was well below its highest, whatever held it there."""
    asked = [
        (now, most)
        for state in (one.generation.device_state for one in case.counted)
        if isinstance(now := state.get("sm_clock_mhz"), int) and isinstance(most := state.get("max_sm_clock_mhz"), int)
    ]
    low = [(now, most) for now, most in asked if now < LOW_CLOCK * most]
    if not low:
        return None
    lowest, most = min(low)
    return Finding(
        Slug.LOW_CLOCKS,
        f"{len(low):,} of {counted_text(len(asked), 'generation')} that NVML was asked after ended with the SM clock "
        f"at {lowest:,} of {most:,} MHz or little more",
        "warm up longer, or look for a clock or power limit that somebody has set",
    )


def allocator_retried(case: Case) -> Finding | None:
    """The allocator had to free its cache and ask the driver again: each time the device is waited for."""
    retries = [
        (one.generation.index, count)
        for one in case.counted
        if isinstance(count := one.generation.device_state.get("alloc_retries"), int) and count > 0
    ]
    if not retries:
        return None
    index, most = max(retries, key=lambda pair: pair[1])
    return Finding(
        Slug.ALLOCATOR_RETRIED,
        f"memory ran out and was freed and asked for again in {len(retries):,} of "
        f"{counted_text(len(case.counted), 'generation')}, {most:,} times in #{index}",
        "leave more memory free: a smaller batch, or PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
    )

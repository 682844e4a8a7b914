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
    told = 0
    for one in case.counted:
        reasons = one.generation.device_state.get("throttled_by")
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
        f"{counted_text(len(case.counted), 'generation')}: {most}",
        "cool the GPU or raise its power limit; compare only recordings that were held down alike",
    )


def low_clocks(case: Case) -> Finding | None:
    """The SM clock was well below its highest, whatever held it there."""
    pairs = []
    for one in case.counted:
        now, most = (one.generation.device_state.get(key) for key in ("sm_clock_mhz", "max_sm_clock_mhz"))
        if isinstance(now, int) and isinstance(most, int) and now < LOW_CLOCK * most:
            pairs.append((now, most))
    if not pairs:
        return None
    lowest, most = min(pairs)
    return Finding(
        Slug.LOW_CLOCKS,
        f"{len(pairs):,} of {counted_text(len(case.counted), 'generation')} ended with the SM clock at {lowest:,} of "
        f"{most:,} MHz or little more",
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

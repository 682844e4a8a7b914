"""Case: what a finding is, the closed list of their slugs, and what they are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from vlmtrace.analysis.launch import Judgement
from vlmtrace.analysis.measured import Measured
from vlmtrace.timeline.recording import Recording

__all__ = ["Case", "Finding", "Slug", "counted_text"]


class Slug(StrEnum):
    """Every finding there is, in the order in which they are told."""

    NOTHING_RECORDED = "nothing-recorded"
    NOT_TRACED = "not-traced"
    INCOMPLETE = "incomplete"
    NO_VISION = "no-vision"
    NOT_SEPARABLE = "not-separable"
    GUESSED_STAGE = "guessed-stage"
    UNTESTED_VERSION = "untested-version"
    SEVERAL_MODELS = "several-models"
    ONE_TOKEN_OUTPUT = "one-token-output"
    FEW_REPEATS = "few-repeats"
    WARM_UP_DRIFT = "warm-up-drift"
    COMPILED_IN_REPEATS = "compiled-in-repeats"
    OUTLIER_STEPS = "outlier-steps"
    THROTTLED = "throttled"
    LOW_CLOCKS = "low-clocks"
    ALLOCATOR_RETRIED = "allocator-retried"
    SHARED_STREAM = "shared-stream"
    WALL_MISMATCH = "wall-mismatch"
    CLOCK_WIDENED = "clock-widened"
    WIDE_CLOCK = "wide-clock"
    VISION_REPEATED = "vision-repeated"
    PREFILL_RECOMPUTED = "prefill-recomputed"
    SLOW_PREPROCESSING = "slow-preprocessing"
    HOST_BOUND_DECODE = "host-bound-decode"
    SYNC_IN_STAGE = "sync-in-stage"


@dataclass(frozen=True, slots=True)
class Finding:
    """A reason to distrust or act on a number: what was seen, and what to do about it."""

    slug: Slug
    evidence: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Case:
    """What findings are drawn from: the recording, its generations in numbers, and the launch verdicts by stage."""

    recording: Recording
    measured: tuple[Measured, ...]
    counted: tuple[Measured, ...]
    judgements: Mapping[str, Judgement]


def counted_text(count: int, what: str) -> str:
    """``1 generation``, ``1,234 generations``."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"

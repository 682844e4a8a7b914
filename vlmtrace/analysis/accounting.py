"""Accounting: where the time of one generation went, every nanosecond in exactly one place.

``generate = vision (outside decode) + prefill (own) + decode + other`` and ``decode = Σ steps + Σ gaps``. Every term is
a sum of measured spans; none is what is left over from another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vlmtrace.analysis.stages import StageSpans
from vlmtrace.timeline.spans import Span

__all__ = ["Account", "account"]


@dataclass(frozen=True, slots=True)
class Account:
    """One generation's time in integer nanoseconds on its own clock; ``None`` where a stage did not run.

    ``prefill`` is its own time, a vision inside it taken off. ``other`` names and measures the located rest in order
    (``other.setup``, ``other.between``, …). ``host_wall`` is the call as the host saw it, from entry to return: a
    measurement independent of ``generate``.
    """

    generate: int
    vision: int | None
    prefill: int | None
    decode: int | None
    other: tuple[tuple[str, int], ...]
    steps: tuple[int, ...]
    gaps: tuple[int, ...]
    host_wall: int

    @property
    def other_total(self) -> int:
        return sum(ns for _, ns in self.other)

    @property
    def parts_total(self) -> int:
        """The sum of the parts; equal to ``generate`` in every valid recording (an absent part adds 0)."""
        return sum(part or 0 for part in (self.vision, self.prefill, self.decode)) + self.other_total

    @property
    def host_minus_device(self) -> int:
        """The independent check: the host's wall time of the call minus its length on the stages' clock."""
        return self.host_wall - self.generate


def account(stages: StageSpans) -> Account:
    """Account for one generation."""
    prefill = _total(stages.prefill)
    if prefill is not None:
        prefill -= _total(stages.vision_in_prefill) or 0
    return Account(
        generate=stages.generate.duration,
        vision=_total(stages.vision),
        prefill=prefill,
        decode=_total(stages.decode),
        other=tuple((span.name, span.duration) for span in stages.other),
        steps=tuple(span.duration for span in stages.steps),
        gaps=tuple(span.duration for span in stages.gaps),
        host_wall=stages.generate.host_duration,
    )


def _total(spans: Iterable[Span]) -> int | None:
    durations = [span.duration for span in spans]
    return sum(durations) if durations else None

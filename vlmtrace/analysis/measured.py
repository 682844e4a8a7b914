"""Measured: each generation of a recording in numbers, and which of them statistics may count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlmtrace.analysis.accounting import Account, account
from vlmtrace.analysis.launch import Lead, leads
from vlmtrace.analysis.metrics import Metrics, measure_metrics
from vlmtrace.analysis.stages import StageSpans, gather
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import PROFILED, TIMED, Generation, Recording

__all__ = ["Measured", "counted", "measure", "with_kernels"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One generation in numbers. ``leads`` is empty on the host's clock; ``clock_bound`` (ns) is ``None`` there.

    ``compiled_ns`` is how long the compiler was at work in it, capturing graphs included.
    """

    stages: StageSpans
    account: Account
    metrics: Metrics
    leads: Mapping[str, tuple[Lead, ...]]
    clock_bound: int | None
    compiled_ns: int = 0

    @property
    def generation(self) -> Generation:
        return self.stages.generation

    @property
    def complete(self) -> bool:
        return self.generation.complete and not self.stages.generate.incomplete


def measure(recording: Recording) -> tuple[Measured, ...]:
    """Every generation of the recording, whatever its role and however it ended."""
    synced = frozenset(site.stage for site in recording.syncs)
    compiled: Counter[int | None] = Counter()
    for name in (names.COMPILE, names.CAPTURE):
        for span in recording.spans.named(name):
            compiled[span.generation] += span.duration
    return tuple(
        _measured(recording, stages, synced, compiled[stages.generation.index]) for stages in gather(recording)
    )


def counted(measured: Sequence[Measured]) -> tuple[Measured, ...]:
    """Those that statistics count: complete, timed, and without the compiler at work in them.

    Where there is none such, the complete and timed ones; where there is none of these either, every complete one. The
    times of a profiled one are never counted.
    """
    complete = [one for one in measured if one.complete and one.generation.role != PROFILED]
    timed = [one for one in complete if one.generation.role == TIMED]
    return tuple([one for one in timed if one.compiled_ns == 0] or timed or complete)


def with_kernels(measured: Sequence[Measured], chosen: Sequence[Measured]) -> tuple[Measured, ...]:
    """Those whose kernels statistics count: the profiled ones where there are such, else the ``chosen`` ones."""
    return tuple(one for one in measured if one.complete and one.generation.role == PROFILED) or tuple(chosen)


def _measured(recording: Recording, stages: StageSpans, synced: frozenset[str], compiled_ns: int) -> Measured:
    where = stages.generation.clock
    bound = None if where is None else recording.clocks[where].bound_ns
    accounted = account(stages)
    return Measured(
        stages=stages,
        account=accounted,
        metrics=measure_metrics(stages, accounted),
        leads={} if bound is None else leads(stages, bound, synced),
        clock_bound=bound,
        compiled_ns=compiled_ns,
    )

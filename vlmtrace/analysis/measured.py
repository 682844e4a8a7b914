"""Measured: each generation of a recording in numbers, and which of them statistics may count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlmtrace.analysis.accounting import Account, account
from vlmtrace.analysis.launch import Lead, leads
from vlmtrace.analysis.metrics import Metrics, measure_metrics
from vlmtrace.analysis.stages import StageSpans, gather
from vlmtrace.timeline.recording import TIMED, Generation, Recording

__all__ = ["Measured", "counted", "measure"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One generation in numbers. ``leads`` is empty on the host's clock; ``clock_bound`` (ns) is ``None`` there."""

    stages: StageSpans
    account: Account
    metrics: Metrics
    leads: Mapping[str, tuple[Lead, ...]]
    clock_bound: int | None

    @property
    def generation(self) -> Generation:
        return self.stages.generation

    @property
    def complete(self) -> bool:
        return self.generation.complete and not self.stages.generate.incomplete


def measure(recording: Recording) -> tuple[Measured, ...]:
    """Every generation of the recording, whatever its role and however it ended."""
    synced = frozenset(site.stage for site in recording.syncs)
    return tuple(_measured(recording, stages, synced) for stages in gather(recording))


def counted(measured: Sequence[Measured]) -> tuple[Measured, ...]:
    """Those that statistics count: complete and timed; where there is none such, every complete one."""
    complete = [one for one in measured if one.complete]
    return tuple([one for one in complete if one.generation.role == TIMED] or complete)


def _measured(recording: Recording, stages: StageSpans, synced: frozenset[str]) -> Measured:
    where = stages.generation.clock
    bound = None if where is None else recording.clocks[where].bound_ns
    accounted = account(stages)
    return Measured(
        stages=stages,
        account=accounted,
        metrics=measure_metrics(stages, accounted),
        leads={} if bound is None else leads(stages, bound, synced),
        clock_bound=bound,
    )

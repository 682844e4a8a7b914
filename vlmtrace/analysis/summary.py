"""The summary: a recording boiled down to rows per stage, metrics, one real sum, and findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vlmtrace.analysis.case import Case, Finding
from vlmtrace.analysis.clocks import ClockFit, clock_fits
from vlmtrace.analysis.findings import find
from vlmtrace.analysis.inflation import Inflation, inflation
from vlmtrace.analysis.kernels import Kernels, kernels
from vlmtrace.analysis.launch import Judgement, judge
from vlmtrace.analysis.measured import Measured, counted, measure, with_kernels
from vlmtrace.analysis.metrics import visual_tokens
from vlmtrace.analysis.overhead import Overhead, added
from vlmtrace.analysis.rows import Range, StageRow, stage_rows
from vlmtrace.analysis.stats import median, percentile, ratio
from vlmtrace.analysis.stretches import HostBound, host_bound
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import TIMED, Json, Lowered, Recording, SyncSite, TracedModel

__all__ = ["Counts", "Figure", "Summary", "Tracing", "findings", "summarise"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric over the counted generations: ``value`` (``None``: absent) drawn from ``samples`` samples."""

    value: float | None
    samples: int


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted: ``left_out`` and ``roles`` count generations by role.

    ``left_out`` has ``warmup``, ``cold``, ``profiled``, ``compiling`` and ``incomplete``. ``roles`` are those of the
    counted ones: other than ``timed`` only where no timed one was complete. The ranges are ``None`` where the recording
    does not know; ``new_tokens`` is per sequence, until end-of-sequence.
    """

    generations: int
    roles: Mapping[str, int]
    left_out: Mapping[str, int]
    batch: Range | None
    images: Range | None
    visual_tokens: Range | None
    prompt_tokens: Range | None
    new_tokens: Range | None


@dataclass(frozen=True, slots=True)
class Tracing:
    """What tracing did to the run, and how well its clock is known.

    ``cost_share``: host time spent in marks and ranges / host wall of the counted generations. ``waits``: added waits
    per generation; both ``None`` where nothing was marked. ``clock_bound``: median bound in ns, ``None`` on the host's
    clock. ``path``: how marks were taken. ``added``: what it added in pairs of requests with and without it, ``None``
    where none were made. ``lowered``: why the detail is not the one asked for. ``samples``: how often NVML was asked
    about the GPUs; ``sample_ns``: the host's ns that it took each time, ``None`` where it was not asked.
    """

    cost_share: float | None
    waits: float | None
    clock_bound: float | None
    path: str
    added: Overhead | None
    lowered: Lowered | None
    samples: int = 0
    sample_ns: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """A recording in numbers. ``nearest`` is the counted generation nearest the median generate: a real one, named.

    ``clocks`` and ``host_bound`` are empty and ``None`` on the host's clock.
    ``kernels`` is ``None`` where none are known, ``inflation`` where there was no baseline to compare with.
    ``syncs`` are those of ``audited`` further generations, the most frequent first; 0 where no audit was made.
    """

    name: str
    detail: str
    on_device: bool
    incomplete: str | None
    environment: Mapping[str, Json]
    workload: Mapping[str, Json]
    models: tuple[TracedModel, ...]
    modes: tuple[str, ...]
    counts: Counts
    rows: tuple[StageRow, ...]
    metrics: Mapping[str, Figure]
    nearest: Measured | None
    tracing: Tracing
    clocks: tuple[ClockFit, ...]
    host_bound: HostBound | None
    findings: tuple[Finding, ...]
    measured: tuple[Measured, ...]
    counted: tuple[Measured, ...]
    syncs: tuple[SyncSite, ...]
    audited: int
    kernels: Kernels | None
    inflation: Inflation | None

    def row(self, stage: str) -> StageRow | None:
        """The row of that stage, if there is one."""
        return next((row for row in self.rows if row.stage == stage), None)


def summarise(recording: Recording, baseline: Recording | None = None) -> Summary:
    """The summary of a recording; also of one without a single complete generation, which then has no rows.

    ``baseline`` is a recording of the same work to compare the times with: one that was not slowed by a profiler.

    Raises:
        NotComparableError: if ``baseline`` is of other work.
        InvalidRecordingError: if the recording's kernels contradict what it says of their report.
    """
    measured = measure(recording)
    chosen = counted(measured)
    seen = with_kernels(measured, chosen)
    judgements = _judgements(chosen)
    used = sorted({one.generation.model for one in chosen} or range(len(recording.models)))
    return Summary(
        name=recording.name,
        detail=recording.detail,
        on_device=recording.on_device,
        incomplete=recording.incomplete,
        environment=recording.environment,
        workload=recording.workload,
        models=tuple(recording.models[at] for at in used),
        modes=tuple(sorted({one.generation.mode for one in chosen})),
        counts=_counts(measured, chosen),
        rows=stage_rows(chosen, judgements),
        metrics=_metrics(chosen),
        nearest=_nearest(chosen),
        tracing=_tracing(recording, chosen),
        clocks=clock_fits(recording, measured),
        host_bound=host_bound(chosen),
        findings=find(Case(recording, measured, chosen, judgements)),
        measured=measured,
        counted=chosen,
        syncs=tuple(sorted(recording.syncs, key=lambda site: (-site.count, site.file, site.line, site.stage))),
        audited=recording.audited,
        kernels=kernels(recording, seen),
        inflation=None if baseline is None else inflation(recording, seen, baseline),
    )


def findings(recording: Recording) -> tuple[Finding, ...]:
    """The findings of :func:`summarise` without the rest of it."""
    measured = measure(recording)
    chosen = counted(measured)
    return find(Case(recording, measured, chosen, _judgements(chosen)))


def _counts(measured: Sequence[Measured], chosen: Sequence[Measured]) -> Counts:
    kept = {one.generation.index for one in chosen}
    left_out = [one for one in measured if one.generation.index not in kept]
    why = Counter(map(_why_left_out, left_out))

    def given(key: str) -> Range | None:
        values = (one.generation.inputs.get(key) for one in chosen)
        return _range(value for value in values if isinstance(value, int))

    seen = (visual_tokens(one.stages) for one in chosen)
    return Counts(
        generations=len(chosen),
        roles=dict(Counter(one.generation.role for one in chosen)),
        left_out={key: why[key] for key in sorted(why)},
        batch=given("batch"),
        images=given("images"),
        visual_tokens=_range(count for count in seen if count is not None),
        prompt_tokens=given("prompt_tokens"),
        new_tokens=_range(count for one in chosen for count in one.generation.new_tokens),
    )


def _why_left_out(one: Measured) -> str:
    if not one.complete:
        return "incomplete"
    return "compiling" if one.generation.role == TIMED else one.generation.role


def _judgements(chosen: Sequence[Measured]) -> dict[str, Judgement]:
    judged = {
        stage: judge([lead for one in chosen for lead in one.leads.get(stage, ())])
        for stage in (names.VISION, names.PREFILL, names.DECODE)
    }
    return {stage: judgement for stage, judgement in judged.items() if judgement is not None}


def _metrics(chosen: Sequence[Measured]) -> dict[str, Figure]:
    """Every metric's median over the generations that have it; latencies between tokens and drafts over all of them."""
    each = [one.metrics for one in chosen]
    proposed = _sum(metrics.proposed for metrics in each)
    accepted = _sum(metrics.accepted for metrics in each)
    gaps = [gap for metrics in each for gap in metrics.itl]
    return {
        "ttft": _middle(metrics.ttft for metrics in each),
        "ttft_e2e": _middle(metrics.ttft_e2e for metrics in each),
        "itl_p50": Figure(percentile(gaps, 50), len(gaps)),
        "itl_p90": Figure(percentile(gaps, 90), len(gaps)),
        "itl_p99": Figure(percentile(gaps, 99), len(gaps)),
        "itl_max": Figure(percentile(gaps, 100), len(gaps)),
        "tpot": _middle(metrics.tpot for metrics in each),
        "decode_throughput": _middle(metrics.decode_throughput for metrics in each),
        "output_throughput": _middle(metrics.output_throughput for metrics in each),
        "vision_per_1000": _middle(metrics.vision_per_1000 for metrics in each),
        "proposed": proposed,
        "accepted": accepted,
        "acceptance_rate": Figure(ratio(accepted.value or 0, proposed.value or 0), int(proposed.value or 0)),
    }


def _middle(values: Iterable[float | None]) -> Figure:
    present = [value for value in values if value is not None]
    return Figure(median(present), len(present))


def _sum(values: Iterable[int | None]) -> Figure:
    present = [value for value in values if value is not None]
    return Figure(sum(present) if present else None, len(present))


def _nearest(chosen: Sequence[Measured]) -> Measured | None:
    """The generation whose length is nearest the median; the first of those equally near."""
    middle = median([one.account.generate for one in chosen])
    return None if middle is None else min(chosen, key=lambda one: abs(one.account.generate - middle))


def _tracing(recording: Recording, chosen: Sequence[Measured]) -> Tracing:
    cost = recording.cost
    known = cost.marks > 0 and len(cost.host_ns) > 0
    spent = sum(cost.host_ns[one.generation.index] for one in chosen) if known else 0
    return Tracing(
        cost_share=ratio(spent, sum(one.account.host_wall for one in chosen)) if known else None,
        waits=ratio(cost.waits, len(recording.generations)) if cost.marks else None,
        clock_bound=median([one.clock_bound for one in chosen if one.clock_bound is not None]),
        path=cost.path,
        added=added(recording.overhead),
        lowered=recording.lowered,
        samples=cost.samples,
        sample_ns=ratio(cost.sampling_ns, cost.samples),
    )


def _range(values: Iterable[int]) -> Range | None:
    known = sorted(values)
    return (known[0], known[-1]) if known else None

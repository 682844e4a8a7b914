"""Kernels: what ran on the GPU in each stage of a paired recording, and what launching it cost.

An operation (a kernel, a CUDA graph told as a whole, a copy or a memset) belongs to the stage whose host code launched
it, wherever it ran on the axis. Busy and idle time are of a stage's own span instead: whatever ran there keeps the
device busy, whoever launched it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import nsmallest
from typing import Final

from vlmtrace.analysis.busy import Busy
from vlmtrace.analysis.kernel_tally import Tally, Work, tally
from vlmtrace.analysis.measured import Measured
from vlmtrace.analysis.stats import median, percentile, ratio
from vlmtrace.errors import InvalidRecordingError
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Pairing, Recording
from vlmtrace.timeline.spans import NONE, Span

__all__ = ["LONGEST", "OUTSIDE", "Agreement", "Copies", "DeviceTime", "Kernels", "StageKernels", "TopKernel", "kernels"]

OUTSIDE: Final = "outside"
"""The row of what was launched outside of every ``generate()``."""

LONGEST: Final = 20
"""How many kernels of each stage a summary keeps."""

_STAGES: Final = (names.VISION, names.PREFILL, names.STEP, names.GAP, *names.OTHER_PARTS)
_BOUNDED: Final = (names.VISION, names.PREFILL, names.STEP)


@dataclass(frozen=True, slots=True)
class TopKernel:
    """One kernel by both of its names: how often it ran, for how many ns together, and its part of the stage's kernel
    time."""

    name: str
    full_name: str
    count: int
    total: int
    share: float | None


@dataclass(frozen=True, slots=True)
class Copies:
    """The copies or memsets of one kind: how many, and their bytes and ns together."""

    kind: str
    count: int
    size: int
    total: int


@dataclass(frozen=True, slots=True)
class DeviceTime:
    """One device over a stage's spans: the median ns per generation in which any operation ran on it, and the share of
    all these spans' time in which none did (``None`` where they took no time)."""

    device: int
    busy: float
    idle_share: float | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far ``spans`` spans of a stage and their kernels agree, in ns.

    ``before``: from a span's begin to its first kernel's; ``after``: from its last kernel's end to its own; median and
    95th percentile of each. Below 0 where clocks are off or a kernel did run outside.
    """

    spans: int
    before_p50: float
    before_p95: float
    after_p50: float
    after_p95: float


@dataclass(frozen=True, slots=True)
class StageKernels:
    """What one stage launched.

    ``in_all`` counts kernels over the whole recording, all else is of the counted generations: ``per_generation``,
    ``launches`` (calls that launched kernels) and ``launch_ns`` (their time on the host) are medians per generation in
    which the stage ran, ``kernel_ns`` is the sum of all kernels' time. What is outside of ``generate()`` has no
    generation: its medians are ``None``, and its kernels and copies are all of the recording's.
    """

    stage: str
    in_all: int
    per_generation: float | None
    launches: float | None
    launch_ns: float | None
    kernel_ns: int
    devices: tuple[DeviceTime, ...]
    top: tuple[TopKernel, ...]
    copies: tuple[Copies, ...]
    agreement: Agreement | None


@dataclass(frozen=True, slots=True)
class Kernels:
    """The kernels of a paired recording by stage.

    Σ ``in_all`` of the stages + Σ ``unattributed`` = ``pairing.kernels``, always. ``outside`` counts by what they were
    launched in those that are outside of ``generate()``. ``generations`` is how many are counted, ``clock_bound`` the
    median bound of their clocks in ns, ``None`` on the host's clock.
    """

    pairing: Pairing
    stages: tuple[StageKernels, ...]
    unattributed: Mapping[str, int]
    outside: Mapping[str, int]
    clock_bound: float | None
    generations: int

    @property
    def attributed(self) -> int:
        """How many kernels belong to a stage."""
        return sum(stage.in_all for stage in self.stages)


@dataclass(frozen=True, slots=True)
class _Part:
    """A stage's spans in one generation, and the spans inside them that are not its own time."""

    one: Measured
    spans: tuple[Span, ...] = ()
    inside: tuple[Span, ...] = ()

    @property
    def generation(self) -> int:
        return self.one.generation.index

    def own(self, measure: Callable[[Span], int]) -> int:
        """What ``measure`` says of the spans, less what it says of those inside."""
        return sum(map(measure, self.spans)) - sum(map(measure, self.inside))


def kernels(recording: Recording, chosen: Sequence[Measured]) -> Kernels | None:
    """The kernels of ``recording``, in detail of its generations ``chosen``; ``None`` where none are known.

    Linear in the number of spans.

    Raises:
        InvalidRecordingError: if the kernels of all stages and those of none are not all of the report's.
    """
    pairing = recording.pairing
    if pairing is None:
        return None
    starts = {
        (one.generation.index, stage): [span.host_begin for span in part.spans]
        for one in chosen
        for stage, part in _parts(one).items()
        if stage in _BOUNDED
    }
    counted = tally(recording, frozenset(one.generation.index for one in chosen), starts)
    made = Kernels(
        pairing=pairing,
        stages=tuple(_stages(recording, chosen, counted)),
        unattributed={reason: count for reason, count in pairing.unattributed.items() if isinstance(count, int)},
        outside={
            stage: work.kernels
            for (generation, stage), work in sorted(counted.work.items())
            if generation == NONE and work.kernels
        },
        clock_bound=median([one.clock_bound for one in chosen if one.clock_bound is not None]),
        generations=len(chosen),
    )
    aside = sum(made.unattributed.values())
    if made.attributed + aside != pairing.kernels:
        raise InvalidRecordingError(
            f"{made.attributed:,} kernels in stages and {aside:,} in none are not the {pairing.kernels:,} of the report"
        )
    return made


def _parts(one: Measured) -> dict[str, _Part]:
    """The stages that ran in one generation."""
    stages = one.stages
    other: defaultdict[str, list[Span]] = defaultdict(list)
    for span in stages.other:
        other[span.name].append(span)
    found = {names.VISION: stages.vision, names.PREFILL: stages.prefill, names.STEP: stages.steps}
    found |= {names.GAP: stages.gaps} | {name: tuple(spans) for name, spans in other.items()}
    return {
        stage: _Part(one, spans, stages.vision_in_prefill if stage == names.PREFILL else ())
        for stage, spans in found.items()
        if spans
    }


def _stages(recording: Recording, chosen: Sequence[Measured], counted: Tally) -> Iterator[StageKernels]:
    ran = [(one, _parts(one)) for one in chosen]
    launching = {stage for generation, stage in counted.work if generation != NONE}
    shown = launching.union(*(parts for _, parts in ran))
    for stage in (*_STAGES, *sorted(launching.difference(_STAGES))):
        if stage in shown:
            yield _stage(recording, [parts.get(stage) or _Part(one) for one, parts in ran], counted, stage)
    apart = [work for (generation, _), work in counted.work.items() if generation == NONE]
    if apart:
        yield _outside(recording, apart, counted)


def _stage(recording: Recording, parts: Sequence[_Part], counted: Tally, stage: str) -> StageKernels:
    here = [
        (part, counted.work.get((part.generation, stage), Work()))
        for part in parts
        if part.spans or (part.generation, stage) in counted.work
    ]
    launched = [work.launches() for _, work in here]
    kernel_ns, top = _top(counted, stage, recording.spans.strings)
    return StageKernels(
        stage=stage,
        in_all=sum(work.kernels for (at, name), work in counted.work.items() if name == stage and at != NONE),
        per_generation=median([work.kernels for _, work in here]),
        launches=median([count for count, _ in launched]),
        launch_ns=median([ns for _, ns in launched]),
        kernel_ns=kernel_ns,
        devices=_devices(parts, counted),
        top=top,
        copies=_copies([work for _, work in here], recording.spans.strings),
        agreement=_agreement(here, counted, stage) if stage in _BOUNDED else None,
    )


def _outside(recording: Recording, apart: Sequence[Work], counted: Tally) -> StageKernels:
    kernel_ns, top = _top(counted, "", recording.spans.strings)
    return StageKernels(
        stage=OUTSIDE,
        in_all=sum(work.kernels for work in apart),
        per_generation=None,
        launches=None,
        launch_ns=None,
        kernel_ns=kernel_ns,
        devices=(),
        top=top,
        copies=_copies(apart, recording.spans.strings),
        agreement=None,
    )


def _devices(parts: Sequence[_Part], counted: Tally) -> tuple[DeviceTime, ...]:
    """Each device in the spans of the generations that used it."""
    busy: defaultdict[int, list[int]] = defaultdict(list)
    length: defaultdict[int, int] = defaultdict(int)
    for part in parts:
        if not part.spans:
            continue
        for device in counted.devices.get(part.generation, ()):
            busy[device].append(part.own(partial(_within, counted.busy[device])))
            length[device] += part.own(_duration)
    return tuple(
        DeviceTime(device, median(busy[device]) or 0, ratio(length[device] - sum(busy[device]), length[device]))
        for device in sorted(busy)
    )


def _within(busy: Busy, span: Span) -> int:
    return busy.within(span.begin, span.end)


def _duration(span: Span) -> int:
    return span.duration


def _top(counted: Tally, stage: str, strings: Sequence[str]) -> tuple[int, tuple[TopKernel, ...]]:
    """The ns of all kernels of a stage, and the longest of them; of equally long ones the first by name."""
    found = counted.top.get(stage, {})
    whole = sum(total for _, total in found.values())
    longest = nsmallest(LONGEST, found.items(), key=lambda item: (-item[1][1], item[0]))
    return whole, tuple(
        TopKernel(strings[name], strings[full], count, total, ratio(total, whole))
        for (name, full), (count, total) in longest
    )


def _copies(works: Sequence[Work], strings: Sequence[str]) -> tuple[Copies, ...]:
    """What these copied, by kind, the longest first."""
    sums: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
    for work in works:
        for kind, more in work.copies.items():
            sums[kind] = [one + other for one, other in zip(sums[kind], more, strict=True)]
    longest = sorted(sums.items(), key=lambda item: (-item[1][2], item[0]))
    return tuple(Copies(strings[kind], count, size, total) for kind, (count, size, total) in longest)


def _agreement(here: Sequence[tuple[_Part, Work]], counted: Tally, stage: str) -> Agreement | None:
    before: list[int] = []
    after: list[int] = []
    for part, work in here:
        for at, span in enumerate(part.spans):
            key = span.number if stage == names.STEP else at
            reach = [] if key not in work.first else [(work.first[key], work.last[key])]
            if part.inside:
                reach += _reach_inside(part, span, counted)
            if reach:
                before.append(min(first for first, _ in reach) - span.begin)
                after.append(span.end - max(last for _, last in reach))
    if not before:
        return None
    return Agreement(
        spans=len(before),
        before_p50=median(before) or 0,
        before_p95=percentile(before, 95) or 0,
        after_p50=median(after) or 0,
        after_p95=percentile(after, 95) or 0,
    )


def _reach_inside(part: _Part, span: Span, counted: Tally) -> Iterator[tuple[int, int]]:
    """From the first kernel to the last of each vision inside a prefill, whose marks are around them too."""
    work = counted.work.get((part.generation, names.VISION), Work())
    for at, vision in enumerate(part.one.stages.vision):
        if at in work.first and span.begin <= vision.begin and vision.end <= span.end:
            yield work.first[at], work.last[at]

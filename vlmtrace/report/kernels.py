"""The kernels: what ran on the GPU in each stage, and how much recording that slowed the run, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from vlmtrace.analysis.inflation import Inflation
from vlmtrace.analysis.kernels import DeviceTime, Kernels, StageKernels, TopKernel
from vlmtrace.analysis.summary import Summary
from vlmtrace.report.cells import ABSENT, clean, fixed, percent
from vlmtrace.report.sections import Section
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import NSIGHT
from vlmtrace.units import NS_PER_MS, bytes_text, duration_text

__all__ = ["NO_KERNELS", "SHOWN", "kernel_sections"]

SHOWN: Final = 5
"""How many kernels of each stage are shown; the JSON has more of them."""

NO_KERNELS: Final = "it holds no kernels: record with --kernels, or pair it with a report, vlmtrace pair TRACE REPORT"

_LONGEST_NAME: Final = 36
_LONGEST_FULL_NAME: Final = 240
_PLACES: Final = 3


def kernel_sections(summary: Summary) -> list[Section]:
    """The stages, their longest kernels, copies, how far kernels and marks agree, and the baseline where there is one.

    Of a trace without kernels one sentence.
    """
    found = summary.kernels
    if found is None:
        return [Section("kernels", lines=((NO_KERNELS,),))]
    labels = _labels(found.stages)
    made = [_stages(found), _longest(found.stages, labels), _full_names(labels)]
    made += [_copies(found.stages), _agreement(found)]
    if summary.inflation is not None:
        made.append(_inflation(summary.inflation, clean(found.pairing.tool, 32)))
    return [section for section in made if section is not None]


def _stages(found: Kernels) -> Section:
    pairing, aside = found.pairing, sum(found.unattributed.values())
    lines = [
        (
            clean(pairing.report),
            f"{clean(pairing.tool, 32)} {clean(pairing.product, 32)}",
            _generations(found.generations),
        ),
        (f"{found.attributed:,} in stages + {aside:,} unattributed = {pairing.kernels:,} kernels in the report",),
    ]
    if found.unattributed:
        told = [f"{count:,} {clean(reason)}" for reason, count in found.unattributed.items()]
        lines.append(("unattributed: " + told[0], *told[1:]))
    if found.outside:
        told = [f"{clean(stage, 32)} {count:,}" for stage, count in found.outside.items()]
        lines.append(("outside of generate(): " + told[0], *told[1:]))
    return Section(
        title="kernels of each stage",
        lines=tuple(lines),
        headings=("stage", "kernels", "in all", "busy ms", "idle", "launches", "host ms"),
        rows=tuple(row for stage in found.stages for row in _rows(stage)),
        notes=(
            (
                "medians per generation; in all: over the whole recording, warm-up included",
                "step, gap: their sum",
            ),
            (
                "busy: anything ran on the GPU within the stage, copies and overlaps counted once",
                "idle: the rest of the stage",
            ),
            ("launches: calls that launched kernels, a graph once; host ms: the time in them",),
        ),
    )


def _rows(stage: StageKernels) -> Iterator[tuple[str, ...]]:
    alone = len(stage.devices) == 1
    yield (
        _stage_name(stage.stage),
        _count(stage.per_generation),
        f"{stage.in_all:,}",
        *(_times(stage.devices[0]) if alone else (ABSENT, ABSENT)),
        _count(stage.launches),
        fixed(stage.launch_ns, NS_PER_MS, _PLACES),
    )
    if not alone:
        for at, one in enumerate(stage.devices, 1):
            branch = "└" if at == len(stage.devices) else "├"
            yield (f"{branch} GPU {one.device}", "", "", *_times(one), "", "")


def _times(one: DeviceTime) -> tuple[str, str]:
    return fixed(one.busy, NS_PER_MS, _PLACES), percent(one.idle_share) or ABSENT


def _stage_name(stage: str) -> str:
    return clean(names.short(stage), 24)


def _generations(count: int) -> str:
    return f"{count:,} generation{'' if count == 1 else 's'}"


def _count(count: float | None) -> str:
    """A median of counts: half of one where it lies between two."""
    return ABSENT if count is None else f"{count:,.1f}".removesuffix(".0")


_Names = tuple[str, str]


def _key(kernel: TopKernel) -> _Names:
    return kernel.name, kernel.full_name


def _labels(stages: Sequence[StageKernels]) -> Mapping[_Names, str]:
    """What each kernel shown is called: its short name, with a number where several have the same."""
    shown = dict.fromkeys(_key(kernel) for stage in stages for kernel in stage.top[:SHOWN])
    alike: dict[str, list[_Names]] = {}
    for key in shown:
        alike.setdefault(clean(key[0], _LONGEST_NAME), []).append(key)
    return {
        key: text if len(keys) == 1 else f"{text} ({number})"
        for text, keys in alike.items()
        for number, key in enumerate(keys, 1)
    }


def _longest(stages: Sequence[StageKernels], labels: Mapping[_Names, str]) -> Section | None:
    rows = [
        (
            "" if at else _stage_name(stage.stage),
            labels[_key(kernel)],
            f"{kernel.count:,}",
            fixed(kernel.total, NS_PER_MS, _PLACES),
            percent(kernel.share) or ABSENT,
        )
        for stage in stages
        for at, kernel in enumerate(stage.top[:SHOWN])
    ]
    if not rows:
        return None
    return Section(
        title=f"the kernels that took longest, up to {SHOWN} of each stage",
        headings=("stage", "kernel", "calls", "ms", "of kernel time"),
        rows=tuple(rows),
        words=frozenset(("kernel",)),
        notes=(("calls, ms: sums over the generations counted, of overlapping kernels both",),),
    )


def _full_names(labels: Mapping[_Names, str]) -> Section | None:
    """Of the kernels shown, the names that say more."""
    rows = tuple(
        (label, clean(full, _LONGEST_FULL_NAME)) for (name, full), label in labels.items() if full not in (name, label)
    )
    return (
        Section("their full names", (), ("kernel", "full name"), rows, (), frozenset(("full name",))) if rows else None
    )


def _copies(stages: Sequence[StageKernels]) -> Section | None:
    rows = [
        (
            "" if at else _stage_name(stage.stage),
            clean(copies.kind, _LONGEST_NAME),
            f"{copies.count:,}",
            bytes_text(copies.size),
            fixed(copies.total, NS_PER_MS, _PLACES),
        )
        for stage in stages
        for at, copies in enumerate(stage.copies)
    ]
    if not rows:
        return None
    return Section(
        title="copies",
        headings=("stage", "kind", "number", "size", "ms"),
        rows=tuple(rows),
        words=frozenset(("kind",)),
        notes=(("sums over the generations counted",),),
    )


def _agreement(found: Kernels) -> Section | None:
    rows = tuple(
        (_stage_name(stage.stage), f"{one.spans:,}", *map(_signed, times))
        for stage in found.stages
        if (one := stage.agreement) is not None
        for times in [(one.before_p50, one.before_p95, one.after_p50, one.after_p95)]
    )
    if not rows:
        return None
    bounds = [f"the report's clock ± {duration_text(found.pairing.bound_ns)}"]
    if found.clock_bound is not None:
        bounds.insert(0, f"the trace's clock ± {duration_text(found.clock_bound)}")
    return Section(
        title="events against kernels",
        lines=(tuple(bounds),),
        headings=("stage", "spans", "before p50", "p95", "after p50", "p95"),
        rows=rows,
        notes=(
            (
                "before: from the event that begins a span to its first kernel",
                "after: from its last kernel to the event that ends it",
                "below 0 is within the clocks' bounds, or work outside of the events",
            ),
        ),
    )


def _signed(ns: float) -> str:
    return f"{'−' if ns < 0 else ''}{duration_text(abs(ns))}"


def _inflation(found: Inflation, tool: str) -> Section:
    return Section(
        title=f"against the baseline: {_generations(found.generations)} under {tool}, "
        f"{found.baseline_generations:,} without",
        headings=("stage", "paired ms", "baseline ms", "difference ms", "difference"),
        rows=tuple(
            (
                _stage_name(one.stage),
                fixed(one.paired, NS_PER_MS, _PLACES),
                fixed(one.baseline, NS_PER_MS, _PLACES),
                f"{one.difference / NS_PER_MS:+z.{_PLACES}f}".replace("-", "−"),
                ABSENT if one.share is None else f"{one.share * 100:+z.1f} %".replace("-", "−"),
            )
            for one in found.stages
        ),
        notes=(
            (
                "medians; step: each; gap: their sum",
                f"difference: how much {'nsys' if tool == NSIGHT else tool} inflated the stage",
            ),
        ),
    )

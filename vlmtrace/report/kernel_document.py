"""The kernels as JSON values: what ran on the GPU in each stage, and how much recording that slowed the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from vlmtrace.analysis.inflation import Inflation
from vlmtrace.analysis.kernels import Agreement, StageKernels
from vlmtrace.analysis.summary import Summary
from vlmtrace.report.definitions import KERNELS
from vlmtrace.timeline.recording import Json
from vlmtrace.units import NS_PER_MS

__all__ = ["LONGEST_NAME", "kernel_document"]

LONGEST_NAME: Final = 4_096
"""How many characters of a kernel's name, or of another foreign one, are told."""


def kernel_document(summary: Summary) -> Json:
    """The kernels of each stage, times in ms, bytes as integers; ``None`` where none are known."""
    found = summary.kernels
    if found is None:
        return None
    pairing = found.pairing
    return {
        "report": {
            "tool": _cut(pairing.tool),
            "name": _cut(pairing.report),
            "product": _cut(pairing.product),
            "schema": _cut(pairing.schema),
            "clock_bound_ms": pairing.bound_ns / NS_PER_MS,
        },
        "generations": found.generations,
        "trace_clock_bound_ms": _ms(found.clock_bound),
        "kernels": pairing.kernels,
        "in_stages": found.attributed,
        "unattributed": _counts(found.unattributed),
        "outside": _counts(found.outside),
        "stages": _stages(found.stages),
        "inflation": _inflation(summary.inflation),
        "definitions": dict(KERNELS),
    }


def _stages(stages: Sequence[StageKernels]) -> list[Json]:
    return [
        {
            "stage": _cut(stage.stage),
            "kernels": stage.per_generation,
            "kernels_in_all": stage.in_all,
            "kernel_ms": stage.kernel_ns / NS_PER_MS,
            "devices": [
                {"device": one.device, "busy_ms": one.busy / NS_PER_MS, "idle_share": one.idle_share}
                for one in stage.devices
            ],
            "launches": stage.launches,
            "launch_ms": _ms(stage.launch_ns),
            "top": [
                {
                    "name": _cut(kernel.name),
                    "full_name": _cut(kernel.full_name),
                    "calls": kernel.count,
                    "total_ms": kernel.total / NS_PER_MS,
                    "share": kernel.share,
                }
                for kernel in stage.top
            ],
            "copies": [
                {
                    "kind": _cut(copies.kind),
                    "count": copies.count,
                    "bytes": copies.size,
                    "total_ms": copies.total / NS_PER_MS,
                }
                for copies in stage.copies
            ],
            "agreement": _agreement(stage.agreement),
        }
        for stage in stages
    ]


def _agreement(found: Agreement | None) -> Json:
    if found is None:
        return None
    return {
        "spans": found.spans,
        "before_ms": {"p50": found.before_p50 / NS_PER_MS, "p95": found.before_p95 / NS_PER_MS},
        "after_ms": {"p50": found.after_p50 / NS_PER_MS, "p95": found.after_p95 / NS_PER_MS},
    }


def _inflation(found: Inflation | None) -> Json:
    if found is None:
        return None
    return {
        "generations": found.generations,
        "baseline_generations": found.baseline_generations,
        "stages": [
            {
                "stage": one.stage,
                "paired_ms": one.paired / NS_PER_MS,
                "baseline_ms": one.baseline / NS_PER_MS,
                "difference_ms": one.difference / NS_PER_MS,
                "share": one.share,
            }
            for one in found.stages
        ],
    }


def _counts(counts: Mapping[str, int]) -> dict[str, Json]:
    """Counts by name; names that are alike once they are cut count together."""
    made: Counter[str] = Counter()
    for name, count in counts.items():
        made[_cut(name)] += count
    return dict(made)


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _ms(ns: float | None) -> float | None:
    return None if ns is None else ns / NS_PER_MS

"""The document: a summary as JSON with a versioned schema, every figure beside its unit and definition.

Version history: 1, the first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Final

from vlmtrace.analysis.launch import GPU_FROM, HOST_TO, UNKNOWN_FROM, Judgement
from vlmtrace.analysis.measured import Measured
from vlmtrace.analysis.rows import Range, StageRow
from vlmtrace.analysis.summary import Summary
from vlmtrace.report.clock import clock_document
from vlmtrace.report.definitions import COLUMNS, METRICS, STAGES
from vlmtrace.report.kernel_document import kernel_document
from vlmtrace.report.launch import stretch_document
from vlmtrace.report.overhead import added_document, lowered_document
from vlmtrace.report.plan import plan_document
from vlmtrace.report.syncs import sync_document
from vlmtrace.timeline.recording import Json, TracedModel
from vlmtrace.units import NS_PER_MS

__all__ = ["SCHEMA", "VERSION", "document", "document_text"]

SCHEMA: Final = "vlmtrace.summary"
VERSION: Final = 1
"""Grows by one whenever a reader of the older document would misread or miss a key; new keys alone do not count."""


def document_text(summary: Summary) -> str:
    """The document as indented JSON in ASCII, so that foreign names cannot act on a terminal."""
    return json.dumps(document(summary), indent=2, allow_nan=False) + "\n"


def document(summary: Summary) -> dict[str, Json]:
    """The summary as JSON values; times in milliseconds, shares as fractions of 1, absent figures ``null``."""
    counted = {one.generation.index for one in summary.counted}
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "recording": {
            "name": summary.name,
            "detail": summary.detail,
            "clock": "device" if summary.on_device else "host",
            "incomplete": summary.incomplete,
        },
        "models": [_model(model) for model in summary.models],
        "modes": list(summary.modes),
        "environment": _finite(dict(summary.environment)),
        "workload": _finite(dict(summary.workload)),
        "counts": _counts(summary),
        "stages": [_stage(row) for row in summary.rows],
        "metrics": {
            metric.key: {
                "title": metric.title,
                "value": metric.in_unit(summary.metrics[metric.key].value),
                "unit": metric.unit,
                "samples": summary.metrics[metric.key].samples,
                "definition": metric.definition,
            }
            for metric in METRICS
        },
        "nearest_generation": None if summary.nearest is None else summary.nearest.generation.index,
        "generations": [_generation(one, counted=one.generation.index in counted) for one in summary.measured],
        "tracing": {
            "path": summary.tracing.path,
            "cost_share": summary.tracing.cost_share,
            "waits_per_generation": summary.tracing.waits,
            "clock_bound_ms": _ms(summary.tracing.clock_bound),
            "added": added_document(summary.tracing.added),
            "lowered": lowered_document(summary.tracing.lowered),
            "gpu_samples": summary.tracing.samples,
            "gpu_sample_ms": _ms(summary.tracing.sample_ns),
        },
        "syncs": sync_document(summary),
        "clock": clock_document(summary),
        "host_bound_stretches": stretch_document(summary),
        "kernels": kernel_document(summary),
        "findings": [
            {"slug": finding.slug.value, "evidence": finding.evidence, "remedy": finding.remedy}
            for finding in summary.findings
        ],
        "definitions": {
            "stages": dict(STAGES),
            "columns": dict(COLUMNS),
            "verdict_thresholds": {
                "gpu_bound_from": GPU_FROM,
                "host_bound_up_to": HOST_TO,
                "unknown_where_clock_bound_exceeds": UNKNOWN_FROM,
            },
        },
    }


def _counts(summary: Summary) -> dict[str, Json]:
    counts = summary.counts
    return {
        "generations": counts.generations,
        "roles": dict(counts.roles),
        "left_out": dict(counts.left_out),
        "batch": _range(counts.batch),
        "images": _range(counts.images),
        "visual_tokens": _range(counts.visual_tokens),
        "prompt_tokens": _range(counts.prompt_tokens),
        "new_tokens": _range(counts.new_tokens),
    }


def _model(model: TracedModel) -> dict[str, Json]:
    return {
        "name": model.name,
        "class_name": model.class_name,
        "model_type": model.model_type,
        "parameters": model.parameters,
        "random_weights": model.random_weights,
        "dtype": model.dtype,
        "device": model.device,
        "attention": model.attention,
        **plan_document(model),
    }


def _stage(row: StageRow) -> dict[str, Json]:
    made: dict[str, Json] = {
        "stage": row.stage,
        "calls": _range(row.calls),
        "p50_ms": _ms(row.p50),
        "p95_ms": _ms(row.p95),
        "share": row.share,
        "verdict": _judgement(row.judgement),
        "peak_bytes": row.peak,
    }
    if row.largest is not None:
        name, ns = row.largest
        made["largest"] = {"stage": name, "p50_ms": _ms(ns)}
    return made


def _judgement(judgement: Judgement | None) -> Json:
    if judgement is None:
        return None
    return {
        "verdict": judgement.verdict.value,
        "lead_share": judgement.lead_share,
        "clock_bound_share": judgement.bound_share,
        "parts": judgement.parts,
        "host_bound_parts": judgement.host_bound_parts,
    }


def _generation(one: Measured, *, counted: bool) -> dict[str, Json]:
    account, metrics, generation = one.account, one.metrics, one.generation
    other: dict[str, int] = {}
    for name, ns in account.other:
        other[name] = other.get(name, 0) + ns
    return {
        "index": generation.index,
        "role": generation.role,
        "counted": counted,
        "error": generation.error,
        "tags": _finite(dict(generation.tags)),
        "new_tokens": list(generation.new_tokens),
        "generate_ms": _ms(account.generate),
        "vision_ms": _ms(account.vision),
        "prefill_ms": _ms(account.prefill),
        "decode_ms": _ms(account.decode),
        "other_ms": {name: _ms(ns) for name, ns in other.items()},
        "steps": len(account.steps),
        "host_wall_ms": _ms(account.host_wall),
        "ttft_ms": _ms(metrics.ttft),
        "ttft_e2e_ms": _ms(metrics.ttft_e2e),
        "tpot_ms": _ms(metrics.tpot),
        "decode_tokens_per_s": metrics.decode_throughput,
        "output_tokens_per_s": metrics.output_throughput,
        "proposed": metrics.proposed,
        "accepted": metrics.accepted,
    }


def _ms(ns: float | None) -> float | None:
    return None if ns is None else ns / NS_PER_MS


def _range(counts: Range | None) -> Json:
    return None if counts is None else {"min": counts[0], "max": counts[1]}


def _finite(value: Json) -> Json:
    """Foreign values without the floats that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value

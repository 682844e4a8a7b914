#!/usr/bin/env python3
"""How well vlmtrace's stages hold the kernels that Nsight Systems saw, in the very same calls.

    nsys profile --trace=cuda,nvtx ... scripts/nsight_reference.py record --out traced.pftrace
    nsys export --type=sqlite ...
    scripts/nsight_reference.py compare traced.pftrace REPORT.sqlite --out reference.json

A kernel belongs to the stage whose NVTX range its launch lies in (by correlation id, on the same thread). Its clock
is fitted to the host's from the ranges' starts, host to host, before any device time is looked at. Then, for every
vision, prefill and decode step: do all its kernels lie within its span, and how far are its two marks from them?
"""

from __future__ import annotations

import argparse
import bisect
import json
import sqlite3
import statistics
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STAGES = ("vision", "prefill", "decode.step")


def record(options: argparse.Namespace) -> None:
    """Generate the study's first samples in one recording."""
    from subtraction_study import Bench, samples

    import vlmtrace

    bench = Bench(options.shape)
    plans = [sample for sample in samples(options.samples * 2) if sample["new"] > 1][: options.samples]
    for side in sorted({plan["side"] for plan in plans}):
        bench.generate(bench.inputs({"id": 0, "side": side, "prompt": 20}), 3)
    inputs = [bench.inputs(plan) for plan in plans]
    with vlmtrace.trace(bench.model, random_weights=True, name=f"{options.shape}-nsight") as session:
        for plan, given in zip(plans, inputs, strict=True):
            vlmtrace.tag(sample=plan["id"])
            bench.generate(given, plan["new"])
    session.save(options.out, force=True)


@dataclass
class Range:
    """One NVTX range of a stage, and the device work launched in it, in Nsight's nanoseconds."""

    name: str
    start: int
    end: int
    thread: int
    launches_end: int = 0
    work: list[tuple[int, int]] = field(default_factory=list)


def compare(options: argparse.Namespace) -> None:
    import vlmtrace

    recording = vlmtrace.load(options.trace)
    with closing(sqlite3.connect(options.report)) as db:
        ranges = read_ranges(db)
        unattributed, total = attribute(db, ranges)
    spans = {name: sorted(recording.spans.named(name), key=lambda s: s.host_begin) for name in (*STAGES, "generate")}
    matched = []
    for name, found in spans.items():
        own = [r for r in ranges if r.name == name]
        if len(own) != len(found):
            raise SystemExit(f"{name}: {len(found)} spans in the trace, {len(own)} ranges in the report")
        matched += list(zip(found, own, strict=True))
    slope, offset, residual = fit([(r.start, span.host_begin) for span, r in matched])

    def axis(at: int) -> float:
        return offset + at + slope * (at - matched[0][1].start)

    bound = {g.index: recording.clocks[g.clock].bound_ns for g in recording.generations if g.clock is not None}
    result: dict[str, Any] = {
        "generations": len(recording.generations),
        "kernels": total,
        "unattributed": unattributed,
        "fit": {"drift_ppm": slope * 1e6, "residual_p50_us": residual[0], "residual_p99_us": residual[1]},
        "bound_us": statistics.median(bound.values()) / 1e3,
        "stages": {},
    }
    for name in STAGES:
        pairs = [(span, r) for span, r in matched if span.name == name and r.work]
        result["stages"][name] = judge(pairs, axis, bound, residual[1])
    text = json.dumps(result, indent=1)
    Path(options.out).write_text(text + "\n")
    print(text)


def read_ranges(db: sqlite3.Connection) -> list[Range]:
    """The push/pop ranges of the domain ``vlmtrace``, in order."""
    (domain,) = db.execute(
        "SELECT domainId FROM NVTX_EVENTS WHERE eventType = 75 AND text = 'vlmtrace' LIMIT 1"
    ).fetchone() or (None,)
    rows = db.execute(
        "SELECT COALESCE(n.text, s.value), n.start, n.end, n.globalTid FROM NVTX_EVENTS n "
        "LEFT JOIN StringIds s ON s.id = n.textId "
        "WHERE n.eventType = 59 AND n.end IS NOT NULL AND (? IS NULL OR n.domainId = ?) ORDER BY n.start",
        (domain, domain),
    )
    return [Range(*row) for row in rows if row[0] in (*STAGES, "generate")]


def attribute(db: sqlite3.Connection, ranges: list[Range]) -> tuple[int, int]:
    """Give each kernel and copy to the innermost stage that launched it; how many kernels had none, and how many."""
    launches = {
        correlation: (start, end, thread)
        for start, end, thread, correlation in db.execute(
            "SELECT start, end, globalTid, correlationId FROM CUPTI_ACTIVITY_KIND_RUNTIME"
        )
    }
    by_thread: dict[int, list[Range]] = defaultdict(list)
    for r in ranges:
        if r.name in STAGES:
            by_thread[r.thread].append(r)
    starts = {thread: [r.start for r in own] for thread, own in by_thread.items()}
    unattributed = total = 0
    for table in ("KERNEL", "MEMCPY", "MEMSET"):
        for start, end, correlation in db.execute(
            f"SELECT start, end, correlationId FROM CUPTI_ACTIVITY_KIND_{table} ORDER BY start"
        ):
            begin, done, thread = launches.get(correlation, (0, 0, 0))
            own = by_thread.get(thread, [])
            at = bisect.bisect_right(starts.get(thread, []), begin) - 1
            while at >= 0 and own[at].end <= begin and own[at].start > begin - 10_000_000_000:
                at -= 1  # a range that began later and has ended; the one around it may still be open
            inside = at >= 0 and own[at].start <= begin < own[at].end
            total += table == "KERNEL"
            if not inside:
                unattributed += table == "KERNEL"
                continue
            if not own[at].work:
                own[at].launches_end = done
            own[at].work.append((start, end))
    return unattributed, total


def fit(points: list[tuple[int, int]]) -> tuple[float, float, tuple[float, float]]:
    """Nsight's clock to the host's: rate by least squares, offset by the quickest pushes; residuals p50 and p99 in µs.

    A range starts a few µs after the host time of its mark (the event is recorded in between), never before it.
    """
    x0, y0 = points[0]
    xs = [x - x0 for x, _ in points]
    ds = [(y - y0) - (x - x0) for x, y in points]
    mean_x, mean_d = statistics.fmean(xs), statistics.fmean(ds)
    spread = sum((x - mean_x) ** 2 for x in xs)
    slope = sum((x - mean_x) * (d - mean_d) for x, d in zip(xs, ds, strict=True)) / spread
    late = sorted(slope * x - d for x, d in zip(xs, ds, strict=True))
    quickest = late[len(late) // 100]
    offset = y0 - x0 - quickest
    residuals = [abs(value - quickest) / 1e3 for value in late]
    return slope, offset, (statistics.median(residuals), sorted(residuals)[len(residuals) * 99 // 100])


def judge(pairs: list[tuple[Any, Range]], axis: Any, bound: dict[int, int], residual_us: float) -> dict[str, Any]:
    """Slack between a stage's marks and its device work, and the shares that meet what is asked of them."""
    begins, ends, held, prompt_begin, prompt_end = [], [], 0, 0, 0
    for span, r in pairs:
        allowed = bound[span.generation] + residual_us * 1e3
        first, last = axis(min(w[0] for w in r.work)), axis(max(w[1] for w in r.work))
        begin, end = first - span.begin, span.end - last
        begins.append(begin / 1e3)
        ends.append(end / 1e3)
        held += begin >= -allowed and end >= -allowed
        prompt_end += end <= max(20_000, 0.002 * span.duration)
        launched = axis(r.launches_end) - span.host_begin
        prompt_begin += begin <= launched + 20_000 + bound[span.generation]
    count = len(pairs)
    return {
        "spans": count,
        "device_operations": sum(len(r.work) for _, r in pairs),
        "work_within_span": held / count,
        "end_slack_met": prompt_end / count,
        "begin_slack_met": prompt_begin / count,
        "begin_slack_us": percentiles(begins),
        "end_slack_us": percentiles(ends),
    }


def percentiles(values: list[float]) -> dict[str, float]:
    ranked = sorted(values)
    at = {"min": 0.0, "p1": 0.01, "p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: round(ranked[min(len(ranked) - 1, int(part * len(ranked)))], 2) for name, part in at.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("record")
    command.add_argument("--shape", default="qwen2.5-vl-0.5b")
    command.add_argument("--samples", type=int, default=44)
    command.add_argument("--out", required=True)
    command.set_defaults(run=record)
    command = commands.add_parser("compare")
    command.add_argument("trace")
    command.add_argument("report")
    command.add_argument("--out", required=True)
    command.set_defaults(run=compare)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()

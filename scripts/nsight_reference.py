#!/usr/bin/env python3
"""How well vlmtrace's stages hold the kernels that Nsight Systems saw, in the very same calls.

    nsys profile --trace=cuda,nvtx --cuda-graph-trace=node ... scripts/nsight_reference.py record --out FOLDER
    nsys export --type=sqlite ...
    scripts/nsight_reference.py compare FOLDER REPORT.sqlite --out reference.json

A kernel belongs to the stage whose NVTX range its launch lies in (by correlation id, on the same thread). Its clock
is fitted to the host's from the ranges' starts, host to host, before any device time is looked at. Then, for every
vision, prefill and decode step: do all its kernels lie within its span, and how far are its two marks from them? And
does the launch verdict agree with how long the GPU really idled?
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
    """One trace per configuration: the study's first samples, eager; then few samples in other ways of decoding."""
    import torch
    from subtraction_study import Bench, samples

    import vlmtrace

    bench = Bench(options.shape)
    plans = [sample for sample in samples(options.samples * 2) if sample["new"] > 1][: options.samples]
    sides = [{"id": 0, "side": side, "prompt": 20, "new": 3} for side in sorted({plan["side"] for plan in plans})]
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    for name in options.configurations:
        way, _, batch = name.partition("-")
        own = plans if name == "eager-1" else [{"id": 0, "side": 16, "prompt": 50, "new": 24}] * options.others
        inputs = [repeated(bench.inputs(plan), int(batch)) for plan in own]
        static = {"cache_implementation": "static"} if way == "compiled" else {}

        def generate(given: Any, plan: dict[str, Any], static: dict[str, str] = static) -> None:
            with torch.inference_mode():
                bench.model.generate(**given, max_new_tokens=plan["new"], do_sample=False, **static)

        for plan in sides if name == "eager-1" else own[:1] * 3:
            generate(repeated(bench.inputs(plan), int(batch)), plan)
        with vlmtrace.trace(bench.model, random_weights=True, name=f"{options.shape}-{name}") as session:
            for plan, given in zip(own, inputs, strict=True):
                vlmtrace.tag(sample=plan["id"])
                generate(given, plan)
        session.save(folder / f"{name}.pftrace", force=True)


def repeated(inputs: Any, batch: int) -> Any:
    """The same sample ``batch`` times in one batch; pixel values and grids are rows, one after another."""
    for key, value in list(inputs.items()):
        inputs[key] = value.repeat(batch, *[1] * (value.dim() - 1))
    return inputs


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

    paths = sorted(Path(options.traces).glob("*.pftrace"))
    recordings = {path.stem: vlmtrace.load(path) for path in paths}
    with closing(sqlite3.connect(options.report)) as db:
        ranges = read_ranges(db)
        unattributed, total = attribute(db, ranges)
    matched = match(recordings, ranges)
    slope, offset, residual = fit([(r.start, span.host_begin) for _, span, r in matched])
    origin = matched[0][2].start

    def axis(at: int) -> float:
        return offset + at + slope * (at - origin)

    result: dict[str, Any] = {
        "kernels": total,
        "unattributed": unattributed,
        "fit": {"drift_ppm": slope * 1e6, "residual_p50_us": residual[0], "residual_p99_us": residual[1]},
        "recordings": {},
    }
    for name, recording in recordings.items():
        bound = {g.index: recording.clocks[g.clock].bound_ns for g in recording.generations if g.clock is not None}
        made: dict[str, Any] = {"generations": len(bound), "bound_us": statistics.median(bound.values()) / 1e3}
        verdicts = verdicts_of(recording)
        for stage in STAGES:
            pairs = [(span, r) for own, span, r in matched if own == name and span.name == stage and r.work]
            made[stage] = judge(pairs, axis, bound, residual[1]) | {"verdict": verdicts.get(stage)}
        result["recordings"][name] = made
    text = json.dumps(result, indent=1)
    Path(options.out).write_text(text + "\n")
    print(text)


def match(recordings: dict[str, Any], ranges: list[Range]) -> list[tuple[str, Any, Range]]:
    """Spans and ranges of each stage, one to one in the order in which the host came to them."""
    matched = []
    for stage in (*STAGES, "generate"):
        found = [(name, span) for name, recording in recordings.items() for span in recording.spans.named(stage)]
        found.sort(key=lambda pair: pair[1].host_begin)
        own = [r for r in ranges if r.name == stage]
        if len(own) != len(found):
            raise SystemExit(f"{stage}: {len(found)} spans in the traces, {len(own)} ranges in the report")
        matched += [(name, span, r) for (name, span), r in zip(found, own, strict=True)]
    return sorted(matched, key=lambda triple: triple[2].start)


def verdicts_of(recording: Any) -> dict[str, str]:
    """The launch verdict of each stage, as the summary gives it; the decode's stands for its steps."""
    from vlmtrace.analysis.summary import summarise

    judged = {row.stage: row.judgement for row in summarise(recording).rows if row.judgement is not None}
    return {
        "decode.step" if stage == "decode" else stage: judgement.verdict.value for stage, judgement in judged.items()
    }


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
    if not count:
        return {"spans": 0}
    idle = [1 - busy(r.work) / max(1, span.duration) for span, r in pairs]
    return {
        "spans": count,
        "idle_share_p50": round(statistics.median(idle), 3),
        "device_operations": sum(len(r.work) for _, r in pairs),
        "work_within_span": held / count,
        "end_slack_met": prompt_end / count,
        "begin_slack_met": prompt_begin / count,
        "begin_slack_us": percentiles(begins),
        "end_slack_us": percentiles(ends),
    }


def busy(work: list[tuple[int, int]]) -> int:
    """Nanoseconds in which at least one of the operations ran."""
    total = until = 0
    for start, end in sorted(work):
        total += max(0, end - max(start, until))
        until = max(until, end)
    return total


def percentiles(values: list[float]) -> dict[str, float]:
    ranked = sorted(values)
    at = {"min": 0.0, "p1": 0.01, "p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: round(ranked[min(len(ranked) - 1, int(part * len(ranked)))], 2) for name, part in at.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("record")
    command.add_argument("--shape", default="qwen2.5-vl-0.5b")
    command.add_argument("--samples", type=int, default=44, help="samples of the configuration eager-1")
    command.add_argument("--others", type=int, default=6, help="generations of each other configuration")
    command.add_argument(
        "--configurations", nargs="+", default=["eager-1", "eager-16", "compiled-1", "compiled-16"], metavar="WAY-BATCH"
    )
    command.add_argument("--out", required=True)
    command.set_defaults(run=record)
    command = commands.add_parser("compare")
    command.add_argument("traces")
    command.add_argument("report")
    command.add_argument("--out", required=True)
    command.set_defaults(run=compare)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()

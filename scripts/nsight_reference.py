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
import csv
import json
import sqlite3
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import accumulate
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
    """One NVTX range of a stage and the device work launched in it, all in Nsight's nanoseconds.

    ``before`` and ``after``: when the last work launched before it ended, and the first launched behind it started.
    """

    name: str
    start: int
    end: int
    thread: int
    launches_end: int = 0
    work: list[tuple[int, int]] = field(default_factory=list)
    before: int | None = None
    after: int | None = None


def compare(options: argparse.Namespace) -> None:
    import vlmtrace

    paths = sorted(Path(options.traces).glob("*.pftrace"))
    recordings = {path.stem: vlmtrace.load(path) for path in paths}
    with closing(sqlite3.connect(options.report)) as db:
        ranges = read_ranges(db)
        unattributed, total = attribute(db, ranges)
    matched = match(recordings, ranges)
    clock = fit([(r.start, span.host_begin) for _, span, r in matched])
    result: dict[str, Any] = {
        "kernels": total,
        "unattributed": unattributed,
        "fit": clock.told(),
        "recordings": {},
    }
    rows = []
    for name, recording in recordings.items():
        ranges_of = {span.row: r for own, span, r in matched if own == name}
        own = [compared(name, *one, ranges_of, clock) for one in judged_parts(recording) if ranges_of[one[1].row].work]
        bounds = [row["bound_us"] for row in own]
        made: dict[str, Any] = {
            "environment": {key: recording.environment.get(key) for key in ("gpu", "driver", "torch", "transformers")},
            "generations": len(recording.generations),
            "bound_us": statistics.median(bounds),
        }
        verdicts = verdicts_of(recording)
        for stage in STAGES:
            made[stage] = scored([row for row in own if row["stage"] == stage]) | {"verdict": verdicts.get(stage)}
        result["recordings"][name] = made
        rows += own
    result["all"] = {stage: scored([row for row in rows if row["stage"] == stage]) for stage in STAGES}
    text = json.dumps(result, indent=1)
    out = Path(options.out)
    out.write_text(text + "\n")
    with out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
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


def judged_parts(recording: Any) -> Iterator[tuple[str, Any, Any]]:
    """Every span of a stage with the lead that its launch verdict is drawn from."""
    from vlmtrace.analysis.launch import leads
    from vlmtrace.analysis.stages import gather

    for stages in gather(recording):
        found = leads(stages, recording.clocks[stages.generation.clock].bound_ns)
        for stage, spans, parts in (
            ("vision", stages.vision, found["vision"]),
            ("prefill", stages.prefill, found["prefill"]),
            ("decode.step", stages.steps, found["decode"]),
        ):
            yield from ((stage, span, lead) for span, lead in zip(spans, parts, strict=True))


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
    operations: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    unattributed = total = 0
    for table in ("KERNEL", "MEMCPY", "MEMSET"):
        for start, end, correlation in db.execute(
            f"SELECT start, end, correlationId FROM CUPTI_ACTIVITY_KIND_{table} ORDER BY start"
        ):
            begin, done, thread = launches.get(correlation, (0, 0, 0))
            operations[thread].append((begin, start, end))
            own = by_thread.get(thread, [])
            at = bisect.bisect_right(starts.get(thread, []), begin) - 1
            while at >= 0 and own[at].end <= begin and own[at].start > begin - 10_000_000_000:
                at -= 1  # a range that began later and has ended; the one around it may still be open
            inside = at >= 0 and own[at].start <= begin < own[at].end
            total += table == "KERNEL"
            if not inside:
                unattributed += table == "KERNEL"
                continue
            if not own[at].work or start < min(first for first, _ in own[at].work):
                own[at].launches_end = done
            own[at].work.append((start, end))
    for thread, own in by_thread.items():
        neighbours(own, sorted(operations[thread]))
    return unattributed, total


def neighbours(ranges: list[Range], operations: list[tuple[int, int, int]]) -> None:
    """When the work launched before each range had ended, and when the work launched behind it started."""
    launched = [launch for launch, _, _ in operations]
    ended = list(accumulate((end for _, _, end in operations), max))
    started = list(accumulate((start for _, start, _ in reversed(operations)), min))[::-1]
    for r in ranges:
        first, behind = bisect.bisect_left(launched, r.start), bisect.bisect_left(launched, r.end)
        r.before = ended[first - 1] if first else None
        r.after = started[behind] if behind < len(started) else None


@dataclass(frozen=True)
class Fit:
    """Nsight's clock laid on the host's: ``host = at + offset + slope × (at - origin)``; errors in µs."""

    origin: int
    offset: float
    slope: float
    residual_us: float
    late_p50_us: float
    late_p99_us: float

    def __call__(self, at: int) -> float:
        return at + self.offset + self.slope * (at - self.origin)

    def told(self) -> dict[str, float]:
        return {
            "drift_ppm": self.slope * 1e6,
            "residual_us": self.residual_us,
            "push_late_p50_us": self.late_p50_us,
            "push_late_p99_us": self.late_p99_us,
        }


def fit(points: list[tuple[int, int]], window: int = 25) -> Fit:
    """Nsight's clock to the host's, through the quickest pushes; ``points`` are (range start, host time of its mark).

    A range starts a few µs after the host time of its mark (the event is recorded in between), never before it, and a
    profiler makes some of them much later. So of every ``window`` neighbours the quickest is taken, a straight line is
    fitted to these, and the largest distance of one of them from the line is the fit's residual.
    """
    x0, y0 = points[0]
    found = [(x - x0, (y - y0) - (x - x0)) for x, y in points]
    quickest = [max(found[at : at + window], key=lambda point: point[1]) for at in range(0, len(found), window)]
    mean_x, mean_d = statistics.fmean(x for x, _ in quickest), statistics.fmean(d for _, d in quickest)
    spread = sum((x - mean_x) ** 2 for x, _ in quickest)
    slope = sum((x - mean_x) * (d - mean_d) for x, d in quickest) / spread
    offset = mean_d - slope * mean_x
    late = sorted((offset + slope * x - d) / 1e3 for x, d in found)
    return Fit(
        origin=x0,
        offset=y0 - x0 + offset,
        slope=slope,
        residual_us=max(abs(offset + slope * x - d) for x, d in quickest) / 1e3,
        late_p50_us=late[len(late) // 2],
        late_p99_us=late[len(late) * 99 // 100],
    )


def compared(name: str, stage: str, span: Any, lead: Any, ranges: dict[int, Range], clock: Fit) -> dict[str, Any]:
    """One span against the work launched in its range, in µs.

    ``outside``: how far its two marks lie outside of where the stream can have reached them, between the work launched
    before and the work launched behind each mark; 0 where they lie inside. ``spilled``: how far work of its own
    reaches out of it. ``idle_share`` is the part of the duration judged in which nothing ran.
    """
    from vlmtrace.analysis.launch import verdict_of

    r = ranges[span.row]
    first, last = clock(min(start for start, _ in r.work)), clock(max(end for _, end in r.work))
    before = span.begin if r.before is None else clock(r.before)
    after = span.end if r.after is None else clock(r.after)
    outside = max(0, before - span.begin, span.begin - first, last - span.end, span.end - after)
    ran = busy([(clock(start), min(clock(end), span.begin + lead.duration)) for start, end in r.work])
    return {
        "recording": name,
        "stage": stage,
        "generation": span.generation,
        "duration_us": round(span.duration / 1e3, 2),
        "operations": len(r.work),
        "begin_slack_us": round((first - span.begin) / 1e3, 2),
        "begin_allowed_us": round((clock(r.launches_end) - span.host_begin + lead.bound) / 1e3 + 20, 2),
        "end_slack_us": round((span.end - last) / 1e3, 2),
        "spilled_us": round(max(0, span.begin - first, last - span.end) / 1e3, 2),
        "outside_us": round(outside / 1e3, 2),
        "allowed_us": round(lead.bound / 1e3 + clock.residual_us, 2),
        "bound_us": round(lead.bound / 1e3, 2),
        "lead_share": round(lead.lead / lead.duration, 4),
        "idle_share": round(1 - ran / lead.duration, 4),
        "verdict": verdict_of(lead).value,
    }


def scored(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The shares of spans that meet what is asked of them, and the distributions behind them."""
    if not rows:
        return {"spans": 0}

    def share(met: Callable[[dict[str, Any]], bool]) -> float:
        return sum(map(met, rows)) / len(rows)

    return {
        "spans": len(rows),
        "device_operations": sum(row["operations"] for row in rows),
        "idle_share_p50": statistics.median(row["idle_share"] for row in rows),
        "lead_share_p50": statistics.median(row["lead_share"] for row in rows),
        "work_within_span": share(lambda row: row["spilled_us"] <= row["allowed_us"]),
        "marks_in_place": share(lambda row: row["outside_us"] <= row["allowed_us"]),
        "end_slack_met": share(lambda row: row["end_slack_us"] <= max(20, 0.002 * row["duration_us"])),
        "begin_slack_met": share(lambda row: row["begin_slack_us"] <= row["begin_allowed_us"]),
        "begin_slack_us": percentiles([row["begin_slack_us"] for row in rows]),
        "end_slack_us": percentiles([row["end_slack_us"] for row in rows]),
        "outside_us": percentiles([row["outside_us"] for row in rows]),
    }


def busy(work: list[tuple[float, float]]) -> float:
    """Nanoseconds in which at least one of the operations ran."""
    total = until = 0.0
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

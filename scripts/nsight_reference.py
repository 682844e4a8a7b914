#!/usr/bin/env python3
"""How well vlmtrace's stages hold the kernels that Nsight Systems saw, in the very same calls.

    nsys profile --trace=cuda,nvtx --cuda-graph-trace=node ... scripts/nsight_reference.py record --out FOLDER
    nsys export --type=sqlite ...
    scripts/nsight_reference.py extract REPORT.sqlite --out FOLDER/ranges.csv
    scripts/nsight_reference.py compare FOLDER --out FOLDER/spans.csv

A kernel belongs to the stage whose NVTX range its launch lies in (by correlation id, on the same thread). Nsight's
clock is fitted to vlmtrace's host to host, before any device time is looked at: by the calls of cudaEventRecord beside
the ranges' starts and ends, which come right behind the host times of their marks. Then, for every vision, prefill and
decode step: do all its kernels lie within its span, does the stream reach its two marks when vlmtrace says so, and how
far are they from the kernels? And does the launch verdict agree with how long the GPU really idled?
"""

from __future__ import annotations

import argparse
import bisect
import csv
import json
import sqlite3
import statistics
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, fields
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

    ``record_begin`` and ``record_end`` are the starts of the calls of cudaEventRecord right before and right behind it:
    those of its two marks. ``launched`` is the end of the call that launched the work that came first, ``first`` and
    ``last`` are that work's start and the last one's end, ``busy`` the time in which any of it ran. ``before`` is when
    the last work launched before the range had ended, ``after`` when the first launched behind it started.
    """

    name: str
    start: int
    end: int
    thread: int
    record_begin: int = -1
    record_end: int = -1
    operations: int = 0
    launched: int = -1
    first: int = -1
    last: int = -1
    busy: int = 0
    before: int = -1
    after: int = -1


def extract(options: argparse.Namespace) -> None:
    """One line for each range, from a report of any size; what there was in all goes to standard output."""
    with closing(sqlite3.connect(options.report)) as db:
        ranges = read_ranges(db)
        unattributed, total = attribute(db, ranges)
    with Path(options.out).open("w", newline="") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(Range)])
        writer.writeheader()
        writer.writerows(map(asdict, ranges))
    print(json.dumps({"kernels": total, "outside of every stage": unattributed, "ranges": len(ranges)}))


def read_extract(path: Path) -> list[Range]:
    with path.open(newline="") as file:
        return [
            Range(**{key: value if key == "name" else int(value) for key, value in row.items()})  # type: ignore[arg-type]
            for row in csv.DictReader(file)
        ]


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
            "call_late_p50_us": self.late_p50_us,
            "call_late_p99_us": self.late_p99_us,
        }


@dataclass(frozen=True)
class Compared:
    """Every span of every recording of a folder, laid beside its kernels; and each stage's launch verdict."""

    clock: Fit
    rows: list[dict[str, Any]]
    verdicts: dict[str, dict[str, str]]
    environments: dict[str, dict[str, Any]]


def read_folder(folder: Path) -> Compared:
    import vlmtrace

    recordings = {path.stem: vlmtrace.load(path) for path in sorted(folder.glob("*.pftrace"))}
    matched = match(recordings, read_extract(folder / "ranges.csv"))
    points = [(r.record_begin, span.host_begin) for _, span, r in matched]
    points += [(r.record_end, span.host_end) for _, span, r in matched]
    clock = fit(sorted(point for point in points if point[0] >= 0))
    made = Compared(clock, [], {}, {})
    for name, recording in recordings.items():
        ranges = {span.row: r for own, span, r in matched if own == name}
        for stage, span, lead in judged_parts(recording):
            if ranges[span.row].operations:
                made.rows.append(compared(name, stage, span, lead, ranges[span.row], clock))
        made.verdicts[name] = verdicts_of(recording)
        made.environments[name] = {
            key: recording.environment.get(key) for key in ("gpu", "driver", "torch", "transformers")
        }
    return made


def compare(options: argparse.Namespace) -> None:
    found = read_folder(Path(options.folder))
    result: dict[str, Any] = {"fit": found.clock.told(), "recordings": {}}
    for name, verdicts in found.verdicts.items():
        own = [row for row in found.rows if row["recording"] == name]
        stages = {stage: scored(own, stage) | {"verdict": verdicts.get(stage)} for stage in STAGES}
        result["recordings"][name] = {"environment": found.environments[name], **stages}
    result["all"] = {stage: scored(found.rows, stage) for stage in STAGES}
    if options.out is not None:
        with Path(options.out).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(found.rows[0]))
            writer.writeheader()
            writer.writerows(found.rows)
    if options.plot is not None:
        plot(found.rows, Path(options.plot))
    print(json.dumps(result, indent=1))


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Slack at both ends, as shares of each stage's spans; and lead against idleness, span by span."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from vlmtrace.analysis.launch import GPU_FROM, HOST_TO

    colours = dict(zip(STAGES, ("#2980b9", "#e67e22", "#27ae60"), strict=True))
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for stage, colour in colours.items():
        own = [row for row in rows if row["stage"] == stage]
        for axis, key in zip(axes, ("begin_slack_us", "end_slack_us"), strict=False):
            ranked = sorted(max(0.1, row[key]) for row in own)
            axis.step(ranked, [(i + 1) / len(ranked) for i in range(len(ranked))], color=colour, label=stage)
        lead, idle = [row["lead_share"] for row in own], [row["idle_share"] for row in own]
        axes[2].scatter(lead, idle, s=10, alpha=0.5, color=colour, label=stage, linewidths=0)
    for axis, title in zip(axes, ("first kernel starts − stage begins", "stage ends − last kernel ends"), strict=False):
        axis.set(xscale="log", xlabel=f"{title}, µs", ylabel="share of spans", ylim=(0, 1.02))
    for at, name in ((HOST_TO, "host-bound to here"), (GPU_FROM, "GPU-bound from here")):
        axes[2].axvline(at, color="#888", linewidth=0.8, linestyle=":")
        axes[2].annotate(name, (at, 1.0), fontsize=7, rotation=90, va="top", ha="right", color="#555")
    axes[2].axhline(0.5, color="#888", linewidth=0.8, linestyle=":")
    axes[2].set(xlabel="lead at the end ÷ duration (vlmtrace)", ylabel="GPU idle ÷ duration (Nsight)", ylim=(0, 1.02))
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


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
    return matched


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
    """Fill the ranges with the device work launched in them; how many kernels lay in no stage, and how many there were.

    Work goes to the innermost stage around its launch.
    """
    threads = {thread: Thread([r for r in ranges if r.thread == thread]) for thread in {r.thread for r in ranges}}
    launches = {
        correlation: (start, end, thread)
        for start, end, thread, correlation in db.execute(
            "SELECT start, end, globalTid, correlationId FROM CUPTI_ACTIVITY_KIND_RUNTIME"
        )
        if thread in threads
    }
    unattributed = total = 0
    for table in ("KERNEL", "MEMCPY", "MEMSET"):
        for start, end, correlation in db.execute(
            f"SELECT start, end, correlationId FROM CUPTI_ACTIVITY_KIND_{table} ORDER BY start"
        ):
            begin, done, number = launches.get(correlation, (-1, -1, -1))
            found = threads[number].give(begin, done, start, end) if number in threads else False
            total += table == "KERNEL"
            unattributed += table == "KERNEL" and not found
    records = db.execute(
        "SELECT r.globalTid, r.start FROM CUPTI_ACTIVITY_KIND_RUNTIME r JOIN StringIds s ON s.id = r.nameId "
        "WHERE s.value LIKE 'cudaEventRecord%' ORDER BY r.start"
    )
    for number, start in records:
        if number in threads:
            threads[number].records.append(start)
    for thread in threads.values():
        thread.finish()
    return unattributed, total


class Thread:
    """The ranges of one host thread, in order, and the device work that it launched."""

    def __init__(self, ranges: list[Range]) -> None:
        self.ranges = ranges
        self.starts = [r.start for r in ranges]
        self.around: list[int] = []
        self.operations: list[tuple[int, int, int]] = []
        self.work: list[list[tuple[int, int]]] = [[] for _ in ranges]
        self.records: list[int] = []
        still_open: list[int] = []
        for number, r in enumerate(ranges):
            while still_open and ranges[still_open[-1]].end <= r.start:
                still_open.pop()
            self.around.append(still_open[-1] if still_open else -1)
            still_open.append(number)

    def give(self, begin: int, done: int, start: int, end: int) -> bool:
        """Work that ran from ``start`` to ``end``, launched by a call from ``begin`` to ``done``: lay it in a stage?"""
        self.operations.append((begin, start, end))
        at = bisect.bisect_right(self.starts, begin) - 1
        while at >= 0 and self.ranges[at].end <= begin:
            at = self.around[at]
        if at < 0 or self.ranges[at].name not in STAGES:
            return False
        if not self.work[at] or start < self.ranges[at].first:
            self.ranges[at].first, self.ranges[at].launched = start, done
        self.work[at].append((start, end))
        return True

    def finish(self) -> None:
        """What can be said of each range once all work is known."""
        self.operations.sort()
        launched = [launch for launch, _, _ in self.operations]
        ended = list(accumulate((end for _, _, end in self.operations), max))
        started = list(accumulate((start for _, start, _ in reversed(self.operations)), min))[::-1]
        for r, work in zip(self.ranges, self.work, strict=True):
            first, behind = bisect.bisect_left(launched, r.start), bisect.bisect_left(launched, r.end)
            r.before = ended[first - 1] if first else -1
            r.after = started[behind] if behind < len(started) else -1
            r.operations, r.busy = len(work), busy(work)
            r.last = max((end for _, end in work), default=-1)
            before, after = bisect.bisect_left(self.records, r.start) - 1, bisect.bisect_left(self.records, r.end)
            r.record_begin = self.records[before] if before >= 0 else -1
            r.record_end = self.records[after] if after < len(self.records) else -1


def fit(points: list[tuple[int, int]], window: int = 25) -> Fit:
    """Nsight's clock to the host's, through the quickest calls; ``points`` are (start of the call, host time read).

    A mark reads the host's time and calls cudaEventRecord: the call starts a moment later, never earlier. So of every
    ``window`` neighbours the quickest is taken, a straight line is fitted to these, and the largest distance of one of
    them from the line is the fit's residual.
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


def compared(name: str, stage: str, span: Any, lead: Any, r: Range, clock: Fit) -> dict[str, Any]:
    """One span against the work launched in its range, in µs.

    The stream reaches a mark between the end of the work launched before it and the start of the work launched behind
    it; ``room`` is how long that is, ``outside`` how far the further of the two marks lies outside of it, 0 where both
    lie inside. ``spilled``: how far the span's own work reaches out of it. ``idle_share``: the part in which none ran.
    """
    from vlmtrace.analysis.launch import verdict_of

    first, last = clock(r.first), clock(r.last)
    before = span.begin if r.before < 0 else clock(r.before)
    after = span.end if r.after < 0 else clock(r.after)
    outside = max(0, before - span.begin, span.begin - first, last - span.end, span.end - after)
    return {
        "recording": name,
        "stage": stage,
        "generation": span.generation,
        "duration_us": round(span.duration / 1e3, 2),
        "operations": r.operations,
        "begin_slack_us": round((first - span.begin) / 1e3, 2),
        "begin_allowed_us": round((clock(r.launched) - span.host_begin + lead.bound) / 1e3 + 20, 2),
        "end_slack_us": round((span.end - last) / 1e3, 2),
        "spilled_us": round(max(0, span.begin - first, last - span.end) / 1e3, 2),
        "room_begin_us": round((first - before) / 1e3, 2),
        "room_end_us": round((after - last) / 1e3, 2),
        "outside_us": round(outside / 1e3, 2),
        "allowed_us": round(lead.bound / 1e3 + clock.residual_us, 2),
        "bound_us": round(lead.bound / 1e3, 2),
        "lead_share": round(lead.lead / lead.duration, 4),
        "idle_share": round(1 - r.busy / span.duration, 4),
        "verdict": verdict_of(lead).value,
    }


def scored(spans: list[dict[str, Any]], stage: str) -> dict[str, Any]:
    """The shares of a stage's spans that meet what is asked of them, and the distributions behind them."""
    rows = [row for row in spans if row["stage"] == stage]
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
        "bound_us": percentiles([row["bound_us"] for row in rows]),
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
    command = commands.add_parser("extract")
    command.add_argument("report")
    command.add_argument("--out", required=True)
    command.set_defaults(run=extract)
    command = commands.add_parser("compare")
    command.add_argument("folder", help="with the traces and ranges.csv")
    command.add_argument("--out", help="one line for each span, as CSV")
    command.add_argument("--plot", help="a picture of the distributions; needs matplotlib")
    command.set_defaults(run=compare)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()

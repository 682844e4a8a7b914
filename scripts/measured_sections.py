"""The sections of the documents that were measured on a GPU, made from the raw data beside them."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import nsight_reference
import overhead_floor
import overhead_report
import subtraction_study
from markdown_table import table

DATA: Final = Path(__file__).resolve().parents[1] / "docs" / "data" / "h100-2026-11-23"
LATER: Final = DATA.with_name("h100-2026-11-24")
H200: Final = DATA.with_name("h200-2026-11-29")

TRANSFORMERS: Final = {"B": "5.17.0", "N": "5.23.0"}
"""The environments that ``syncs.jsonl`` names."""


def _results(name: str, folder: Path = DATA) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def clock_runs() -> str:
    runs = _results("tokens.jsonl")
    drifts = sorted(one["rate_ppb"] / 1000 for one in runs)
    told = (
        f"Over all {sum(one['generations'] for one in runs)} generations the bound was at most "
        f"{max(one['clock_bound_us_max'] for one in runs):.2f} µs, the drift between {drifts[0]:.1f} and "
        f"{drifts[-1]:.1f} ppm.\n\n"
    )
    rows = (
        (
            f"{one['shape']}, {one['detail']}",
            one["transformers"],
            f"{one['clock_bound_us']:.2f} ({one['clock_bound_us_max']:.2f})",
            f"{one['rate_ppb'] / 1000:.1f}",
            str(max(one["widened_ns"])),
            ", ".join(f"{wall:+.1f}" for wall in one["wall_minus_device_us"]),
            "yes" if one["untraced_agree"] and one["same_tokens"] else "no",
        )
        for one in runs
    )
    head = ("Shape, detail", "transformers", "Bound, median (max), µs", "Drift, ppm", "Widened, ns")
    return told + table((*head, "Host wall − device, each generation, µs", "Same tokens"), rows)


def syncs() -> str:
    def row(gpu: str, details: str, one: Mapping[str, Any]) -> Iterator[str]:
        yield one["shape"]
        yield gpu
        yield TRANSFORMERS[one["env"]]
        yield details
        for name in ("plain", "generate", "wait"):
            ((count, ranges),) = one["ranges"][name]["per_range"].items()
            yield f"{count} in each of {ranges}"
        yield str(one["ranges"]["anchor"]["syncs"])

    head = ("Shape", "GPU", "transformers", "Details", "Untraced `generate()`", "Traced: `generate`", "Traced: `wait`")
    runs = (("H100", "stage, layer", LATER), ("H200", "stage, module, layer", H200))
    rows = (row(gpu, details, one) for gpu, details, folder in runs for one in _results("syncs.jsonl", folder))
    return table((*head, "Anchors, in all"), rows)


def study() -> str:
    rows = _results("study.jsonl")
    return "\n".join([*subtraction_study.heading(rows), *subtraction_study.tables(rows)]).strip()


def study_in_short() -> str:
    samples = _results("study.jsonl")
    rows, ones = subtraction_study.grouped(samples)
    made = {method: subtraction_study.scored(rows, method) for method in subtraction_study.METHODS}
    one = subtraction_study.scored(ones, "subtraction")
    taken, own = made["subtraction"], made["vlmtrace"]
    traced = [row[method] for row in samples for method in ("vlmtrace", "again")]
    exact = sum(answer["exact"] for answer in traced)
    bound = statistics.median(row["vlmtrace"]["bound_us"] for row in samples)
    return "\n".join(
        (
            f"- Three runs and subtraction gave a decode of 0 or less in {taken['zero or negative']} of {len(rows)} "
            f"samples with several tokens, and stages longer than the whole in {one['sum over total']} of "
            f"{len(ones)} with one.",
            f"- vlmtrace gave it in {own['zero or negative']} of the {len(rows)}; {exact} of its {len(traced)} sums "
            f"were exact, and its clock was good to ± {bound:.1f} µs in the median.",
            f"- A sync around every step made {made['step_syncs']['syncs per sample']:.0f} syncs a sample; vlmtrace "
            f"added {own['syncs per sample']:.0f}, after the call.",
            f"- The same decode takes {made['again']['median difference ms']:.0f} ms more or less from one run to the "
            "next (median): two runs cannot be subtracted, however well each is timed.",
        )
    )


@cache
def _nsight() -> nsight_reference.Compared:
    return nsight_reference.read_folder(DATA / "nsight")


def nsight() -> str:
    def row(name: str, rows: list[dict[str, Any]], stage: str) -> Iterator[str]:
        made = nsight_reference.scored(rows, stage)
        yield f"{name}, {stage}"
        yield str(made["spans"])
        yield f"{made['device_operations']:,}"
        for key in ("work_within_span", "marks_in_place", "begin_slack_met", "end_slack_met"):
            yield f"{100 * made[key]:.1f} %"
        for key in ("begin_slack_us", "end_slack_us"):
            yield " / ".join(f"{made[key][part]:,.0f}" for part in ("p50", "p95", "max"))

    found = _nsight()
    each = {name: [one for one in found.rows if one["recording"] == name] for name in found.verdicts}
    told = (
        f"Nsight's clock was fitted with a residual of {found.clock.residual_us:.1f} µs; the generations' own bounds "
        f"were at most {max(one['bound_us'] for one in found.rows):.1f} µs.\n\n"
    )
    head = ("", "Spans", "Operations", "All work within", "Marks in place", "Begin", "End")
    lines = [
        row(name, rows, stage)
        for name, rows in {**each, "all": found.rows}.items()
        for stage in nsight_reference.STAGES
    ]
    return told + table((*head, "Begin slack, p50 / p95 / max, µs", "End slack, µs"), lines)


def _agrees(verdict: str, idle_share: float) -> bool | None:
    """Whether a verdict fits how long the GPU idled; a mixed or unknown one says nothing that could."""
    return {"host-bound": idle_share > 0.5, "GPU-bound": idle_share < 0.5}.get(verdict)


def verdict_scores() -> str:
    def row(name: str, stage: str) -> tuple[str, ...]:
        rows = [one for one in found.rows if (one["recording"], one["stage"]) == (name, stage)]
        verdict = found.verdicts[name][stage]
        idle = statistics.median(one["idle_share"] for one in rows)
        told = {True: "yes", False: "**no**", None: "-"}[_agrees(verdict, idle)]
        lead = statistics.median(one["lead_share"] for one in rows)
        return f"{name}, {stage}", str(len(rows)), f"{lead:.3f}", verdict, f"{100 * idle:.0f} %", told

    found = _nsight()
    each = Counter(_agrees(one["verdict"], one["idle_share"]) for one in found.rows)
    told = (
        f"Span by span, {each[True]} of {each[True] + each[False]} verdicts agree; {each[None]} spans were mixed.\n\n"
    )
    lines = [row(name, stage) for name in found.verdicts for stage in nsight_reference.STAGES]
    return told + table(("", "Spans", "Lead share, p50", "Verdict", "GPU idle, p50", "Agrees"), lines)


def audited() -> str:
    def row(one: Mapping[str, Any]) -> tuple[str, ...]:
        stages = ", ".join(f"`{stage}` {count:.0f}" for stage, count in one["by_stage"].items())
        return one["shape"], one["transformers"], f"{one['per_generation']:.0f}", str(one["nsight"]["generate"]), stages

    head = ("Shape", "transformers", "Waits seen, per generation", "In a Nsight export", "By stage")
    return table(head, map(row, _results("sync-audit.jsonl")))


def long_decode() -> str:
    """Minute by minute: the lower edge of the lead, a step, and the memory at the last reading in it."""
    made = json.loads((DATA / "long-decode.json").read_text())
    generations, steps, clocks = made["generations"], made["steps"], made["clocks"]

    def row(minute: str, edge: float) -> Iterator[str]:
        yield str(int(minute) + 1)
        yield f"{edge:.1f}"
        yield f"{made['step_p50_ms_by_minute'][minute]:.1f}"
        memory = [
            one for one in made["memory"] if one["seconds"] - made["memory"][0]["seconds"] < 60 * (int(minute) + 1)
        ]
        yield f"{memory[-1]['rss_mb']:,.0f}"
        yield f"{memory[-1]['allocated_mb']:,.0f}"

    told = (
        f"{generations} generations, {steps:,} steps in {made['seconds']:.0f} s. The lower edge of the lead moved by "
        f"{made['lead_p1_spread_us']:.1f} µs; bounds were ± {clocks[0]['bound_us']:.1f} µs in the first generation and "
        f"± {clocks[-1]['bound_us']:.1f} µs in the last, ± {max(one['bound_us'] for one in clocks):.1f} µs at most.\n\n"
    )
    head = ("Minute", "Lead, 1st percentile, µs", "Step, median, ms", "Process, MB", "Allocated on the GPU, MB")
    return told + table(head, (row(*one) for one in made["lead_p1_us_by_minute"].items()))


def pairing() -> str:
    ways = {
        "eager": "eager",
        "nodes": "a static cache, `--cuda-graph-trace=node`",
        "graphs": "a static cache, whole graphs",
    }

    def row(one: Mapping[str, Any]) -> Iterator[str]:
        yield ways[one["report"]["name"].removesuffix(".sqlite")]
        for stage in ("vision", "prefill", "decode.step", "between"):
            told = one["vlmtrace"][stage]
            yield f"{told:,}" if told == one["sql"][stage] else f"{told:,} (SQL: {one['sql'][stage]:,})"
        yield f"{sum(one['unattributed'].values()):,}"
        yield f"{one['kernels']:,}"
        yield f"{one['report']['clock_bound_ms'] * 1000:.1f}"

    head = (
        "Decoding",
        "Vision",
        "Prefill",
        "Steps",
        "Between",
        "In none",
        "All kernels of the report",
        "Clock bound, µs",
    )
    return table(head, map(row, _results("pairing.jsonl", LATER)))


def graph_captures() -> str:
    modes = {"static": "a static cache, compiled by transformers", "forward": "`model.forward` compiled by its user"}

    def row(one: Mapping[str, Any]) -> Iterator[str]:
        yield one["shape"]
        yield modes[one["mode"]] + (", by a caller that keeps its last answer" if one.get("keep") else "")
        yield str(len(one["traced"]))
        for key in ("launched", "captured"):
            yield f"{one[key]['untraced']:,} / {one[key]['traced']:,}"

    head = ("Shape", "Mode", "Generations, each", "Graphs launched, untraced / traced", "Captured anew")
    found = (one for folder in (DATA, LATER) for one in _results("graph-captures.jsonl", folder))
    return table(head, map(row, found))


def step_times() -> str:
    modes = {"eager": "eager", "static": "static cache, compiled", "forward": "`model.forward` compiled"}

    def row(day: str, one: Mapping[str, Any]) -> Iterator[str]:
        low, high = one["interval_percent"]
        yield one["shape"]
        yield modes[one["mode"]]
        yield day
        yield f"{one['step_p50_ms']:.2f}"
        yield f"{one['untraced_ms_per_token']:.2f}"
        yield f"{one['traced_ms_per_token']:.2f}"
        yield f"{one['added_percent']:+.1f} [{low:+.1f}, {high:+.1f}]"

    head = ("Shape", "Decoding", "Day", "Step, p50, ms", "Untraced, ms/token", "Traced, ms/token", "Added, % [95 %]")
    found = [
        (folder.name.removeprefix("h100-"), one) for folder in (DATA, LATER) for one in _results("steps.jsonl", folder)
    ]
    found.sort(key=lambda one: (one[1]["shape"], list(modes).index(one[1]["mode"]), one[0]))
    return table(head, (row(*one) for one in found))


def floor() -> str:
    """Without and with a tool that takes NVTX, side by side."""
    alone, beside = _results("floor.jsonl", H200)
    if alone["tool_attached"] or not beside["tool_attached"]:
        raise ValueError("floor.jsonl holds a run without a tool, then one with it")

    def row(name: str, title: str, digits: int = 0) -> tuple[str, ...]:
        cells = ([*one["floor"][name]] for one in (alone, beside))
        return title, *(f"{middle:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]" for middle, low, high in cells)

    rows = [row(name, f"{title}, ns") for name, title in overhead_floor.ROWS.items() if name in alone["floor"]]
    rows += [row(name, title, 2) for name, title in overhead_floor.RATIOS.items()]
    memory = [f"{one['bytes_per_event']['host_recorded']:.0f}" for one in (alone, beside)]
    rows.append(("one event, bytes of host memory", *memory))
    return table(("", "Alone [95 %]", "Under Nsight Systems [95 %]"), rows)


def overhead() -> str:
    return "\n".join(overhead_report.tables(overhead_report.read(H200 / "overhead.jsonl"))).strip()


def overhead_in_short() -> str:
    """The 7B shape, and the floor."""
    rows = overhead_report.results(overhead_report.read(H200 / "overhead.jsonl"))
    found = {(one["mode"], one["way"]): one for one in rows if one["shape"] == "qwen2.5-vl-7b"}

    def counted(mode: str, way: str) -> str:
        return f"{found[mode, way]['counted_percent']:.2f} %"

    def added(way: str, mode: str = "eager") -> str:
        return overhead_report.told(found[mode, way]["added_percent"]).replace(" [", " % [")

    alone, _ = _results("floor.jsonl", H200)
    shown = [found["eager", way] for way in ("stage", "layer", "events-layer", "profiler", "nsys")]
    ranges = {one["way"]: one["pairs"] for one in shown if one["pairs"] < overhead_report.FEW}
    few = f", of {' and '.join(ranges)} the range of {min(ranges.values())} pairs" if ranges else ""
    looked_at = _results("prices.jsonl", H200)
    marks = [one["mark_mean_ns"] / one["price_mark_ns"] for one in looked_at]
    outside = [one["outside_median_ns"] / 1e6 for one in looked_at]
    return "\n".join(
        (
            f"- At `stage` detail vlmtrace counted {counted('eager', 'stage')} of an eager `generate()` and "
            f"{counted('compiled', 'stage')} of a compiled one; at `layer` {counted('eager', 'layer')} of the eager "
            "one. Read it as an order of magnitude: "
            f"in a model marks took {min(marks):.1f} to {max(marks):.1f} times what they are counted as, in the mean, "
            f"and attaching before and reading after took {min(outside):.1f} to {max(outside):.1f} ms of a call.",
            f"- Added to the eager call, as pairs of neighbouring runs tell: vlmtrace at `stage` {added('stage')}, at "
            f"`layer` {added('layer')}, `Event.record()` hooks on the same modules {added('events-layer')}, "
            f"torch.profiler {added('profiler')}, Nsight Systems {added('nsys')}. In brackets the 95 % interval{few}; "
            "one that holds 0 shows neither a cost nor a gain. Each has its own runs beside it, of "
            f"{min(one['off_ms'] for one in shown):.0f} to {max(one['off_ms'] for one in shown):.0f} ms. To the "
            f"compiled call vlmtrace added {added('stage', 'compiled')} at `stage`.",
            f"- A traced stage takes {alone['floor']['ratio'][0]:.2f} of the time of two forward hooks that do as much "
            "and keep nothing: it is wrapped, not hooked.",
        )
    )


def prices() -> str:
    """What a mark was counted as, beside what each took, and both as shares of ``generate``."""

    def row(one: Mapping[str, Any]) -> Iterator[str]:
        yield f"{one['shape']}, {one['mode']}"
        yield str(one["marks"])
        for key in ("price_mark", "mark_median", "mark_mean", "price_token", "between_tokens_median"):
            yield f"{one[f'{key}_ns'] / 1000:.1f}"
        yield f"{one['generate_ms']:.0f}"
        for key in ("counted_share", "took_share"):
            yield f"{100 * one[key]:.2f} %"
        yield f"{one['outside_median_ns'] / 1e6:.1f}"

    head = (
        "",
        "Marks",
        "Price of a mark, µs",
        "Each mark, median",
        "mean",
        "Price of a token, µs",
        "Between tokens alone",
        "`generate`, ms",
        "Counted",
        "Took",
        "Outside, ms",
    )
    return table(head, map(row, _results("prices.jsonl", H200)))


SECTIONS: Final[Mapping[str, Callable[[], str]]] = {
    "floor": floor,
    "overhead-ways": overhead,
    "overhead-in-short": overhead_in_short,
    "prices": prices,
    "pairing": pairing,
    "step-times": step_times,
    "graph-captures": graph_captures,
    "clock-runs": clock_runs,
    "syncs": syncs,
    "study": study,
    "study-in-short": study_in_short,
    "nsight": nsight,
    "verdict-scores": verdict_scores,
    "sync-audit": audited,
    "long-decode": long_decode,
}

"""What scripts/overhead.py measured, as numbers with intervals, Markdown tables, JSON and a plot."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from overhead_ways import WAYS

Interval = tuple[float, float, float]
"""A median and the ends of its interval."""

RESAMPLES = 2000


def median_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """The median and its 95 % percentile-bootstrap interval, the same for the same values.

    Raises:
        ValueError: where there are none.
    """
    if not values:
        raise ValueError("no values, no median")
    rng = random.Random(seed)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return statistics.median(values), medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1]


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; one line on stderr and exit status 1 where a line is none."""
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            sys.exit(f"{path}, line {number} is not a whole row: take it out")
    return rows


def pairs(row: dict[str, Any]) -> list[tuple[float, float]]:
    """The two (off, on) neighbours of a row off, way, way, off, in ms."""
    return [(off["ms"], on["ms"]) for off, on in zip(row["off"], row["on"], strict=True)]


def results(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One result for each shape, mode and way, in the order of the tables; times in ms, shares in percent."""
    groups: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        groups.setdefault((row["shape"], row["mode"]), {}).setdefault(row["way"], []).append(row)
    return [
        {"shape": shape, "mode": mode, "way": way, **scored(ways[way])}
        for (shape, mode), ways in groups.items()
        for way in WAYS
        if any("off" in row for row in ways.get(way, ()))
    ]


def scored(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One way in one shape and mode. ``None`` is what it does not have, or nobody counted."""
    both = [pair for row in rows if "off" in row for pair in pairs(row)]
    on = [visit for row in rows for visit in row.get("on", ())]
    wrote = [one for one in (*rows, *on) if "bytes" in one]
    clean = [ms for row in rows for ms in row.get("clean", ())]
    off = statistics.median(before for before, _ in both)
    return {
        "pairs": len(both),
        "off_ms": off,
        "added_ms": median_interval([after - before for before, after in both]),
        "added_percent": median_interval([100 * (after / before - 1) for before, after in both]),
        "waits": _median(visit["waits"] for visit in on),
        "counted_ms": _median(visit.get("counted_ms") for visit in on),
        "counted_percent": _median(_share(visit) for visit in on),
        "bytes": _median(one["bytes"] for one in wrote),
        "bytes_of_generations": _median(one.get("generations", 1) for one in wrote),
        "readable_s": _median(one["readable_s"] for one in wrote),
        "left_behind_percent": 100 * (off / statistics.median(clean) - 1) if clean else None,
        "compiled": sum(visit["compiled"] > 0 for row in rows for visit in (*row.get("off", ()), *row.get("on", ()))),
    }


def _share(visit: dict[str, Any]) -> float | None:
    return 100 * visit["counted_ms"] / visit["inside_ms"] if "counted_ms" in visit else None


def _median(values: Iterable[float | None]) -> float | None:
    found = list(values)
    known = [value for value in found if value is not None]
    return statistics.median(known) if known and len(known) == len(found) else None


def tables(rows: list[dict[str, Any]]) -> list[str]:
    """A Markdown table for each shape and mode, and below it what is worth saying about its rows."""
    lines: list[str] = []
    every = results(rows)
    for key in dict.fromkeys((one["shape"], one["mode"]) for one in every):
        own = [one for one in every if (one["shape"], one["mode"]) == key]
        lines += [*_heading(rows, own), *_table(own), "", *_notes(own)]
    return lines


def _heading(rows: list[dict[str, Any]], own: list[dict[str, Any]]) -> list[str]:
    shape, mode = own[0]["shape"], own[0]["mode"]
    of_it = [row for row in rows if (row["shape"], row["mode"]) == (shape, mode)]
    first = of_it[0]
    off = statistics.median(visit["ms"] for row in of_it for visit in row.get("off", ()))
    days = sorted({row["date"] for row in of_it})
    dates = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return [
        f"**{shape}, {mode}**: one `generate()` of {first['new']} tokens takes {off:,.1f} ms with nothing added "
        f"(median).",
        "",
        f"Random weights, {first['dtype']}, greedy · {first['gpu']} · Python {first['python']} · "
        f"torch {first['torch']} · transformers {first['transformers']} · {dates}",
        "",
    ]


def _table(own: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| Way | Added, % [95 %] | Added, ms [95 %] | Without, ms | Pairs | Added waits | Its own count | Trace | "
        "Readable after |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in own:
        count = "-" if one["counted_percent"] is None else f"{one['counted_percent']:.3f} %"
        waits = "-" if one["waits"] is None else f"{one['waits']:g}"
        readable = "-" if one["readable_s"] is None else f"{one['readable_s']:.2f} s"
        lines.append(
            f"| {WAYS[one['way']].title} | {told(one['added_percent'])} | {told(one['added_ms'])} "
            f"| {one['off_ms']:,.0f} | {one['pairs']} | {waits} | {count} | {_size(one)} | {readable} |"
        )
    return lines


FEW = 6
"""Of fewer pairs the bootstrap's interval is their range, which holds the median less often than 95 %."""

LIMITS = {"eager": 1.0, "compiled": 2.0}
"""Percent that vlmtrace's interval at stage detail is to stay below."""


def _unresolved(mode: str, one: dict[str, Any]) -> str | None:
    """Whether vlmtrace's interval is too wide to say that a limit is kept, and how many pairs would tell.

    They tell where the interval has become so narrow that it leaves the limit out, if its middle stays. A middle close
    to the limit would take any number of them: then how many would narrow it to a quarter of the limit.
    """
    from vlmtrace.analysis.overhead import pairs_to_reach

    middle, low, high = one["added_percent"]
    limit = LIMITS[mode]
    if high <= limit:
        return None
    if low > limit:
        return f"- {WAYS[one['way']].title}: adds more than {limit:g} %."
    wanted = max(abs(limit - middle), limit / 4)
    needed = pairs_to_reach(wanted, one["pairs"], (high - low) / 2)
    return (
        f"- {WAYS[one['way']].title}: unresolved, its interval holds {limit:g} %. About {needed:,} pairs "
        f"would narrow it to ± {wanted:.2g} %; the noise of this comparison is that of the first row."
    )


def told(interval: Interval) -> str:
    """``+1.1 [-0.5, +3.6]``."""
    middle, low, high = interval
    digits = 0 if abs(middle) >= 100 else 1 if abs(middle) >= 10 else 2
    return f"{middle:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _size(one: dict[str, Any]) -> str:
    size, generations = one["bytes"], one["bytes_of_generations"]
    if size is None:
        return "-"
    text = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
    return text if generations == 1 else f"{text} for {generations:.0f}"


def _notes(own: list[dict[str, Any]]) -> list[str]:
    by_way = {one["way"]: one for one in own}
    lines = []
    if "stage" in by_way and (unresolved := _unresolved(own[0]["mode"], by_way["stage"])) is not None:
        lines.append(unresolved)
    if "stage" in by_way and "profiler" in by_way and by_way["stage"]["counted_ms"]:
        counted, low = by_way["stage"]["counted_ms"], by_way["profiler"]["added_ms"][1]
        if low > 0:
            told = f"added at least {low:.1f} ms (the lower end): vlmtrace counted 1/{low / counted:.0f} of that."
        else:
            told = "added an interval that reaches zero: no factor between the two can be told."
        lines.append(
            f"- vlmtrace counted {counted:.3f} ms of its own at stage detail. torch.profiler (CPU + CUDA) {told}"
        )
    few = sorted({one["pairs"] for one in own if one["pairs"] < FEW})
    lines += [
        f"- Of {pairs} pairs an interval is the smallest and the largest difference: "
        f"{100 * (1 - 2 ** (1 - pairs)):.1f} % of such intervals hold the median."
        for pairs in few
    ]
    for one in own:
        title = WAYS[one["way"]].title
        if one["left_behind_percent"] is not None:
            lines.append(
                f"- {title}: its `off` runs, between its own, take {one['left_behind_percent']:+.1f} % against those "
                "before it was first started in the process."
            )
        if one["compiled"]:
            lines.append(f"- {title}: torch compiled during {one['compiled']} of its timed runs; do not trust the row.")
    return [*lines, ""] if lines else []


def report(options: argparse.Namespace) -> int:
    path = Path(options.data)
    rows = read(path) if path.exists() else []
    if not rows:
        print(f"{path} holds no results: scripts/overhead.py run --out {path}")
        return 1
    print("\n".join(tables(rows)).rstrip())
    if options.json is not None:
        Path(options.json).write_text(json.dumps(results(rows), indent=1) + "\n")
    if options.plot is not None:
        plot(results(rows), Path(options.plot))
    return 0


def colour(way: str) -> str:
    """vlmtrace, what people write by hand, profilers, and what nothing costs."""
    if way in ("stage", "module", "layer"):
        return "#2471a3"
    if way in ("again", "process"):
        return "#888888"
    return "#c0392b" if way.startswith(("profiler", "nsys", "emit")) else "#d68910"


def plot(every: list[dict[str, Any]], path: Path) -> None:
    """One panel for each shape and mode: a point and its interval for each way, percent added, on one axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    keys = list(dict.fromkeys((one["shape"], one["mode"]) for one in every))
    ways = [way for way in WAYS if any(one["way"] == way for one in every)]
    width, height = min(2, len(keys)), (len(keys) + 1) // 2
    size = (2.6 + 4.4 * width, height * (1.4 + 0.3 * len(ways)) + 0.4)
    figure, panels = pyplot.subplots(height, width, figsize=size, sharex=True, squeeze=False, layout="constrained")
    for axes, key in zip(panels.flat, keys, strict=False):
        for one in every:
            if (one["shape"], one["mode"]) == key:
                middle, low, high = one["added_percent"]
                row, own = ways.index(one["way"]), colour(one["way"])
                axes.plot([low, high], [row, row], color=own, linewidth=3, alpha=0.45, solid_capstyle="butt")
                axes.plot(middle, row, "o", color=own, markersize=5)
                axes.annotate(f"{middle:+z.1f} %", (1.01, row), xycoords=("axes fraction", "data"), va="center", size=8)
        axes.axvline(0, color="#444444", linewidth=0.8)
        # Linear between ± 1 %, where most of it is noise; powers of ten beyond.
        axes.set_xscale("symlog", linthresh=1, linscale=0.8)
        axes.set_yticks(range(len(ways)), [WAYS[way].title for way in ways], size=8)
        axes.set_ylim(len(ways) - 0.5, -0.5)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:+g} %" if value else "0")
        axes.tick_params(axis="x", labelsize=8)
        axes.set_title(f"{key[0]}, {key[1]}", size=10)
    for axes in panels[:, 1:].flat:
        axes.tick_params(labelleft=False)
    for axes in panels.flat[len(keys) :]:
        axes.set_visible(False)
    figure.suptitle("How much longer one generate() takes (median, 95 % interval; grey rows show the noise)", size=11)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)

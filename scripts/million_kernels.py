#!/usr/bin/env python3
"""A million kernels: how long pairing a trace with a report of Nsight Systems takes, and in how much memory.

    scripts/million_kernels.py                                   10,000, 100,000 and 1,000,000 kernels
    scripts/million_kernels.py --sizes 20000 --json kernels.json

No model runs. A report is made up, in the schema of nsys 2025.3, and the trace that vlmtrace would have written beside
it: generations of an image of 1,000 kernels, a prefill of 1,200 and steps of 1,200, each launched by a call of its own
as eager decoding does, beside another call to the driver, until there are as many kernels as asked for. `--layers` lays
ranges of layers too.

Each size is run in processes of its own: one that makes the files, one that pairs, summarises and writes what came of
it, and one that only loads that. Peaks are the largest resident set of a process. Times are elapsed ones, those of the
processor beside them: on a machine that does other things they differ.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from million_spans import Spent, machine, peak_mb

sys.path.insert(0, str(Path(__file__).parents[1]))

SIZES = (10_000, 100_000, 1_000_000)
ENCODER, FORWARD, STEPS = 1_000, 1_200, 31
OFFSET_NS = 7_000_000_000_000
PHASES = ("pair", "summarise", "save")
MB = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="KERNELS")
    parser.add_argument("--layers", type=int, default=0, help="ranges of layers in every forward pass")
    parser.add_argument("--json", metavar="OUT", help="keep the figures as they were measured")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        print(json.dumps(PARTS[options.part](options)))
        return
    rows = []
    for size in options.sizes:
        print(f"{size:,} kernels …", file=sys.stderr)
        rows.append(measured(size, options))
    if options.json:
        made = {"machine": machine(), "layers": options.layers, "rows": rows}
        Path(options.json).write_text(json.dumps(made, indent=1) + "\n")
    print(table(rows))


def measured(size: int, options: argparse.Namespace) -> dict[str, Any]:
    """One size through all of its processes."""
    row: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in PARTS:
            command = [sys.executable, __file__, "--part", part, "--sizes", str(size), "--folder", folder]
            command += ["--layers", str(options.layers)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            row |= json.loads(done.stdout)
    return row


def paired(trace: Path, report: Path) -> Any:
    """The recording of a trace with the kernels of a report in it: what is measured here."""
    import vlmtrace

    return vlmtrace.pair(trace, report)


def make_part(options: argparse.Namespace) -> dict[str, Any]:
    """The report and its trace."""
    import vlmtrace
    from tests.nsight.exports import Export, Launches, Plan, generation, matching_recording, recorded

    (size,) = options.sizes
    spent = Spent()
    report = options.folder / "report.sqlite"
    forward, launched = Launches(FORWARD), 0
    with spent.on("make"):
        with Export(report) as export:
            thread = export.process().thread(at=1_000_000)
            with recorded(thread):
                while launched < size:
                    forwards = -(-(size - launched - ENCODER) // FORWARD)
                    plan = Plan(
                        steps=min(STEPS, max(1, forwards - 1)),
                        encoder=Launches(ENCODER),
                        prefill=forward,
                        step=forward,
                        syncs="token",
                        asides=1,
                        layers=options.layers,
                    )
                    launched += generation(thread, plan).work("generate").kernels
        recording = matching_recording(export, OFFSET_NS)
        vlmtrace.save(recording, options.folder / "trace.pftrace")
    return {
        "kernels": launched,
        "calls": export.rows["CUPTI_ACTIVITY_KIND_RUNTIME"],
        "ranges": export.rows["NVTX_EVENTS"],
        "spans": len(recording.spans),
        "report_bytes": report.stat().st_size,
        "make_seconds": spent.seconds["make"],
    }


def pair_part(options: argparse.Namespace) -> dict[str, Any]:
    """Pair, summarise and write; then, peaks noted, compare what was written with what was paired."""
    import vlmtrace
    from vlmtrace.analysis.summary import summarise

    at_start = peak_mb()
    spent, peaks = Spent(), {}
    with spent.on("pair"):
        recording = paired(options.folder / "trace.pftrace", options.folder / "report.sqlite")
    peaks["pair"] = peak_mb()
    with spent.on("summarise"):
        summarise(recording)
    peaks["summarise"] = peak_mb()
    written = options.folder / "paired.pftrace"
    with spent.on("save"):
        vlmtrace.save(recording, written)
    peaks["save"] = peak_mb()
    return {
        "seconds": spent.seconds,
        "processor_seconds": spent.processor_seconds,
        "start_mb": at_start,
        "peak_mb_after": peaks,
        "pair_peak_mb": peaks["save"],
        "file_bytes": written.stat().st_size,
        "same_when_loaded": vlmtrace.load(written) == recording,
    }


def load_part(options: argparse.Namespace) -> dict[str, Any]:
    """Only load, in a process that never saw the recording."""
    import vlmtrace

    spent = Spent()
    with spent.on("load"):
        vlmtrace.load(options.folder / "paired.pftrace")
    return {
        "load_seconds": spent.seconds["load"],
        "load_processor_seconds": spent.processor_seconds["load"],
        "load_peak_mb": peak_mb(),
    }


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "make": make_part,
    "pair": pair_part,
    "load": load_part,
}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for each size. Seconds by phase (elapsed; the sum of them also on the processor), MB, bytes."""
    heads = ["Kernels", "Ranges", "Report MB", *(phase.capitalize() for phase in PHASES), "Sum", "Sum, processor"]
    heads += ["Peak MB", "Load", "Peak MB", "Bytes by kernel on disk", "Same when loaded"]
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---:" for _ in heads) + " |"]
    for row in rows:
        seconds, used = row["seconds"], row["processor_seconds"]
        times = [*(seconds[phase] for phase in PHASES), sum(seconds.values()), sum(used.values())]
        cells = [f"{row['kernels']:,}", f"{row['ranges']:,}", f"{row['report_bytes'] / MB:.0f}"]
        cells += [*(f"{one:.2f}" for one in times), f"{row['pair_peak_mb']:.0f}"]
        cells += [f"{row['load_seconds']:.2f}", f"{row['load_peak_mb']:.0f}"]
        cells += [f"{row['file_bytes'] / row['kernels']:.0f}", "yes" if row["same_when_loaded"] else "NO"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

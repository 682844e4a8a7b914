#!/usr/bin/env python3
"""What each way of looking at a VLM costs: the same generate() with and without, one beside the other.

    scripts/overhead.py run --out overhead.jsonl [--shapes ...] [--modes eager compiled] [--ways ...] [--pairs 20]
                            [--more stage=100 ...] [--nsys PATH --importer PATH --libraries PATH]
                                                                                     on a machine with a GPU
    scripts/overhead.py report overhead.jsonl [--json OUT] [--plot PNG]              anywhere
    scripts/overhead.py floor [--out floor.jsonl]                                    what a traced stage cannot go below

Neighbouring runs differ by more than most ways cost. So each run of a way has a run of nothing beside it, in the order
off, way, way, off, and what counts is the difference of neighbours: a drift enters once with each sign. The ways take
turns, shuffled in each round; the last `off` of one is the first of the next.

Fair to all: a way is entered before each of its timed generations and left after it. Entering and leaving are not
timed. The first generation inside is a short one, with one token, and is not timed either: it takes what a session pays
once, and wakes the device. What is timed is the call of generate() as its caller sees it, between two device syncs:
whatever a way does within that call counts, vlmtrace's attaching to the model and its one wait included.

Ways with hooks take turns in one process. A profiler slows its process for good and two clients of CUPTI do not get
along, so each profiler has a process of its own, whose `off` runs are its base; some more of them, from before it was
ever started, show what it leaves behind. Nsight Systems is around a process: the runs then take turns between two
processes that live side by side, one under it, one not. Such a pair differs by itself: so does a third process, plain.

One line of JSON for each off, way, way, off. A run goes on where the file ends.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import overhead_floor
import overhead_report
from overhead_bench import WARMUPS, Configuration, serve
from overhead_processes import Nsys, Processes, WorkerError
from overhead_ways import HOOKS, PROCESSES, WAYS

CLEAN = 4
"""Runs of a process before a profiler is first started in it."""

TRACES = 2
"""How many off, way, way, off of each way write their trace too: it may take long, and is not what is timed."""

START_S, END_S = 60, 60
"""On a GPU: time that a process takes to start, and Nsight's report to be made. What cannot end is not begun."""


SAME = ("device", "new", "side", "gpu", "python", "torch", "transformers")
"""What all rows of one file have in common."""


class TimeUpError(Exception):
    """The seconds are spent; what is missing is for the next run."""


@dataclass
class Study:
    """The rows so far and what is left to do, shape by shape, mode by mode, block by block."""

    out: Path
    quads: dict[str, int]
    until: float
    nsys: Nsys | None
    rows: list[dict[str, Any]]
    progress: Any
    task: Any = None
    problems: list[str] = field(default_factory=list)

    def missing(self, configuration: Configuration, way: str) -> int:
        """How many off, way, way, off are left of a way; Nsight's needs one more where its report was never made."""
        done = [row for row in self.rows if self._is_of(row, configuration) and row["way"] == way]
        pairs = sum("off" in row for row in done)
        unreported = way == "nsys" and not any("bytes" in row for row in done)
        return max(self.quads[way] - pairs, int(unreported), 0)

    @staticmethod
    def _is_of(row: dict[str, Any], configuration: Configuration) -> bool:
        return (row["shape"], row["mode"]) == (configuration.shape, configuration.mode)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        with self.out.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def check_time(self, spare: float = 0) -> None:
        if time.monotonic() + spare > self.until:
            raise TimeUpError

    def begin(self, configuration: Configuration, block: str, ways: list[str]) -> float:
        """Before the processes of a block are started; the seconds that its end will need.

        Raises:
            TimeUpError: they are not left.
        """
        self._check_same(asdict(configuration))
        on_gpu = configuration.device.startswith("cuda")
        spare = END_S if on_gpu and "nsys" in ways else 0
        self.check_time(spare + (START_S if on_gpu else 0))
        self.progress.update(self.task, description=f"{configuration.shape}, {configuration.mode}: {block}")
        return spare

    def block(self, configuration: Configuration, block: str, ways: list[str], spare: float, run: Processes) -> None:
        """Visit the processes of a block until nothing is missing of its ways."""
        machine = run.ready()
        self._check_same(machine)
        clean = [run.base.visit("off")["ms"] for _ in range(CLEAN)] if block not in (HOOKS, PROCESSES) else None
        try:
            for row in self._interleaved(configuration, run, ways, spare):
                self.add(row | ({} if clean is None else {"clean": clean}) | machine)
                self.progress.advance(self.task)
        except TimeUpError:
            self._end_nsys(run, machine)
            raise
        self._end_nsys(run, machine)

    def _interleaved(
        self, configuration: Configuration, run: Processes, ways: list[str], spare: float
    ) -> Iterator[dict[str, Any]]:
        """Rows off, way, way, off, in rounds; where a way has a process of its own, that one does nothing but run."""
        left = {way: self.missing(configuration, way) for way in ways}
        order = random.Random(len(self.rows))
        process = f"{os.getpid()}-{time.time_ns()}"
        after = None
        while any(left.values()):
            turn = [way for way, missing in left.items() if missing]
            order.shuffle(turn)
            for way in turn:
                self.check_time(spare)
                number = self.quads[way] - left[way]
                worker, asked = (run.others[way], "off") if way in run.others else (run.base, way)
                before = after or run.base.visit("off")
                on = [worker.visit(asked, write=number < TRACES) for _ in range(2)]
                after = run.base.visit("off")
                left[way] -= 1
                yield {"way": way, "process": process, "off": [before, after], "on": on}

    def _check_same(self, machine: dict[str, Any]) -> None:
        for begun in self.rows[:1]:
            for key in SAME:
                here = machine.get(key, begun[key])
                if here != begun[key]:
                    sys.exit(f"{self.out} was begun with {key} {begun[key]}, here it is {here}: give another --out")

    def _end_nsys(self, run: Processes, machine: dict[str, Any]) -> None:
        """What a person waits for once the program has ended: Nsight's own end, and its report."""
        worker = run.others.get("nsys")
        if worker is None or self.nsys is None or not worker.visits:
            return
        begin = time.monotonic()
        worker.close()
        made = self.nsys.report(run.prefix)
        told = {"way": "nsys", "generations": worker.visits + WARMUPS, "bytes": made.stat().st_size}
        self.add(told | {"readable_s": time.monotonic() - begin} | machine)


def run(options: argparse.Namespace) -> int:
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

    out = Path(options.out)
    nsys = None if options.nsys is None else Nsys(options.nsys, options.importer, options.libraries)
    rows = overhead_report.read(out) if out.exists() else []
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        quads = {way: (dict(options.more).get(way, options.pairs) + 1) // 2 for way in WAYS}
        study = Study(out, quads, time.monotonic() + options.seconds, nsys, rows, progress)
        ways, left_out = possible(options)
        plans = [
            (Configuration(shape, mode, options.device, options.new, options.side), ways)
            for shape in options.shapes
            for mode in options.modes
        ]
        left = sum(study.missing(configuration, way) for configuration, ways in plans for way in ways)
        study.task = progress.add_task("starting", total=left)
        try:
            for configuration, ways in plans:
                run_blocks(study, configuration, ways, together=options.together)
            ended = "nothing is missing"
        except TimeUpError:
            ended = f"stopped after {options.seconds:g} s: run it again to go on"
    for line in (*left_out, *study.problems, ended):
        print(line)
    return int(bool(study.problems))


def run_blocks(study: Study, configuration: Configuration, ways: list[str], *, together: bool) -> None:
    """All blocks of one shape and mode; one that fails is told at the end, and the next one has its turn.

    ``together``: the first one's base is started, and finds out what the others then find in the compiler's caches;
    then all others at once.
    """
    blocks: dict[str, list[str]] = {}
    for way in ways:
        if study.missing(configuration, way):
            blocks.setdefault(WAYS[way].block, []).append(way)
    begun: dict[str, Processes] = {}
    with ExitStack() as all_blocks:
        for block, own in blocks.items() if together else ():
            study.begin(configuration, "starting", own)
            with suppress(WorkerError):  # it will be told when the block has its turn
                begun[block] = all_blocks.enter_context(Processes.started(configuration, own, study.nsys))
                if len(begun) == 1:
                    begun[block].base.ready()
        for block, own in blocks.items():
            try:
                spare = study.begin(configuration, block, own)
                with ExitStack() as alone:
                    started = begun.get(block)
                    if started is None:
                        started = alone.enter_context(Processes.started(configuration, own, study.nsys))
                    study.block(configuration, block, own, spare, started)
            except WorkerError as error:
                study.problems.append(f"{configuration.shape}, {configuration.mode}, {block}: failed\n{error}")


def possible(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The ways that can be had here, in order, and one line for each that cannot."""
    ways, left_out = [], []
    for way, kind in WAYS.items():
        if way == "off" or way not in options.ways:
            continue
        if way == "nsys" and options.nsys is None:
            left_out.append("nsys is left out: give --nsys PATH")
        elif kind.needs_gpu and not options.device.startswith("cuda"):
            left_out.append(f"{way} is left out: it needs a GPU")
        else:
            ways.append(way)
    return ways, left_out


def more_pairs(text: str) -> tuple[str, int]:
    """``way=pairs`` as it is typed."""
    way, _, pairs = text.partition("=")
    if way not in WAYS or way == "off" or not pairs.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not WAY=PAIRS: give, say, stage=100")
    return way, int(pairs)


def serve_bench(options: argparse.Namespace) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(options.address)
        serve(connection.makefile("rw"), Configuration(**json.loads(options.configuration)))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="run | report | floor")
    command = commands.add_parser("run", help="measure what is missing in --out")
    known = [way for way in WAYS if way != "off"]
    command.add_argument("--out", required=True, help="a .jsonl file, gone on with where it exists")
    command.add_argument("--shapes", nargs="+", default=["qwen2.5-vl-7b", "qwen2.5-vl-0.5b"])
    command.add_argument("--modes", nargs="+", choices=("eager", "compiled"), default=["eager", "compiled"])
    command.add_argument("--ways", nargs="+", choices=known, metavar="WAY", default=known, help=", ".join(known))
    command.add_argument("--pairs", type=int, default=20, help="of each way, shape and mode")
    command.add_argument(
        "--more", nargs="+", type=more_pairs, metavar="WAY=PAIRS", default=[], help="other numbers of pairs, of these"
    )
    command.add_argument("--seconds", type=float, default=540, help="begin nothing after so long")
    command.add_argument("--device", default="cuda")
    command.add_argument("--new", type=int, default=32, help="new tokens of each generation")
    command.add_argument("--side", type=int, default=23, help="visual tokens along the picture's side")
    command.add_argument(
        "--together", action="store_true", help="start all processes of a shape and mode at once; they must fit the GPU"
    )
    command.add_argument("--nsys", help="path of nsys; without it Nsight Systems is left out")
    command.add_argument("--importer", help="path of QdstrmImporter, for a nsys that makes no report itself")
    command.add_argument("--libraries", help="folders for the importer's LD_LIBRARY_PATH, beside its own")
    command.set_defaults(run=run)
    command = commands.add_parser("report", help="tables in Markdown, JSON and a plot")
    command.add_argument("data")
    command.add_argument("--json", help="the same numbers as JSON")
    command.add_argument("--plot", help="a picture of the added times; needs matplotlib")
    command.set_defaults(run=overhead_report.report)
    command = commands.add_parser("floor", help="what one traced stage costs, beside what it is made of")
    overhead_floor.add_arguments(command)
    command.set_defaults(run=overhead_floor.main)
    command = commands.add_parser("serve")  # a process of `run`
    command.add_argument("address")
    command.add_argument("configuration")
    command.set_defaults(run=serve_bench)
    options = parser.parse_args()
    return int(options.run(options) or 0)


if __name__ == "__main__":
    sys.exit(main())

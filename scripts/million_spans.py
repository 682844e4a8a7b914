#!/usr/bin/env python3
"""A million spans: how long they take from the first mark to the trace on disk and back, and in how much memory.

    scripts/million_spans.py                                     10,000, 100,000 and 1,000,000 spans
    scripts/million_spans.py --sizes 20000 --json spans.json

No model runs. The boundaries that a 7B vision-language model has at `layer` detail are told to a Recorder's listener in
their order: 32 vision layers, 28 language layers, 32 tokens, 1,063 spans in all, generation after generation until
there are as many spans as asked for. From there on everything is what a recording goes through: marks resolved after
each generation, all composed into a Recording, summarised, written to `.pftrace` and loaded again.

`--clock device` puts a made-up device behind the marks, 20 µs late and 20 ppm fast, so that aligning its clock, arrows
and the counter of the lead are in the figures; the elapsed times then cost what they cost here, not on a GPU.

Each size is run in processes of its own: one that records and writes, one that only loads (it never imports torch), one
under tracemalloc, for the bytes by span that Python holds, and one in which Perfetto's own importer reads the trace and
every slice that it finds is compared with what was recorded (`vlmtrace check`; needs the extra `query`). Peaks are the
largest resident set of a process, torch included. Times are elapsed ones, those of the processor beside them: on a
machine that does other things they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SIZES = (10_000, 100_000, 1_000_000)
VISION_LAYERS, LAYERS, TOKENS = 32, 28, 32
PROMPT, VISUAL = 300, 256
PHASES = ("mark", "resolve", "compose", "summarise", "save")
MB = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="SPANS")
    parser.add_argument("--clock", choices=("host", "device"), default="host")
    parser.add_argument("--one-generation", action="store_true", help="all spans in one generation, a long decode")
    parser.add_argument("--json", metavar="OUT", help="keep the figures as they were measured")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--trace", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        print(json.dumps(PARTS[options.part](options)))
        return
    rows = []
    for size in options.sizes:
        print(f"{size:,} spans …", file=sys.stderr)
        rows.append(measured(size, options))
    if options.json:
        made = {"machine": machine(), "clock": options.clock, "one_generation": options.one_generation, "rows": rows}
        Path(options.json).write_text(json.dumps(made, indent=1) + "\n")
    print(table(rows))


def measured(size: int, options: argparse.Namespace) -> dict[str, Any]:
    """One size through all of its processes."""
    row: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in PARTS:
            command = [sys.executable, __file__, "--part", part, "--sizes", str(size), "--clock", options.clock]
            command += ["--trace", str(Path(folder, "million.pftrace"))]
            command += ["--one-generation"] if options.one_generation else []
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            row |= json.loads(done.stdout)
    return row


def record_part(options: argparse.Namespace) -> dict[str, Any]:
    """Record, compose, summarise and write; then, peaks noted, compare what was written with what was recorded."""
    import vlmtrace
    from vlmtrace.analysis.summary import summarise

    at_start = peak_mb()
    spent = Spent()
    recorder = recorded(options, spent)
    peaks = {"mark": peak_mb()}
    with spent.on("compose"):
        recording = recorder.finish()
    del recorder
    peaks["compose"] = peak_mb()
    with spent.on("summarise"):
        summarise(recording)
    peaks["summarise"] = peak_mb()
    with spent.on("save"):
        vlmtrace.save(recording, options.trace)
    peaks["save"] = peak_mb()
    return {
        "spans": len(recording.spans),
        "generations": len(recording.generations),
        "marks": recording.cost.marks,
        "seconds": spent.seconds,
        "processor_seconds": spent.processor_seconds,
        "start_mb": at_start,
        "peak_mb_after": peaks,
        "record_peak_mb": peaks["save"],
        "file_bytes": options.trace.stat().st_size,
        "same_when_loaded": vlmtrace.load(options.trace) == recording,
    }


def load_part(options: argparse.Namespace) -> dict[str, Any]:
    """Only load, in a process that never saw the recording."""
    import vlmtrace

    spent = Spent()
    with spent.on("load"):
        recording = vlmtrace.load(options.trace)
    return {
        "loaded_spans": len(recording.spans),
        "load_seconds": spent.seconds["load"],
        "load_processor_seconds": spent.processor_seconds["load"],
        "load_peak_mb": peak_mb(),
    }


def memory_part(options: argparse.Namespace) -> dict[str, Any]:
    """Bytes by span that Python holds: of the marks before they are composed, and of the Recording afterwards."""
    import gc
    import tracemalloc

    import vlmtrace.capture.recorder  # noqa: F401  (imported before memory is counted)

    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    recorder = recorded(options, Spent())
    marked = tracemalloc.get_traced_memory()[0] - before
    recording = recorder.finish()
    del recorder
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    spans = len(recording.spans)
    return {"bytes_per_span_marked": marked / spans, "bytes_per_span_recorded": held / spans}


def check_part(options: argparse.Namespace) -> dict[str, Any]:
    """Only have Perfetto's importer read it, and compare all that it finds with what was recorded."""
    import vlmtrace
    from vlmtrace.formats.drawn import Drawn
    from vlmtrace.viewer.checks import checked, counters, is_perfetto
    from vlmtrace.viewer.processor import opened

    spent = Spent()
    with spent.on("import"):
        processor = opened(options.trace)
    with spent.on("compare"):
        drawn = Drawn(vlmtrace.load(options.trace), counters(processor), chrome=not is_perfetto(processor))
        found = list(checked(processor, drawn))
    return {
        "imported_slices": next(one.counted for one in found if one.name == "slices"),
        "problems": [f"{one.name}: {one.problem}" for one in found if one.problem is not None],
        "import_seconds": spent.seconds["import"],
        "compare_seconds": spent.seconds["compare"],
        "check_peak_mb": peak_mb(),
    }


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "record": record_part,
    "load": load_part,
    "memory": memory_part,
    "check": check_part,
}


def recorded(options: argparse.Namespace, spent: Spent) -> Any:
    """A Recorder that was told generations until it has the spans; marking and resolving are timed apart."""
    from vlmtrace.capture.ended import Ended
    from vlmtrace.capture.recorder import Recorder, RecorderOptions
    from vlmtrace.timeline import names
    from vlmtrace.timeline.recording import TIMED, TracedModel

    (size,) = options.sizes
    recorder = Recorder(RecorderOptions("a million spans", "layer"), [])
    stand_in = TracedModel("stand-in", "StandIn", "stand_in", 0, True, "none", options.clock, "none", ())
    recorder.plans.models.append(stand_in)
    recorder.plans.paths.append({})
    device = None if options.clock == "host" else 0
    voice = recorder.lanes.voice(None) if device is None else made_up_voice(recorder)
    generate = names.KIND_OF[names.GENERATE]
    steps = TOKENS - 1
    if options.one_generation:
        steps = -(-(size - spans_of(0)) // (spans_of(2) - spans_of(1)))
    spans = 0
    while spans < size:
        voice.anchor_if_stale()
        first = voice.tape.written
        voice.tape.reserve(2 * spans_of(0))
        ended = Ended(voice, 0, TIMED, device, first, anchors=len(voice.tape.anchors))
        recorder.ended.append(ended)
        with spent.on("mark"):
            voice.listener.mark(generate, -1)
            tell(voice, steps)
            voice.listener.mark(~generate, -1)
        with spent.on("resolve"):
            settle(ended)
        spans += spans_of(steps)
        ended.prompt_tokens, ended.visual_tokens, ended.new_tokens = PROMPT, VISUAL, (steps + 1,)
        ended.inputs = {"batch": 1, "images": 1, "prompt_tokens": PROMPT, "visual_tokens": VISUAL}
        ended.running = False
    return recorder


def spans_of(steps: int) -> int:
    """How many spans come of one `generate()`: itself, vision, prefill, what is named of the rest, tokens, decode."""
    vision, prefill, rest, first_token = 3 + VISION_LAYERS, 2 + LAYERS, 4, 1
    decode = 1 + steps * (2 + LAYERS) + steps - 1 if steps else 0
    return 1 + vision + prefill + rest + first_token + decode + steps


def tell(voice: Any, steps: int) -> None:
    """The boundaries inside one `generate()`, told to the listener; between tokens room is made, as a Recorder does."""
    from vlmtrace.timeline import names
    from vlmtrace.timeline.marks import POINT

    kind, mark = names.KIND_OF, voice.listener.mark
    layer, head, token = kind[names.LAYER], kind[names.LM_HEAD], POINT | kind[names.TOKEN]

    def forward(stage: int, number: int) -> None:
        mark(stage, number)
        for n in range(LAYERS):
            mark(layer, n)
            mark(~layer, -1)
        mark(head, 0)
        mark(~head, -1)
        mark(~stage, -1)

    mark(kind[names.VISION], -1)
    mark(kind[names.ENCODER], 0)
    for n in range(VISION_LAYERS):
        mark(kind[names.VISION_LAYER], n)
        mark(~kind[names.VISION_LAYER], -1)
    mark(~kind[names.ENCODER], -1)
    mark(kind[names.PROJECTOR], 0)
    mark(~kind[names.PROJECTOR], -1)
    mark(~kind[names.VISION], -1)
    forward(kind[names.PREFILL], PROMPT)
    mark(token, PROMPT + 1)
    for step in range(steps):
        voice.tape.reserve(4096)
        forward(kind[names.STEP], step)
        mark(token, PROMPT + 2 + step)


def settle(ended: Any) -> None:
    """What follows the last mark of a generation: the one wait and the anchor of a device, and the elapsed times."""
    voice, tape = ended.voice, ended.voice.tape
    ended.last = tape.written
    if ended.device is None:
        tape.resolve()
        return
    fence = tape.fence()
    after = tape.wait(fence)
    tape.resolve()
    ended.wait = (after, tape.position(fence))
    ended.waits = 1
    voice.anchor()
    ended.anchors = len(tape.anchors)


def made_up_voice(recorder: Any) -> Any:
    """This thread's voice on a device that is made up."""
    from vlmtrace.capture.lanes import Voice
    from vlmtrace.capture.tape import Tape

    tape = Tape(MadeUpClock(), 2048)
    voice = recorder.lanes.here().voices[0] = Voice(tape, None, tape)
    return voice


class MadeUpClock:
    """A device that reaches every event 20 µs after it was recorded; its clock is 20 ppm fast, in float32 ms."""

    path = "made up"
    device = 0

    def __init__(self) -> None:
        self._reached: list[int] = []
        self._pack = struct.Struct("f")
        self.streams = {self.device: self.device}

    def meet(self, stream: int) -> None:
        """There is only one."""

    def create(self, count: int) -> list[int]:
        first = len(self._reached)
        self._reached.extend([0] * count)
        return list(range(first, first + count))

    def destroy(self, events: list[int]) -> None:
        events.clear()

    def stream(self, device: int) -> int:
        return device

    def record(self, event: int, stream: int) -> None:  # noqa: ARG002
        self._reached[event] = time.monotonic_ns() + 20_000

    def wait(self, event: int) -> None:
        while time.monotonic_ns() < self._reached[event]:
            pass

    def elapsed(self, begin: int, ends: Iterable[int]) -> Iterator[float]:
        reached, pack, unpack = self._reached, self._pack.pack, self._pack.unpack
        for end in ends:
            true = (reached[end] - reached[begin]) * (1 + 20e-6)
            yield unpack(pack(true / 1e6))[0]


class Spent:
    """Seconds by phase, elapsed ones and the processor's."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.processor_seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def on(self, phase: str) -> Iterator[None]:
        began, used = time.perf_counter(), time.process_time()
        yield
        self.seconds[phase] += time.perf_counter() - began
        self.processor_seconds[phase] += time.process_time() - used


def peak_mb() -> float:
    """The largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for each size. Seconds by phase (elapsed; the sum of them also on the processor), MB, bytes."""
    heads = ["Spans", *(phase.capitalize() for phase in PHASES), "Sum", "Sum, processor", "Peak MB", "Load", "Peak MB"]
    heads += ["Bytes by span: marked", "recorded", "on disk", "Same when loaded"]
    heads += ["Slices in Perfetto", "Import", "Compare", "Peak MB", "As recorded"]
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---:" for _ in heads) + " |"]
    for row in rows:
        seconds, used = row["seconds"], row["processor_seconds"]
        times = [*(seconds[phase] for phase in PHASES), sum(seconds.values()), sum(used.values())]
        cells = [f"{row['spans']:,}", *(f"{one:.2f}" for one in times), f"{row['record_peak_mb']:.0f}"]
        cells += [f"{row['load_seconds']:.2f}", f"{row['load_peak_mb']:.0f}"]
        cells += [f"{row[key]:.0f}" for key in ("bytes_per_span_marked", "bytes_per_span_recorded")]
        cells += [f"{row['file_bytes'] / row['spans']:.0f}", "yes" if row["same_when_loaded"] else "NO"]
        cells += [f"{row['imported_slices']:,}", f"{row['import_seconds']:.2f}", f"{row['compare_seconds']:.2f}"]
        cells += [f"{row['check_peak_mb']:.0f}", "NO" if row["problems"] else "yes"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

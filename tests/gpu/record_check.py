#!/usr/bin/env python3
"""What must hold of recording on a real GPU, checked there: same tokens, exact accounting, one added wait.

python tests/gpu/record_check.py tokens --shape qwen2.5-vl-7b      traced and untraced generations side by side
nsys profile ... python tests/gpu/record_check.py syncs            generations for a Nsight export
nsys profile ... python tests/gpu/record_check.py ring             those of a server that keeps its slowest
python tests/gpu/record_check.py count REPORT.sqlite               synchronising calls per generation in it
python tests/gpu/record_check.py prices                            what marks took in a model, beside their price,
                                                                   and what is done before the first and after the last
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import sys
import time
from collections import Counter
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

PLAIN = "plain"


def generate(model: Any, inputs: Any, new: int, around: Any = None, **more: Any) -> list[list[int]]:
    import torch

    on_device = inputs.to("cuda", model.dtype)
    with torch.inference_mode(), around or nullcontext():
        ids = model.generate(**on_device, max_new_tokens=new, do_sample=False, **more)
    return ids.tolist()


def tokens(options: argparse.Namespace) -> None:
    """Identical token ids with and without tracing, at each detail; the identities hold or ``finish`` raises.

    In float32: with random weights the best tokens are nearly tied, and in bfloat16 the H100's own matrix products
    differ enough from run to run to turn them around, traced or not.
    """
    import random_vlm
    import torch
    import transformers

    import vlmtrace

    model = random_vlm.build(options.shape, "cuda", getattr(torch, options.dtype))
    inputs = random_vlm.make_inputs(model, options.shape)
    untraced = [generate(model, inputs, options.new) for _ in range(options.repeats)]
    expected = untraced[-1]
    for detail in ("stage", "module", "layer"):
        with vlmtrace.trace(model, detail=detail, name=options.shape) as session:
            made = [generate(model, inputs, options.new) for _ in range(options.repeats)]
        recording = session.recording
        same = all(ids == expected for ids in made)
        bounds = [clock.bound_ns for clock in recording.clocks]
        walls = [
            recording.generate_span(g).host_duration - recording.generate_span(g).duration
            for g in recording.generations
        ]
        result = {
            "check": "tokens",
            "shape": options.shape,
            "detail": detail,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "gpu": torch.cuda.get_device_name(),
            "dtype": options.dtype,
            "parameters": recording.models[0].parameters,
            "untraced_agree": all(ids == expected for ids in untraced),
            "same_tokens": same,
            "generations": len(recording.generations),
            "new_tokens": next(g.new_tokens for g in recording.generations),
            "spans": len(recording.spans),
            "clock_bound_us": round(statistics.median(bounds) / 1e3, 2),
            "clock_bound_us_max": round(max(bounds) / 1e3, 2),
            "widened_ns": [clock.widened_ns for clock in recording.clocks],
            "rate_ppb": recording.clocks[-1].rate_ppb,
            "wall_minus_device_us": [round(wall / 1e3, 1) for wall in walls],
            "mark_ns": recording.cost.mark_ns,
            "path": recording.cost.path,
            "names": Counter(span.name for span in recording.spans),
        }
        print(json.dumps(result), flush=True)
        assert result["untraced_agree"], "untraced runs do not even agree with each other"
        assert same, "tokens differ with tracing"
        assert len(recording.generations) == options.repeats


def syncs(options: argparse.Namespace) -> None:
    """Untraced generations in ranges of their own, then traced ones, for a Nsight export."""
    import nvtx
    import random_vlm
    import torch

    import vlmtrace

    model = random_vlm.build(options.shape, "cuda", torch.bfloat16)
    inputs = random_vlm.make_inputs(model, options.shape)
    generate(model, inputs, options.new)
    for detail in (None, "stage", "module", "layer", None):
        plain = nvtx.annotate(PLAIN, domain="check") if detail is None else None
        with nullcontext() if detail is None else vlmtrace.trace(model, detail=detail):
            for _ in range(options.repeats):
                generate(model, inputs, options.new, plain)


def ring(options: argparse.Namespace) -> None:
    """Generations of a server that keeps its slowest, after untraced ones; for a Nsight export, and for the bounds.

    Each traced one lies in a range ``served`` of its own: what synchronises in it is to be what does in ``plain``.
    """
    import tempfile

    import nvtx
    import random_vlm
    import torch
    import transformers

    import vlmtrace

    model = random_vlm.build(options.shape, "cuda", torch.bfloat16)
    inputs = random_vlm.make_inputs(model, options.shape)
    expected = generate(model, inputs, options.new)
    for _ in range(options.repeats):
        generate(model, inputs, options.new, nvtx.annotate(PLAIN, domain="check"))
    with tempfile.TemporaryDirectory() as folder:
        installed = vlmtrace.install(keep="slowest:5", out=folder)
        same, sizes = [], []
        for _ in range(options.repeats):
            same.append(generate(model, inputs, options.new, nvtx.annotate("served", domain="check")) == expected)
            sizes.append(int(Path("/proc/self/statm").read_text().split()[1]))
        recordings = [vlmtrace.load(path) for path in installed.remove()]
    print(
        json.dumps(
            {
                "check": "ring",
                "shape": options.shape,
                "transformers": transformers.__version__,
                "gpu": torch.cuda.get_device_name(),
                "generations": options.repeats,
                "kept": len(recordings),
                "clock_bound_us": [round(one.clocks[0].bound_ns / 1e3, 2) for one in recordings],
                "widened_ns": [one.clocks[0].widened_ns for one in recordings],
                "generate_ms": [round(one.generate_span(one.generations[0]).duration / 1e6, 2) for one in recordings],
                "resident_pages": [sizes[0], sizes[len(sizes) // 2], sizes[-1]],
                "same_tokens": all(same),
            }
        )
    )


def prices(options: argparse.Namespace) -> None:
    """The price of a mark, measured before the first generation, beside what each mark took inside of one.

    Two more readings of the clock around each mark tell the latter; what they take themselves is taken off. The shares
    are of ``generate``: what is counted, and what its marks and all between its tokens took there. ``outside`` is what
    a call takes before its first mark and after its last, without the wait: the device would be waited for anyway.
    """
    import random_vlm
    import torch
    import transformers

    import vlmtrace
    from vlmtrace.capture.recorder import Recorder
    from vlmtrace.capture.tape import Tape

    now = time.perf_counter_ns
    took: dict[str, list[int]] = {"mark": [], "between_tokens": []}
    calls: dict[str, list[int]] = {"whole": [], "inside": [], "wait": []}

    def timed(values: list[int], call: Any) -> Any:
        def made(*args: Any) -> Any:
            begin = now()
            result = call(*args)
            values.append(now() - begin)
            return result

        return made

    model = random_vlm.build(options.shape, "cuda", torch.bfloat16)
    inputs = random_vlm.make_inputs(model, options.shape)
    timed_methods = (
        (Recorder, "_between_tokens", took["between_tokens"]),
        (Recorder, "_outermost", calls["whole"]),
        (Recorder, "_timed", calls["inside"]),
        (Tape, "wait", calls["wait"]),
    )
    bound = Tape._bound
    for mode, more in (("eager", {}), ("compiled", {"cache_implementation": "static"})):
        for _ in range(3):
            generate(model, inputs, options.new, **more)
        with vlmtrace.trace(model) as session:
            generate(model, inputs, options.new, **more)
        with ExitStack() as patched:
            patched.enter_context(patch.object(Tape, "_bound", lambda tape: timed(took["mark"], bound(tape))))
            for owner, name, values in timed_methods:
                patched.enter_context(patch.object(owner, name, timed(values, getattr(owner, name))))
            timed_session = patched.enter_context(vlmtrace.trace(model))
            generate(model, inputs, options.new, **more)
            for values in (*took.values(), *calls.values()):
                values.clear()
            for _ in range(options.repeats):
                generate(model, inputs, options.new, **more)
        reading = statistics.median(-now() + now() for _ in range(1000))
        cost, recording = session.recording.cost, timed_session.recording
        spans = [recording.generate_span(generation) for generation in recording.generations[1:]]
        inside = sum(span.host_duration for span in spans)
        all_took = sum(sum(values) - reading * len(values) for values in took.values())
        outside = [whole - in_marks - wait for whole, in_marks, wait in zip(*calls.values(), strict=True)]
        made = {
            "check": "prices",
            "shape": options.shape,
            "mode": mode,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "gpu": torch.cuda.get_device_name(),
            "price_mark_ns": cost.mark_ns,
            "price_token_ns": cost.token_ns,
            "generations": options.repeats,
            "generate_ms": round(inside / len(spans) / 1e6, 2),
            "counted_share": round(sum(recording.cost.host_ns[1:]) / inside, 6),
            "took_share": round(all_took / inside, 6),
            "marks": len(took["mark"]),
            **{f"{name}_mean_ns": round(statistics.mean(values) - reading) for name, values in took.items()},
            **{f"{name}_median_ns": round(statistics.median(values) - reading) for name, values in took.items()},
            "outside_median_ns": round(statistics.median(outside)),
        }
        print(json.dumps(made), flush=True)


def count(options: argparse.Namespace) -> None:
    """Synchronising runtime calls by the NVTX range they lie in, from plain SQL on the export."""
    with closing(sqlite3.connect(options.report)) as db:
        ranges = db.execute(
            "SELECT COALESCE(n.text, s.value), n.start, n.end, n.globalTid, n.int64Value, n.uint64Value, n.int32Value "
            "FROM NVTX_EVENTS n LEFT JOIN StringIds s ON s.id = n.textId WHERE n.eventType IN (59, 60) ORDER BY n.start"
        ).fetchall()
        calls = db.execute(
            "SELECT s.value, r.start, r.end, r.globalTid FROM CUPTI_ACTIVITY_KIND_RUNTIME r "
            "JOIN StringIds s ON s.id = r.nameId WHERE s.value LIKE 'cuda%Synchronize%' ORDER BY r.start"
        ).fetchall()
    by_name: dict[str, list[int]] = {}
    for name, start, end, thread, *_ in ranges:
        if end is None:
            print(f"UNBALANCED: {name} never ends")
            continue
        inside = sum(1 for _, at, _, on in calls if start <= at < end and on == thread)
        by_name.setdefault(name, []).append(inside)
    table = {
        name: {"ranges": len(found), "syncs": sum(found), "per_range": dict(Counter(found))}
        for name, found in by_name.items()
    }
    payloads = {stage: [row[4:] for row in ranges if row[0] == stage][:3] for stage in ("decode.step", "prefill")}
    print(json.dumps({"check": "syncs", "ranges": table, "calls": Counter(c[0] for c in calls), "payloads": payloads}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run in (("tokens", tokens), ("syncs", syncs), ("ring", ring), ("prices", prices)):
        command = commands.add_parser(name)
        command.add_argument("--shape", default="qwen2.5-vl-7b")
        command.add_argument("--repeats", type=int, default=5)
        command.add_argument("--new", type=int, default=32)
        command.add_argument("--dtype", default="float32")
        command.set_defaults(run=run)
    command = commands.add_parser("count")
    command.add_argument("report")
    command.set_defaults(run=count)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Compiled decoding on a real GPU: step times with and without tracing, and whether CUDA graphs are left alone.

python tests/gpu/graphs_check.py steps --shape qwen2.5-vl-0.5b --mode static          interleaved, with intervals
python tests/gpu/graphs_check.py captures --mode static          graphs captured and launched in each generation
nsys profile ... python tests/gpu/graphs_check.py run --mode static [--traced]        the same calls for two exports
python tests/gpu/graphs_check.py count UNTRACED.sqlite TRACED.sqlite                  graphs captured and launched

Modes: eager; static (a static cache, compiled by transformers, with CUDA graphs); forward (model.forward compiled by
its user with mode reduce-overhead, and a static cache of the user's, made before: torch makes no graph of a forward
that allocates its cache itself).
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import statistics
import sys
import time
from collections import Counter
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))


class Bench:
    """A model in one of the modes, warm: whatever compiles or captures has done so."""

    def __init__(self, options: argparse.Namespace) -> None:
        import random_vlm
        import torch

        self.new = options.new
        self.keeps = options.keep
        self.kept: Any = None
        self.model = random_vlm.build(options.shape, "cuda", torch.bfloat16)
        self.inputs = random_vlm.make_inputs(self.model, options.shape).to("cuda", torch.bfloat16)
        self.more: dict[str, Any] = {}
        self.cache: Any = None
        if options.mode == "static":
            self.more = {"cache_implementation": "static"}
        elif options.mode == "forward":
            self.model.forward = torch.compile(self.model.forward, mode="reduce-overhead")
            self.cache = self.made_cache()
            self.more = {"past_key_values": self.cache, "disable_compile": True}
        for _ in range(options.warmup):
            self.generate()

    def made_cache(self) -> Any:
        from transformers import StaticCache

        text = self.model.config.get_text_config()
        cache = StaticCache(config=text, max_cache_len=self.inputs["input_ids"].shape[1] + self.new)
        size = text.hidden_size // text.num_attention_heads
        cache.early_initialization(1, text.num_key_value_heads, size, self.model.dtype, self.model.device)
        return cache

    def generate(self) -> float:
        """Milliseconds of one generation, between two syncs."""
        import torch

        if self.cache is not None:
            self.cache.reset()
        inputs = self.inputs.to("cpu").to("cuda") if self.keeps else self.inputs
        torch.cuda.synchronize()
        begin = time.perf_counter()
        with torch.inference_mode():
            ids = self.model.generate(**inputs, max_new_tokens=self.new, do_sample=False, **self.more)
        torch.cuda.synchronize()
        if self.keeps:
            self.kept = (inputs, ids)
        return (time.perf_counter() - begin) * 1e3

    def visit(self, *, traced: bool) -> tuple[float, float | None]:
        """One generation behind one that is not counted: its milliseconds, and the median of its steps where told."""
        import vlmtrace

        with vlmtrace.trace(self.model) if traced else nullcontext() as session:
            self.generate()
            took = self.generate()
        if session is None:
            return took, None
        last = session.recording.generations[-1].index
        steps = [
            step.duration / 1e6 for step in session.recording.spans.named("decode.step") if step.generation == last
        ]
        return took, statistics.median(steps)


def steps(options: argparse.Namespace) -> None:
    """Whole generations, traced and not in turn, from outside; and the steps as the traced ones tell them."""
    import torch
    import transformers

    bench = Bench(options)
    pairs, told = [], []
    for number in range(options.pairs):
        order = (False, True) if number % 2 == 0 else (True, False)
        found = {traced: bench.visit(traced=traced) for traced in order}
        pairs.append((found[False][0], found[True][0]))
        told.append(found[True][1] or 0.0)
    added = [100 * (on - off) / off for off, on in pairs]
    print(
        json.dumps(
            {
                "check": "steps",
                "shape": options.shape,
                "mode": options.mode,
                "gpu": torch.cuda.get_device_name(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "new_tokens": options.new,
                "untraced_ms_per_token": round(statistics.median(off for off, _ in pairs) / options.new, 4),
                "traced_ms_per_token": round(statistics.median(on for _, on in pairs) / options.new, 4),
                "step_p50_ms": round(statistics.median(told), 4),
                "added_percent": round(statistics.median(added), 3),
                "interval_percent": [round(value, 3) for value in interval(added)],
                "pairs_ms": [[round(off, 3), round(on, 3)] for off, on in pairs],
            }
        ),
        flush=True,
    )


def interval(values: list[float], draws: int = 4000) -> tuple[float, float]:
    """95 % of the medians of as many values drawn from these with replacement (percentile bootstrap)."""
    drawn = random.Random(0)
    medians = sorted(statistics.median(drawn.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def run(options: argparse.Namespace) -> None:
    """The same generations, traced or not, from the first compilation on."""
    import vlmtrace

    warm, options.warmup = options.warmup, 0
    bench = Bench(options)
    with vlmtrace.trace(bench.model) if options.traced else nullcontext():
        for _ in range(warm + options.repeats):
            bench.generate()


def captures(options: argparse.Namespace) -> None:
    """Blocks of generations, untraced and traced in turn: the graphs that each captures and launches."""
    import torch

    import vlmtrace

    seen: Counter[str] = Counter()
    for name in ("capture_begin", "replay"):
        _count_calls(torch.cuda.CUDAGraph, name, seen)
    bench = Bench(options)
    warmed = dict(seen)
    found: dict[bool, list[list[float]]] = {False: [], True: []}
    for block in range(options.pairs):
        for traced in (options.traced, not options.traced) if block % 2 == 0 else (not options.traced, options.traced):
            with vlmtrace.trace(bench.model) if traced else nullcontext():
                for _ in range(options.repeats):
                    seen.clear()
                    took = bench.generate()
                    found[traced].append([seen["capture_begin"], seen["replay"], round(took, 3)])
    told = {"untraced": found[False], "traced": found[True]}
    print(
        json.dumps(
            {
                "check": "captures",
                "shape": options.shape,
                "mode": options.mode,
                "keep": options.keep,
                "gpu": torch.cuda.get_device_name(),
                "warmup": warmed,
                "captured": {name: sum(one[0] for one in rows) for name, rows in told.items()},
                "launched": {name: sum(one[1] for one in rows) for name, rows in told.items()},
                "p50_ms": {name: statistics.median(one[2] for one in rows) for name, rows in told.items()},
                **told,
            }
        )
    )


def _count_calls(owner: Any, name: str, seen: Counter[str]) -> None:
    original = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        seen[name] += 1
        return original(*args, **kwargs)

    setattr(owner, name, call)


def count(options: argparse.Namespace) -> None:
    """Runtime calls about graphs in the two exports, side by side."""
    found = {}
    for name, path in (("untraced", options.untraced), ("traced", options.traced)):
        with closing(sqlite3.connect(path)) as db:
            rows = db.execute(
                "SELECT s.value FROM CUPTI_ACTIVITY_KIND_RUNTIME r JOIN StringIds s ON s.id = r.nameId "
                "WHERE s.value LIKE '%Graph%' OR s.value LIKE '%Capture%'"
            )
            found[name] = Counter(value.partition("_v")[0] for (value,) in rows)
    captured = {name: calls["cudaStreamBeginCapture"] for name, calls in found.items()}
    launched = {name: calls["cudaGraphLaunch"] for name, calls in found.items()}
    print(json.dumps({"check": "graphs", "captured": captured, "launched": launched, "calls": found}))
    assert launched["untraced"] > 0, "no CUDA graph was launched without tracing: there is nothing to compare"
    assert captured["traced"] <= captured["untraced"], "tracing made more graphs be captured"
    assert launched["traced"] == launched["untraced"], "with tracing another number of graphs was launched"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, action in (("steps", steps), ("captures", captures), ("run", run)):
        command = commands.add_parser(name)
        command.add_argument("--shape", default="qwen2.5-vl-0.5b")
        command.add_argument("--mode", choices=("eager", "static", "forward"), default="static")
        command.add_argument("--new", type=int, default=32)
        command.add_argument("--warmup", type=int, default=5)
        command.add_argument("--pairs", type=int, default=20)
        command.add_argument("--repeats", type=int, default=3)
        command.add_argument("--traced", action="store_true")
        command.add_argument(
            "--keep", action="store_true", help="send the inputs anew each time, and keep the last inputs and answer"
        )
        command.set_defaults(run=action)
    command = commands.add_parser("count")
    command.add_argument("untraced")
    command.add_argument("traced")
    command.set_defaults(run=count)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()

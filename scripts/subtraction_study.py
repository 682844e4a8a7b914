#!/usr/bin/env python3
"""Four ways to time the stages of the same generations, sample by sample: what each one gets wrong.

    scripts/subtraction_study.py run --out study.jsonl [--samples 220] [--seconds 500]     on a machine with a GPU
    scripts/subtraction_study.py report study.jsonl [--plot study.png]                     anywhere

    subtraction   vision alone, prefill (with vision) alone and generate() alone, each in a run of its own, with an
                  empty_cache() before the last; decode = max(0, total - vision - prefill)
    step syncs    torch.cuda.synchronize() and perf_counter() around vision and around every forward
    stage syncs   the same around vision, prefill and the whole only
    vlmtrace      CUDA events inside one generate(), no wait until it has ended; twice, since two runs of the same
                  sample differ by themselves, and nothing that is nearer to vlmtrace than that can be told from it

Every sample has its own picture size, prompt length and output length; its shape is warmed first, and the order of the
ways changes from sample to sample. One line of JSON per sample; a run goes on where the file ends.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

METHODS = ("subtraction", "step_syncs", "stage_syncs", "vlmtrace", "again")
TITLES = {
    "subtraction": "three runs and subtraction",
    "step_syncs": "sync around every step",
    "stage_syncs": "sync around stages",
    "vlmtrace": "vlmtrace",
    "again": "vlmtrace, a second time",
}


def samples(count: int, seed: int = 7) -> Iterator[dict[str, Any]]:
    """Sample plans: picture side in visual tokens, extra prompt tokens, new tokens; one in ten makes one token."""
    rng = random.Random(seed)
    for number in range(count):
        new = 1 if number % 10 == 9 else rng.randint(2, 32)
        yield {"id": number, "side": rng.choice((8, 12, 16, 20, 24, 28)), "prompt": rng.randint(5, 200), "new": new}


class Stopwatch:
    """Host times read behind device syncs; counts the syncs that it adds."""

    def __init__(self) -> None:
        self.syncs = 0

    def __call__(self) -> float:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.syncs += 1
        return time.perf_counter()


class Bench:
    """The model and the four ways; every answer is in milliseconds."""

    def __init__(self, shape: str, device: str = "cuda") -> None:
        import random_vlm
        import torch

        self.shape = shape
        self.model = random_vlm.build(shape, device, torch.bfloat16)
        self.core = self.model.model

    def inputs(self, sample: dict[str, Any]) -> Any:
        import random_vlm
        import torch

        made = random_vlm.make_inputs(self.model, self.shape, 1, sample["side"], seed=sample["id"])
        extra = random_vlm.text(self.model.config, 1, sample["prompt"])
        made["input_ids"] = torch.cat([made["input_ids"], extra], dim=1)
        for name in ("attention_mask", "mm_token_type_ids"):
            made[name] = torch.cat([made[name], torch.full_like(extra, int(name == "attention_mask"))], dim=1)
        return made.to(self.model.device, self.model.dtype)

    def generate(self, inputs: Any, new: int) -> Any:
        import torch

        with torch.inference_mode():
            return self.model.generate(**inputs, max_new_tokens=new, do_sample=False)

    def untraced(self, inputs: Any, new: int) -> dict[str, float]:
        """The wall time of ``generate()`` between two syncs, nothing else added."""
        clock = Stopwatch()
        begin = clock()
        self.generate(inputs, new)
        return {"wall": (clock() - begin) * 1e3}

    def subtraction(self, inputs: Any, new: int) -> dict[str, float]:
        import torch

        clock = Stopwatch()
        with torch.inference_mode():
            begin = clock()
            self.core.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
            vision = clock() - begin
            begin = clock()
            self.model(**inputs, use_cache=True, logits_to_keep=1)
            prefill = clock() - begin
        torch.cuda.empty_cache()
        begin = clock()
        self.generate(inputs, new)
        total = clock() - begin
        raw = total - vision - prefill
        made = {"vision": vision, "prefill": prefill, "total": total, "decode_raw": raw, "decode": max(0.0, raw)}
        return {name: value * 1e3 for name, value in made.items()} | {"syncs": clock.syncs, "wall": total * 1e3}

    def step_syncs(self, inputs: Any, new: int) -> dict[str, float]:
        clock = Stopwatch()
        forwards: list[float] = []
        visions: list[float] = []
        with self._timed_vision(clock, visions), self._timed_forwards(clock, forwards):
            begin = clock()
            self.generate(inputs, new)
            total = clock() - begin
        return self._stages(visions, forwards[0], sum(forwards[1:]), total, clock)

    def stage_syncs(self, inputs: Any, new: int) -> dict[str, float]:
        clock = Stopwatch()
        forwards: list[float] = []
        visions: list[float] = []
        ended: list[float] = []
        with self._timed_vision(clock, visions), self._timed_forwards(clock, forwards, first=ended):
            begin = clock()
            self.generate(inputs, new)
            end = clock()
        return self._stages(visions, forwards[0], end - ended[0], end - begin, clock)

    def vlmtrace(self, inputs: Any, new: int) -> dict[str, float]:
        import vlmtrace
        from vlmtrace.analysis.accounting import account
        from vlmtrace.analysis.stages import gather

        begin = time.perf_counter()
        with vlmtrace.trace(self.model) as session:
            begin = time.perf_counter()
            self.generate(inputs, new)
            wall = time.perf_counter() - begin
        parts = account(gather(session.recording)[0])
        made = {
            "vision": parts.vision,
            "prefill": parts.prefill,
            "decode": parts.decode or 0,
            "other": parts.other_total,
            "total": parts.generate,
        }
        exact = parts.parts_total == parts.generate
        bounds = [clock.bound_ns / 1e3 for clock in session.recording.clocks]
        return {name: ns / 1e6 for name, ns in made.items()} | {
            "syncs": session.recording.cost.waits,
            "wall": wall * 1e3,
            "exact": exact,
            "bound_us": max(bounds, default=0.0),
        }

    again = vlmtrace

    @staticmethod
    def _stages(
        visions: list[float], prefill: float, decode: float, total: float, clock: Stopwatch
    ) -> dict[str, float]:
        made = {"vision": sum(visions), "prefill": prefill, "decode": decode, "total": total}
        return {name: value * 1e3 for name, value in made.items()} | {"syncs": clock.syncs, "wall": total * 1e3}

    @contextmanager
    def _timed_vision(self, clock: Stopwatch, into: list[float]) -> Iterator[None]:
        import functools

        original = self.core.get_image_features

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = clock()
            made = original(*args, **kwargs)
            into.append(clock() - begin)
            return made

        self.core.__dict__["get_image_features"] = timed
        try:
            yield
        finally:
            del self.core.__dict__["get_image_features"]

    @contextmanager
    def _timed_forwards(self, clock: Stopwatch, into: list[float], first: list[float] | None = None) -> Iterator[None]:
        """Sync around every forward, or, with ``first``, around the first only; then ``first`` takes its end."""
        begin = [0.0]

        def before(*_: Any) -> None:
            if not first:
                begin[0] = clock()

        def after(*_: Any) -> None:
            if first:
                return
            end = clock()
            into.append(end - begin[0])
            if first is not None:
                first.append(end)

        hooks = (self.model.register_forward_pre_hook(before), self.model.register_forward_hook(after))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def run(options: argparse.Namespace) -> None:
    import torch
    import transformers
    from rich.progress import track

    path = Path(options.out)
    done = {row["id"] for row in read(path)} if path.exists() else set()
    wanted = [sample for sample in samples(options.samples) if sample["id"] not in done]
    bench = Bench(options.shape, options.device)
    machine = {
        "shape": options.shape,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "host clock",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    bench.generate(bench.inputs({"id": 0, "side": 8, "prompt": 5}), 4)
    until = time.monotonic() + options.seconds
    with path.open("a") as out:
        for sample in track(wanted, "samples"):
            if time.monotonic() > until:
                print(f"stopped after {options.seconds} s: run it again to go on")
                return
            out.write(json.dumps(sample | measure(bench, sample) | machine) + "\n")
            out.flush()


def measure(bench: Bench, sample: dict[str, Any]) -> dict[str, Any]:
    """One sample: warmed, then every way in an order of its own, untraced before and after."""
    inputs, new = bench.inputs(sample), sample["new"]
    bench.subtraction(inputs, 1)
    bench.generate(inputs, new)  # last, since the subtraction has emptied the allocator's cache
    order = list(METHODS)
    random.Random(sample["id"]).shuffle(order)
    made: dict[str, Any] = {"order": order, "untraced": [bench.untraced(inputs, new)["wall"]]}
    for method in order:
        way: Callable[[Any, int], dict[str, float]] = getattr(bench, method)
        made[method] = way(inputs, new)
        if method == "subtraction":
            bench.generate(inputs, new)  # nor shall the next way pay for what it emptied
    made["untraced"].append(bench.untraced(inputs, new)["wall"])
    return made


def scored(rows: list[dict[str, Any]], method: str) -> dict[str, Any]:
    """One method over samples of one group: what it got wrong, how far it is from vlmtrace, and what it cost."""
    decodes = [row[method]["decode"] for row in rows]
    sums = [row[method]["vision"] + row[method]["prefill"] + row[method]["decode"] for row in rows]
    errors = [abs(row[method]["decode"] - row["vlmtrace"]["decode"]) for row in rows]
    own = [row[method]["total"] - statistics.mean(row["untraced"]) for row in rows]
    spent = [_spent(row[method]) - statistics.mean(row["untraced"]) for row in rows]
    raw = [row[method].get("decode_raw", row[method]["decode"]) for row in rows]
    return {
        "samples": len(rows),
        "zero or negative": sum(value <= 0 for value in raw),
        "sum over total": sum(s > row[method]["total"] + 1e-6 for s, row in zip(sums, rows, strict=True)),
        "mean decode ms": statistics.mean(decodes),
        "mean difference ms": statistics.mean(errors),
        "median difference ms": statistics.median(errors),
        "syncs per sample": statistics.mean(row[method]["syncs"] for row in rows),
        "added to the call ms": statistics.median(own),
        "added in all ms": statistics.median(spent),
    }


def _spent(answer: dict[str, float]) -> float:
    """What one sample's answer took: all runs of it, and attaching where that is done for each sample."""
    apart = answer["vision"] + answer["prefill"] if "decode_raw" in answer else 0.0
    return answer["wall"] + apart


def report(options: argparse.Namespace) -> None:
    rows = read(Path(options.data))
    print("\n".join([*heading(rows), *tables(rows)]))
    if options.plot is not None:
        _plot(grouped(rows)[0], Path(options.plot))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def grouped(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The samples with more than one new token, and those with one."""
    return [row for row in rows if row["new"] > 1], [row for row in rows if row["new"] == 1]


def tables(rows: list[dict[str, Any]]) -> list[str]:
    """The results in Markdown, group by group."""
    many, one = grouped(rows)
    return [*_table(many, "More than one new token"), *_table(one, "One new token")]


def heading(rows: list[dict[str, Any]]) -> list[str]:
    first = rows[0]
    return [
        f"{first['shape']}, random weights, bf16, greedy · {first['gpu']} · torch {first['torch']} · "
        f"transformers {first['transformers']} · {first['date']} · {len(rows)} samples",
        "",
    ]


def _table(rows: list[dict[str, Any]], title: str) -> list[str]:
    if not rows:
        return []
    lines = [
        f"**{title}** ({len(rows)} samples)",
        "",
        "| | decode ≤ 0 | Σ stages > total | decode, mean | off from vlmtrace, mean (median) | syncs "
        "| added to the call | added in all |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for method in METHODS:
        made = scored(rows, method)
        share = 100 * made["zero or negative"] / made["samples"]
        lines.append(
            f"| {TITLES[method]} | {made['zero or negative']} ({share:.1f} %) | {made['sum over total']} "
            f"| {made['mean decode ms']:.1f} ms | {made['mean difference ms']:.2f} ms "
            f"({made['median difference ms']:.2f}) | {made['syncs per sample']:.1f} "
            f"| {made['added to the call ms']:+.2f} ms | {made['added in all ms']:+.2f} ms |"
        )
    return [*lines, ""]


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for method, colour in zip(METHODS[:3], ("#c0392b", "#e67e22", "#2980b9"), strict=True):
        truth = [row["vlmtrace"]["decode"] for row in rows]
        other = [row[method].get("decode_raw", row[method]["decode"]) for row in rows]
        axes[0].scatter(truth, other, s=9, alpha=0.7, color=colour, label=TITLES[method])
        errors = sorted(o - t for o, t in zip(other, truth, strict=True))
        axes[1].plot(errors, [i / len(errors) for i in range(len(errors))], color=colour, label=TITLES[method])
    noise = sorted(row["again"]["decode"] - row["vlmtrace"]["decode"] for row in rows)
    shares = [i / len(noise) for i in range(len(noise))]
    axes[1].plot(noise, shares, color="#555", linestyle="--", label=TITLES["again"])
    axes[1].legend(frameon=False, fontsize=8)
    limit = max(row["vlmtrace"]["decode"] for row in rows)
    axes[0].plot([0, limit], [0, limit], color="#888", linewidth=0.8)
    axes[0].axhline(0, color="#888", linewidth=0.8, linestyle=":")
    axes[0].set(xlabel="decode measured directly (vlmtrace), ms", ylabel="decode by the other way, ms")
    axes[1].axvline(0, color="#888", linewidth=0.8)
    axes[1].set(xlabel="difference from vlmtrace, ms", ylabel="share of samples")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run")
    command.add_argument("--shape", default="qwen2.5-vl-0.5b")
    command.add_argument("--device", default="cuda")
    command.add_argument("--samples", type=int, default=220)
    command.add_argument("--seconds", type=float, default=3600)
    command.add_argument("--out", required=True)
    command.set_defaults(run=run)
    command = commands.add_parser("report")
    command.add_argument("data")
    command.add_argument("--plot", help="a picture of the differences; needs matplotlib")
    command.set_defaults(run=report)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()

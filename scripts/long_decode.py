#!/usr/bin/env python3
"""Ten minutes of decode in one recording: is the last step as precise as the first?

    scripts/long_decode.py --seconds 600 --out long.json                 one generation, stopped by time
    scripts/long_decode.py --seconds 600 --tokens 400 --out long.json    many generations one after another

A decode that the host limits has an idle GPU at each step's beginning: the device reaches the mark a few µs after the
host recorded it. The lower edge of that lead, minute by minute, shows what drift is left between the two clocks after
the fit: it would wander if any were. A thread beside it reads the memory twice a minute.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MINUTE = 60_000_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="qwen2.5-vl-0.5b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--tokens", type=int, help="new tokens of each generation; without it there is one")
    parser.add_argument("--detail", default="stage")
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    recording, memory = run(options)
    made = judged(recording) | {"memory": memory, "shape": options.shape, "detail": options.detail}
    Path(options.out).write_text(json.dumps(made, indent=1) + "\n")
    print(json.dumps(made, indent=1))


def run(options: argparse.Namespace) -> tuple[Any, list[dict[str, float]]]:
    """Generate until the time is up; the recording, and the memory as it was on the way."""
    import random_vlm
    import torch

    import vlmtrace

    model = random_vlm.build(options.shape, options.device, torch.bfloat16)
    inputs = random_vlm.make_inputs(model, options.shape, side=8).to(options.device, torch.bfloat16)
    limits = {"max_new_tokens": options.tokens} if options.tokens else {"max_new_tokens": 1_000_000}
    with torch.inference_mode():
        model.generate(**inputs, max_new_tokens=4, do_sample=False)
        began = time.monotonic()
        until = began + options.seconds
        with vlmtrace.trace(model, detail=options.detail, random_weights=True, name="long") as session:
            model.generate(**inputs, max_new_tokens=200, do_sample=False)
            with watched(began) as memory:
                while (left := until - time.monotonic()) > 0:
                    model.generate(**inputs, do_sample=False, max_time=left, **limits)
    return session.recording, memory


@contextmanager
def watched(began: float, every: float = 30) -> Iterator[list[dict[str, float]]]:
    """Memory every half minute: the process's resident pages, and what torch holds of the device, in MB."""
    import torch

    memory: list[dict[str, float]] = []
    over = threading.Event()

    def read() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        device = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
        at = round(time.monotonic() - began, 1)
        resident = round(pages * resource.getpagesize() / 1e6, 1)
        memory.append({"seconds": at, "rss_mb": resident, "allocated_mb": round(device / 1e6, 1)})

    def watch() -> None:
        read()
        while not over.wait(every):
            read()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()
        read()


def judged(recording: Any) -> dict[str, Any]:
    """The lower edge of the lead by minute, step lengths, clocks and the identities (checked when it was made)."""
    steps = list(recording.spans.named("decode.step"))
    first = steps[0].begin
    minutes: dict[int, list[Any]] = {}
    for step in steps:
        minutes.setdefault((step.begin - first) // MINUTE, []).append(step)
    edges = {minute: percentile([s.begin - s.host_begin for s in found], 0.01) for minute, found in minutes.items()}
    return {
        "environment": {key: recording.environment.get(key) for key in ("gpu", "driver", "torch", "transformers")},
        "generations": len(recording.generations),
        "steps": len(steps),
        "seconds": (steps[-1].end - first) / 1e9,
        "lead_p1_us_by_minute": {minute: edge / 1e3 for minute, edge in edges.items()},
        "lead_p1_spread_us": (max(edges.values()) - min(edges.values())) / 1e3,
        "step_p50_ms_by_minute": {
            minute: statistics.median(s.duration for s in found) / 1e6 for minute, found in minutes.items()
        },
        "clocks": [
            {
                "generation": clock.generation,
                "bound_us": clock.bound_ns / 1e3,
                "chain_us": clock.chain_ns / 1e3,
                "drift_ppm": clock.rate_ppb / 1e3,
                "widened_ns": clock.widened_ns,
            }
            for clock in (*recording.clocks[:3], *recording.clocks[3:][-3:])
        ],
    }


def percentile(values: list[int], part: float) -> int:
    return sorted(values)[int(part * (len(values) - 1))]


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""What sampling the GPU costs and tells, and what the allocator's statistics cost, on a real GPU.

python tests/gpu/sampling_check.py --shape qwen2.5-vl-0.5b --hz 10 --hz 50

One line of JSON for each rate; exit code 1 if a counter is missing, lies outside of the recording, or a thread is left.
Rates take turns with no sampling, in one process, so that medians of generate() can be laid beside each other.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))


def recorded(model: Any, generate: Any, hz: int | None, repeats: int) -> Any:
    from vlmtrace.capture.recorder import Recorder, RecorderOptions

    with Recorder(RecorderOptions("sampling", sample_gpu=hz), [model]) as recorder:
        for _ in range(repeats):
            generate()
    return recorder.finish()


def median_ms(recordings: list[Any]) -> float:
    spans = [one.generate_span(each) for one in recordings for each in one.generations[1:]]
    return statistics.median(span.duration for span in spans) / 1e6


def statistics_us(calls: int = 200) -> float:
    import torch

    def timed() -> int:
        begin = time.perf_counter_ns()
        torch.cuda.memory_stats(0)
        return time.perf_counter_ns() - begin

    return statistics.median(timed() for _ in range(calls)) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="qwen2.5-vl-0.5b")
    parser.add_argument("--hz", type=int, action="append", help="default: 10 and 50")
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()

    import random_vlm
    import torch

    from vlmtrace.capture.gpu_sampler import QUANTITIES

    model = random_vlm.build(options.shape, "cuda", torch.bfloat16)
    inputs = random_vlm.make_inputs(model, options.shape).to("cuda", model.dtype)

    def generate() -> None:
        with torch.inference_mode():
            model.generate(**inputs, max_new_tokens=options.new, do_sample=False)

    for _ in range(2):
        generate()
    ok = True
    for hz in options.hz or [10, 50]:
        pairs = [[recorded(model, generate, rate, 4) for rate in (None, hz)] for _ in range(options.turns)]
        without, sampled = ([pair[at] for pair in pairs] for at in (0, 1))
        last = sampled[-1]
        counters = {one.name: one for one in last.counters}
        missing = [name for name, _, _ in QUANTITIES if name not in counters]
        begin, end = last.origin_ns, max(last.spans.end)
        inside = all(begin <= one.times[0] for one in counters.values())
        left = [thread.name for thread in threading.enumerate() if "sampler" in thread.name]
        told = {
            "check": "sampling",
            "shape": options.shape,
            "hz": hz,
            "gpu": torch.cuda.get_device_name(),
            "missing": missing,
            "inside": inside,
            "threads_left": left,
            "samples": last.cost.samples,
            "host_us_each": last.cost.sampling_ns / max(1, last.cost.samples) / 1e3,
            "seconds": (end - begin) / 1e9,
            "median_ms": {"without": median_ms(without), "sampled": median_ms(sampled)},
            "memory_stats_us": statistics_us(),
            "last": {name: one.values[-1] for name, one in counters.items()},
            "largest": {name: max(one.values) for name, one in counters.items()},
        }
        print(json.dumps(told), flush=True)
        ok &= not missing and inside and not left
    sys.exit(not ok)


if __name__ == "__main__":
    main()

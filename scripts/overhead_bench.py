"""The bench of scripts/overhead.py: one model, and visits to it, each one generation timed, in one of the ways."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from overhead_ways import WAYS

AT_ONCE_S = 1e-9
"""A time limit that ends a generation after its first token: the rest of it stays as it is, cache sizes included."""

WARMUPS = 3
"""Whole generations before the first visit: a CUDA graph is run, recorded and replayed before it is at its speed."""


@dataclass(frozen=True)
class Configuration:
    """One model, one way of decoding. ``side`` counts visual tokens along the picture's side."""

    shape: str
    mode: str
    device: str
    new: int
    side: int


class Bench:
    """A model of that configuration, its inputs, and visits: one generation, timed, looked at in one of the ways."""

    def __init__(self, configuration: Configuration) -> None:
        import random_vlm
        import torch

        from vlmtrace.capture.discovery.search import discover

        self.configuration = configuration
        self.dtype = torch.bfloat16 if configuration.device.startswith("cuda") else torch.float32
        self.model = random_vlm.build(configuration.shape, configuration.device, self.dtype)
        made = random_vlm.make_inputs(self.model, configuration.shape, side=configuration.side)
        self.inputs = made.to(configuration.device, self.dtype)
        self.anatomy = discover(self.model, {})
        self._known = {"off"}
        for _ in range(WARMUPS):
            self.generate()

    def generate(self, **more: Any) -> Any:
        import torch

        if self.configuration.mode == "compiled":
            more["cache_implementation"] = "static"
        with torch.inference_mode():
            return self.model.generate(**self.inputs, max_new_tokens=self.configuration.new, do_sample=False, **more)

    def sync(self) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def visit(self, way: str, path: str | None = None) -> dict[str, Any]:
        """One timed generation: ms, added waits and what the way tells; with ``path`` also what its trace costs.

        A way's first visit is made once more before, for nothing. The generation of one token before the timed one
        takes what a session pays once (calibration, buffers), and brings the device out of its rest.
        """
        if way not in self._known:
            self._known.add(way)
            self.visit(way)
        looking = WAYS[way].make(self)
        gc.collect()
        with looking:
            self.generate(max_time=AT_ONCE_S)
            looking.ready()
            self.sync()
            graphs, begin = compiled_graphs(), time.perf_counter_ns()
            self.generate()
            self.sync()
            end = time.perf_counter_ns()
            compiled = compiled_graphs() - graphs
        written = None if path is None else looking.write(Path(path))
        readable = (time.perf_counter_ns() - end) / 1e9
        made = {"ms": (end - begin) / 1e6, "compiled": compiled} | looking.told()
        if written is not None:
            made |= {"bytes": written.stat().st_size, "readable_s": readable}
            written.unlink()
        return made

    def parts(self, detail: str) -> Iterator[tuple[str, Any, bool]]:
        """Name, module, and whether it may run inside a compiled step, of what vlmtrace marks at ``detail``."""
        found = self.anatomy
        yield "forward", found.generating[-1].module, True
        for name, parts in (("encoder", found.encoders), ("projector", found.projectors)):
            for part in parts:
                yield name, part.module, False
        if detail == "stage":
            return
        for part in found.inner_projectors:
            yield "projector", part.module, False
        if found.lm_head is not None:
            yield "lm_head", found.lm_head.module, True
        if detail == "layer":
            for part in found.vision_layers:
                yield "vision layer", part.module, False
            for part in found.layers:
                yield "layer", part.module, True


def versions(device: str) -> dict[str, Any]:
    """Where and with what this runs; part of every row."""
    import platform

    import torch
    import transformers

    import vlmtrace

    try:
        version = vlmtrace.__version__
    except ImportError:  # run from its folder, not installed
        version = "not installed"
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else f"no GPU, {platform.machine()}"
    return {
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "vlmtrace": version,
        "date": time.strftime("%Y-%m-%d"),
    }


def compiled_graphs() -> int:
    """How many graphs torch has compiled by now: a visit in which there were more says nothing about its way."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return 0 if dynamo is None else int(dynamo.counters["stats"]["unique_graphs"])


def serve(file: Any, configuration: Configuration) -> None:
    """A bench behind a socket: one line of JSON asks for a visit, one answers it; ends where the line ends."""
    bench = Bench(configuration)
    gc.collect()
    gc.freeze()  # what has been loaded is not searched again by the collections between visits
    answer: dict[str, Any] = asdict(configuration) | versions(configuration.device)
    answer["dtype"] = str(bench.dtype).removeprefix("torch.")
    while True:
        file.write(json.dumps(answer) + "\n")
        file.flush()
        line = file.readline()
        if not line:
            return
        answer = bench.visit(**json.loads(line))

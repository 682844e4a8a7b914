"""What one traced stage cannot go below, and what it costs in vlmtrace: measured in one run.

The floor of a stage is one pair of forward hooks, one NVTX range, and for each of its two marks the runtime's own
cudaEventRecord, the lookup of the raw stream, one reading of the host's clock, and two questions: whether torch is
compiling, and whether this thread is in a generation (the hooks are the model's, not the thread's). It is a module
whose hooks make these calls and nothing else. Each part is a loop of its own besides. All loops take turns, shuffled,
many times, and the loops' own cost is taken off. Without a GPU there is no event and no stream in it, as there is none
in vlmtrace.

Under a tool (`nsys profile ... scripts/overhead.py floor`) the same is measured with the tool attached, and said.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from overhead_report import Interval, median_interval

PARTS = {
    "hooks": "empty forward pre-hook and hook",
    "nvtx": "NVTX push and pop",
    "record": "cudaEventRecord",
    "stream": "raw stream lookup",
    "clock": "host clock",
    "guard": "is_dynamo_compiling()",
    "thread": "thread-local lookup",
}

ROWS = {
    **PARTS,
    "sum": "sum of these, two marks",
    "floor": "floor: all in two hooks",
    "traced": "a stage in vlmtrace",
}
RATIOS = {"ratio": "vlmtrace / floor", "ratio_to_sum": "vlmtrace / sum"}
MARKS = 2
EVENTS = 100_000


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", help="append the line of JSON to this file too")
    command.add_argument("--device", default="cuda")
    command.add_argument("--calls", type=int, default=200, help="in each loop; its 2 records a call must fit the queue")
    command.add_argument("--repeats", type=int, default=300, help="of each loop")


def main(options: argparse.Namespace) -> int:
    from overhead_bench import versions

    on_gpu = options.device.startswith("cuda")
    with Stage(on_gpu) as stage:
        taken = interleaved(stage, options.calls, options.repeats)
        told = {"floor": arithmetic(taken), "path": stage.path, "tool_attached": stage.tool_attached}
    if on_gpu:
        told["bytes_per_event"] = event_memory(stage.runtime, EVENTS)
    made = {"calls": options.calls, "repeats": options.repeats, **told, **versions(options.device)}
    line = json.dumps(made)
    print(line)
    for text in lines(made):
        print(text)
    if options.out is not None:
        with Path(options.out).open("a") as file:
            file.write(line + "\n")
    return 0


Timed = Callable[[int], None]


class Stage:
    """One module, bare, with empty hooks, or traced by vlmtrace, and loops over it and over the parts of a stage.

    A context manager: inside, this thread counts as being in a generation.
    """

    def __init__(self, on_gpu: bool) -> None:
        import torch
        from torch import nn

        from vlmtrace.capture.boundaries import called, span
        from vlmtrace.capture.lanes import Lanes
        from vlmtrace.capture.listeners import attached_nvtx_domain
        from vlmtrace.capture.observed import CURRENT, Loop, Observed
        from vlmtrace.capture.wraps import Wraps
        from vlmtrace.timeline import names

        self.on_gpu = on_gpu
        domain = attached_nvtx_domain()
        voice = Lanes(names.KINDS.__getitem__, domain).voice(torch.cuda.current_device() if on_gpu else None)
        self.tool_attached = domain is not None
        self.tape = voice.tape
        self.path = "host clock" if voice.tape.clock is None else voice.tape.clock.path
        self.value = torch.empty(0)
        self.bare, self.hooked, self.traced = nn.Identity(), nn.Identity(), nn.Identity()
        self.hooked.register_forward_pre_hook(_before)
        self.hooked.register_forward_hook(_after)
        self.floor = nn.Identity()
        Wraps().add(self.traced, called(self.traced), partial(span, names.KIND_OF[names.ENCODER], 0, False))
        self._current, self._observed = CURRENT, Observed(voice.listener.mark, lambda: None, Loop(self.traced))
        self.runtime = Runtime() if on_gpu else None
        before, after = _only(self.runtime)
        self.floor.register_forward_pre_hook(before)
        self.floor.register_forward_hook(after)

    def __enter__(self) -> Stage:
        self._before, self._current.observed = self._current.observed, self._observed
        return self

    def __exit__(self, *raised: Any) -> None:
        self._current.observed = self._before

    def settle(self, calls: int) -> None:
        """Between loops: forget the marks, make room for the next ones, and let the device come to rest."""
        import torch

        self.tape.discard()
        self.tape.reserve(MARKS * calls)
        if self.on_gpu:
            torch.cuda.synchronize()

    def loops(self, calls: int) -> dict[str, Timed]:
        """What is timed, by name; each runs that often."""
        made = {
            "empty": _empty,
            "bare": self._calling(self.bare),
            "hooked": self._calling(self.hooked),
            "traced": self._calling(self.traced),
            "floor": self._calling(self.floor),
            "nvtx": _nvtx(),
            "clock": _clock,
            "guard": _guard,
            "thread": _thread,
        }
        return made if self.runtime is None else made | self.runtime.loops(calls)

    def _calling(self, module: Any) -> Timed:
        value = self.value

        def loop(calls: int) -> None:
            for _ in range(calls):
                module(value)

        return loop


def _before(module: Any, args: Any) -> None:
    """An empty pre-hook."""


def _after(module: Any, args: Any, output: Any) -> None:
    """An empty hook."""


def _only(runtime: Runtime | None) -> tuple[Callable[..., None], Callable[..., None]]:
    """Hooks that make the calls of one stage and nothing else: they keep no time, and no event is there to be read."""
    import torch

    from vlmtrace.capture.observed import CURRENT

    is_traced, now = torch.compiler.is_dynamo_compiling, time.monotonic_ns
    push, pop, attributes = _range()
    if runtime is None:

        def before(*given: Any) -> None:  # noqa: ARG001
            is_traced()
            CURRENT.observed  # noqa: B018
            now()
            push(attributes)

        def after(*given: Any) -> None:  # noqa: ARG001
            is_traced()
            CURRENT.observed  # noqa: B018
            pop()
            now()

        return before, after

    raw_stream, device = runtime.raw_stream, runtime.device
    record, (begin, end), stream = runtime.fast_record(2)

    def before_on_device(*given: Any) -> None:  # noqa: ARG001
        is_traced()
        CURRENT.observed  # noqa: B018
        now()
        raw_stream(device)
        record(begin, stream)
        push(attributes)

    def after_on_device(*given: Any) -> None:  # noqa: ARG001
        is_traced()
        CURRENT.observed  # noqa: B018
        pop()
        now()
        raw_stream(device)
        record(end, stream)

    return before_on_device, after_on_device


def _empty(calls: int) -> None:
    for _ in range(calls):
        pass


def _clock(calls: int) -> None:
    now = time.monotonic_ns
    for _ in range(calls):
        now()


def _guard(calls: int) -> None:
    import torch

    is_traced = torch.compiler.is_dynamo_compiling
    for _ in range(calls):
        is_traced()


def _thread(calls: int) -> None:
    from vlmtrace.capture.observed import CURRENT

    for _ in range(calls):
        CURRENT.observed  # noqa: B018


def _range() -> tuple[Callable[[Any], object], Callable[[], object], Any]:
    import nvtx

    domain = nvtx.get_domain("overhead")
    return domain.push_range, domain.pop_range, domain.get_event_attributes(message="stage")


def _nvtx() -> Timed:
    push, pop, attributes = _range()

    def loop(calls: int) -> None:
        for _ in range(calls):
            push(attributes)
            pop()

    return loop


class Runtime:
    """The CUDA runtime that torch has loaded, called through ctypes and nothing else."""

    def __init__(self) -> None:
        import torch

        self.library = ctypes.PyDLL(f"libcudart.so.{(torch.version.cuda or '').partition('.')[0]}")
        self.library.cudaEventCreateWithFlags.argtypes = (ctypes.c_void_p, ctypes.c_uint)
        self.library.cudaEventRecord.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        self.library.cudaEventDestroy.argtypes = (ctypes.c_void_p,)
        self.device = torch.cuda.current_device()
        self.raw_stream: Callable[[int], int] = torch._C._cuda_getCurrentRawStream

    def events(self, count: int) -> Any:
        """An array of that many new events, its own memory touched before they are made."""
        array = (ctypes.c_void_p * count)()
        size = ctypes.sizeof(ctypes.c_void_p)
        ctypes.memset(array, 1, count * size)
        for i in range(count):
            code = self.library.cudaEventCreateWithFlags(ctypes.byref(array, i * size), 0)
            if code:
                raise RuntimeError(f"cudaEventCreateWithFlags failed with CUDA error {code}")
        return array

    def fast_record(self, count: int) -> tuple[Callable[[Any, Any], None], list[Any], Any]:
        """cudaEventRecord, that many events and the current stream, as ctypes passes pointers on.

        What it makes of a pointer before it calls is made once: that is the least that a call can cost.
        """
        record = ctypes.PyDLL(self.library._name).cudaEventRecord
        record.restype = None
        argument = ctypes.c_void_p.from_param
        return record, [argument(event) for event in self.events(count)], argument(self.raw_stream(self.device))

    def loops(self, calls: int) -> dict[str, Timed]:
        raw_stream, device = self.raw_stream, self.device
        record, handles, stream = self.fast_record(calls)

        def recording(calls: int) -> None:  # noqa: ARG001
            for event in handles:
                record(event, stream)

        def looking_up(calls: int) -> None:
            for _ in range(calls):
                raw_stream(device)

        return {"record": recording, "stream": looking_up}


def interleaved(stage: Stage, calls: int, repeats: int) -> dict[str, list[float]]:
    """Nanoseconds a call of every loop, one value a repeat; the loops change places in each."""
    loops = stage.loops(calls)
    taken: dict[str, list[float]] = {name: [] for name in loops}
    order = list(loops)
    rng = random.Random(0)
    for repeat in range(-2, repeats):  # the first two are for nothing
        rng.shuffle(order)
        for name in order:
            stage.settle(calls)
            begin = time.perf_counter_ns()
            loops[name](calls)
            end = time.perf_counter_ns()
            if repeat >= 0:
                taken[name].append((end - begin) / calls)
    stage.settle(calls)
    return taken


def arithmetic(taken: dict[str, list[float]]) -> dict[str, Interval]:
    """Each part, their sum, the floor, the traced stage (ns), and its ratio to both: worked out repeat by repeat.

    The sum is below the floor: a loop of one call has the processor's caches to itself.
    """
    each: dict[str, list[float]] = {
        "hooks": _minus(taken["hooked"], taken["bare"]),
        **{name: _minus(taken[name], taken["empty"]) for name in PARTS if name in taken},
    }
    a_mark = [each[name] for name in ("record", "stream", "clock", "guard", "thread") if name in each]
    once = (each["hooks"], each["nvtx"])
    each["sum"] = [
        sum(part[i] for part in once) + MARKS * sum(part[i] for part in a_mark) for i in range(len(each["hooks"]))
    ]
    each["floor"] = _minus(taken["floor"], taken["bare"])
    each["traced"] = _minus(taken["traced"], taken["bare"])
    for ratio, base in (("ratio", "floor"), ("ratio_to_sum", "sum")):
        each[ratio] = [traced / least for traced, least in zip(each["traced"], each[base], strict=True)]
    return {name: median_interval(values) for name, values in each.items()}


def _minus(values: list[float], base: list[float]) -> list[float]:
    return [value - less for value, less in zip(values, base, strict=True)]


def event_memory(runtime: Runtime | None, count: int) -> dict[str, float]:
    """Bytes of the process's resident memory and of the device's, for each of ``count`` events made, then recorded."""
    import torch

    if runtime is None:
        raise ValueError("events need a GPU")
    stream = runtime.raw_stream(runtime.device)
    torch.cuda.synchronize()
    host, device = _resident(), torch.cuda.mem_get_info()[0]
    events = runtime.events(count)
    made_host, made_device = _resident(), torch.cuda.mem_get_info()[0]
    for i, event in enumerate(events):
        runtime.library.cudaEventRecord(event, stream)
        if i % 500 == 0:
            torch.cuda.synchronize()
    torch.cuda.synchronize()
    used_host, used_device = _resident(), torch.cuda.mem_get_info()[0]
    for event in events:
        runtime.library.cudaEventDestroy(event)
    return {
        "count": count,
        "host_made": (made_host - host) / count,
        "host_recorded": (used_host - host) / count,
        "device_made": (device - made_device) / count,
        "device_recorded": (device - used_device) / count,
    }


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def lines(made: dict[str, Any]) -> list[str]:
    """The same for a person to read."""
    floor = made["floor"]
    tool = "attached" if made["tool_attached"] else "not attached"
    injected = " (injected)" if any(name.endswith("INJECTION64_PATH") for name in os.environ) else ""
    texts = [f"{made['gpu']} · {made['path']} · an NVTX tool is {tool}{injected}"]
    for name, title in ROWS.items():
        if name in floor:
            middle, low, high = floor[name]
            texts.append(f"{title:32} {middle:8.0f} ns  [{low:.0f}, {high:.0f}]")
    for name, title in RATIOS.items():
        middle, low, high = floor[name]
        texts.append(f"{title:32} {middle:8.2f}     [{low:.2f}, {high:.2f}]")
    memory = made.get("bytes_per_event")
    if memory is not None:
        texts.append(
            f"one event: {memory['host_made']:.0f} bytes of host memory when made, {memory['host_recorded']:.0f} once "
            f"recorded; {memory['device_made']:.0f} and {memory['device_recorded']:.0f} of the device's"
        )
    return texts

"""Events of torch.profiler as Kineto writes them, made up: of ranges, calls and kernels, or around a recording."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording

PROCESS = 470
Event = dict[str, Any]

WITHIN = (names.VISION, names.PREFILL, names.STEP)


def micro(ns: int) -> Decimal:
    return Decimal(ns) / 1000


def ranged(name: str, begin: int, end: int, tid: int, number: int | None = None) -> Event:
    return _complete("cpu_op", names.in_profile(name, number), (begin, end), (PROCESS, tid), {"External id": 1})


def called(name: str, begin: int, end: int, tid: int, correlation: int, cat: str = "cuda_runtime") -> Event:
    return _complete(cat, name, (begin, end), (PROCESS, tid), {"cbid": 211, "correlation": correlation})


def kernel(name: str, begin: int, end: int, correlation: int, stream: int = 7) -> Event:
    args = {"device": 0, "stream": stream, "correlation": correlation, "grid": [64, 1, 1], "block": [128, 1, 1]}
    return _complete("kernel", name, (begin, end), (0, stream), args)


def copied(name: str, begin: int, end: int, correlation: int, size: int) -> Event:
    category = "gpu_memset" if name.startswith("Memset") else "gpu_memcpy"
    args = {"device": 0, "stream": 7, "correlation": correlation, "bytes": size}
    return _complete(category, name, (begin, end), (0, 7), args)


def _complete(cat: str, name: str, time: tuple[int, int], where: tuple[int, int], args: Event) -> Event:
    (begin, end), (pid, tid) = time, where
    made: Event = {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid}
    return made | {"ts": micro(begin), "dur": micro(end - begin), "args": args}


def around(recording: Recording, offset: int, *, marks: bool = True) -> Iterator[Event]:
    """What a profiler whose clock is ``offset`` ns behind the axis saw of a recording: 1 µs beside each mark a range.

    Each vision, prefill and step launches two kernels and a copy. With ``marks`` the calls that record them are seen.
    """
    correlation = 0
    for span in recording.spans:
        if span.name not in (names.GENERATE, *WITHIN):
            continue
        tid, begin, end = recording.tracks[span.track].thread, span.host_begin - offset, span.host_end - offset
        outer = span.name == names.GENERATE
        yield ranged(span.name, begin + 1_000, end + 1_000 if outer else end - 500, tid, span.number)
        if marks:
            for at in (begin + 300, end + 300):
                correlation += 1
                yield called("cudaEventRecord", at, at + 400, tid, correlation)
        for number in () if outer else range(3):
            correlation += 1
            at = begin + 10_000 * (number + 1)
            yield called("cudaLaunchKernel", at, at + 2_000, tid, correlation)
            ran = span.begin - offset + 20_000 * (number + 1)
            if number == 2:
                yield copied("Memcpy HtoD (Pageable -> Device)", ran, ran + 5_000, correlation, 4096)
            else:
                yield kernel("void at::native::gemm<4>(float*)", ran, ran + 15_000, correlation)


def written(events: Iterable[Event], path: Path) -> Path:
    """The events as a file of Kineto's, head and tail included."""
    head = {"schemaVersion": 1, "displayTimeUnit": "ms", "baseTimeNanoseconds": 1_790_857_026_000_000_000}
    lines = ",\n".join(json.dumps(event, indent=2, default=float) for event in events)
    path.write_text(f'{json.dumps(head)[:-1]}, "traceEvents": [\n{lines}\n],\n"traceName": "profile.json"\n}}\n')
    return path

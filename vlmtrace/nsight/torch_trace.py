"""A trace of torch.profiler, read as a report: what ran on the devices, the calls that launched it, and our ranges.

It is Chrome trace events as Kineto writes them: one large object with one event for each operator, call and kernel.
Events are decoded one at a time, so that memory holds the columns and not the file. Times are whole nanoseconds from
the file's own base, and threads are numbered as Nsight does.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Final, TextIO

from vlmtrace.errors import VlmtraceError
from vlmtrace.nsight.report import COPY, KERNEL, SET, Marks, Ranges, Report, Work, thread_of
from vlmtrace.timeline import names
from vlmtrace.timeline.spans import NONE

__all__ = ["TOOL", "read", "report_of", "short_name"]

TOOL: Final = "torch.profiler"

_KINDS: Final = {"kernel": KERNEL, "gpu_memcpy": COPY, "gpu_memset": SET}
_CALLS: Final = frozenset(("cuda_runtime", "cuda_driver"))
_RANGES: Final = frozenset(("cpu_op", "user_annotation"))
_RECORDS: Final = ("cudaEventRecord", "hipEventRecord")
_EVENTS: Final = re.compile(r'"traceEvents"\s*:\s*\[')
_CHUNK: Final = 1 << 20
_WORK: Final = tuple(field.name for field in fields(Work))
_ANONYMOUS: Final = "(anonymous namespace)::"


def read(path: Path, version: str) -> Report:
    """Read the trace that torch ``version`` has written.

    Raises:
        VlmtraceError: it cannot be read, or is cut short or damaged.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return report_of(_events(file), version)
    except OSError as error:
        raise VlmtraceError(f"'{path}' cannot be read", (error.strerror or str(error)).lower()) from None
    except (ValueError, ArithmeticError, KeyError, TypeError) as error:
        raise VlmtraceError(f"'{path}' is no whole trace of torch.profiler ({error})", "profile again") from None


def report_of(events: Iterable[Mapping[str, Any]], version: str) -> Report:
    """The report that ``events`` make, in any order; ``ts`` and ``dur`` are in µs, exact to the nanosecond.

    A launch that calls into the driver is two calls with one number: that which began first counts.

    Raises:
        KeyError: an event lacks what every event of its kind has.
    """
    made = _Columns()
    for event in events:
        category = event.get("cat")
        if category in _KINDS:
            made.operation(_KINDS[category], event)
        elif category in _CALLS:
            made.call(event)
        elif category in _RANGES:
            made.range(event)
    return made.report(version)


class _Columns:
    def __init__(self) -> None:
        self.texts: dict[str, int] = {}
        self.calls: dict[int, tuple[int, int, int, int]] = {}
        self.marks: list[tuple[int, int]] = []
        self.ranges: list[tuple[int, int, str, int, int]] = []
        self.work = {key: array("q") for key in _WORK}
        self.correlation = array("q")

    def operation(self, kind: int, event: Mapping[str, Any]) -> None:
        args, name = event.get("args", {}), str(event["name"])
        begin, end = _times(event)
        self.correlation.append(int(args.get("correlation", NONE)))
        told = {
            "kind": kind,
            "start": begin,
            "end": end,
            "device": int(args.get("device", NONE)),
            "stream": int(args.get("stream", NONE)),
            "name": self.text(short_name(name) if kind == KERNEL else name.partition(" (")[0]),
            "full": self.text(name) if kind == KERNEL else NONE,
            "grid": self.shape(args.get("grid")),
            "block": self.shape(args.get("block")),
            "size": int(args.get("bytes", NONE)),
        }
        for key, column in self.work.items():
            column.append(told.get(key, NONE))

    def call(self, event: Mapping[str, Any]) -> None:
        name, (begin, end), thread = str(event["name"]), _times(event), _thread(event)
        if name.startswith(_RECORDS):
            self.marks.append((begin, thread))
        correlation = event.get("args", {}).get("correlation")
        if correlation is None:
            return
        known = self.calls.get(int(correlation))
        if known is None or begin < known[0]:
            self.calls[int(correlation)] = begin, end, thread, self.text(name)

    def range(self, event: Mapping[str, Any]) -> None:
        told = names.of_profile(str(event["name"]))
        if told is not None:
            (name, number), (begin, end) = told, _times(event)
            self.ranges.append((begin, -end, name, _thread(event), NONE if number is None else number))

    def text(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))

    def shape(self, sides: Any) -> int:
        """The text of a grid or block, ``NONE`` where it is not told."""
        return self.text("×".join(map(str, sides))) if isinstance(sides, list) and len(sides) == 3 else NONE

    def report(self, version: str) -> Report:
        unknown = (NONE, NONE, NONE, NONE)
        for row, correlation in enumerate(self.correlation):
            launched_by = self.calls.get(correlation, unknown)
            for key, value in zip(("call_start", "call_end", "thread", "call"), launched_by, strict=True):
                self.work[key][row] = value
        self.ranges.sort()
        self.marks.sort()
        begins, ends, texts, threads, numbers = zip(*self.ranges, strict=True) if self.ranges else [()] * 5
        return Report(
            product=version,
            schema="1",
            unix_ns=None,
            host_ns=None,
            strings=tuple(self.texts),
            ranges=Ranges(
                texts,
                array("q", begins),
                array("q", (-end for end in ends)),
                array("q", threads),
                array("q", numbers),
            ),
            marks=Marks(*(array("q", (mark[at] for mark in self.marks)) for at in (0, 1))),
            work=Work(**self.work),
            pending=0,
            gpus={},
            tool=TOOL,
        )


@cache
def short_name(name: str) -> str:
    """What a kernel is called without namespaces, template arguments and parameters: as Nsight Systems shortens it."""
    plain = name.replace(_ANONYMOUS, "")
    cut = min((at for at in (plain.find("<"), plain.find("(")) if at >= 0), default=len(plain))
    return plain[:cut].strip().rpartition(" ")[2].rpartition("::")[2] or name


def _times(event: Mapping[str, Any]) -> tuple[int, int]:
    begin = _ns(event["ts"])
    return begin, begin + max(0, _ns(event.get("dur", 0)))


def _ns(microseconds: Any) -> int:
    return int(microseconds * 1000)


def _thread(event: Mapping[str, Any]) -> int:
    return thread_of(int(event["pid"]), int(event["tid"]))


def _events(file: TextIO) -> Iterator[Mapping[str, Any]]:
    """The events of a file, one after another.

    Raises:
        ValueError: it ends before they do, or something else stands among them.
    """
    decode = json.JSONDecoder(parse_float=Decimal).raw_decode
    text = ""
    while (found := _EVENTS.search(text)) is None:
        if not (more := file.read(_CHUNK)):
            raise ValueError("it has no events")
        text += more
    at = found.end()
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        if text[at : at + 1] == "]":
            return
        try:
            event, at = decode(text, at)
        except ValueError:
            if not (more := file.read(_CHUNK)):
                raise
            text, at = text[at:] + more, 0
            continue
        yield event

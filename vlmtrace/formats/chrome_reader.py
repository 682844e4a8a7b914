"""Chrome, read: the recording that a ``.json`` or ``.json.gz`` file of vlmtrace's holds.

Line by line where the file is as vlmtrace wrote it; as a whole where another program has laid it out anew.
"""

from __future__ import annotations

import json
from decimal import Decimal
from io import TextIOWrapper
from typing import Any, BinaryIO

from vlmtrace.errors import TraceFormatError
from vlmtrace.formats.chrome import CLOSING, DOCUMENT_KEY, OPENING
from vlmtrace.formats.collecting import Collector
from vlmtrace.formats.document import decoded
from vlmtrace.formats.slices import DERIVED
from vlmtrace.timeline.recording import Recording

__all__ = ["read"]


def read(stream: BinaryIO) -> Recording:
    """The recording in ``stream``, not validated yet.

    Raises:
        TraceFormatError: another tool wrote it, or it is cut short.
        ValueError: and what else damaged bytes lead to.
    """
    lines = TextIOWrapper(stream, encoding="utf-8", newline="\n")
    first = lines.readline()
    if not first.startswith(OPENING):
        return _whole(first + lines.read())
    head = first.rstrip().removesuffix("[") + "[]}"
    try:
        reader = _Reader(json.loads(head))
    except ValueError:
        return _whole(first + lines.read())
    for line in lines:
        if line.startswith("{"):
            reader.event(json.loads(line.rstrip().removesuffix(","), parse_float=str))
        elif line.rstrip() == CLOSING:
            if lines.read().strip():  # reading on to the end also has gzip check its sum
                raise ValueError("it goes on after its end")
            return reader.collector.recording()
    raise TraceFormatError("it has no end: it was cut short", "record it again or copy it again")


def _whole(text: str) -> Recording:
    try:
        trace = json.loads(text, parse_float=Decimal)
    except ValueError as error:
        raise TraceFormatError(f"it is not JSON, or cut short ({error})", "take another copy") from None
    reader = _Reader(trace)
    for event in trace["traceEvents"]:
        reader.event(event)
    return reader.collector.recording()


class _Reader:
    def __init__(self, trace: object) -> None:
        other = trace.get("otherData") if isinstance(trace, dict) else None
        document = other.get(DOCUMENT_KEY) if isinstance(other, dict) else None
        if document is None:
            raise TraceFormatError("it is not a trace that vlmtrace wrote", "make one with `vlmtrace record`")
        self.collector = Collector(decoded(document))
        self.tracks: dict[int, int] = {}

    def event(self, event: dict[str, Any]) -> None:
        kind = event["ph"]
        if kind == "M":
            if event["name"] == "thread_name" and "track" in event["args"]:
                self.tracks[event["tid"]] = event["args"]["track"]
        elif DERIVED in event["cat"].split(","):
            return
        elif kind in ("X", "i"):
            at = _nanoseconds(event["ts"])
            position = self.collector.begin(self.tracks[event["tid"]], event["name"], at, event["args"])
            self.collector.end(position, at + _nanoseconds(event["dur"]) if kind == "X" else at)
        elif kind == "C":
            self.collector.sample(event["counter"], _nanoseconds(event["ts"]), *event["args"].values())


def _nanoseconds(value: int | str | Decimal) -> int:
    """A JSON number of microseconds in nanoseconds, exactly; it comes as text where it has a fraction."""
    if isinstance(value, str) and value[-4] == ".":
        return int(value[:-4] + value[-3:])
    return int(Decimal(value) * 1000)

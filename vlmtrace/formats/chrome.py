"""Chrome: a recording as Chrome trace events (``.json``, ``.json.gz``).

One event a line, so that reading goes line by line. Times are microseconds with exactly three decimals, written from
integers, and count from the recording's origin: no reader that parses them as doubles loses a nanosecond. Arrows are
``bind_id``s on the slices themselves: start and finish events bind to whichever slice is innermost at their time, and
stages that begin together would steal each other's.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

from vlmtrace.formats.arguments import TOLD, SpanArguments
from vlmtrace.formats.document import dumped, quoted
from vlmtrace.formats.facts import facts
from vlmtrace.formats.findings import FINDING_CATEGORY, finding_instants
from vlmtrace.formats.layout import COUNTERS, GROUP, TRACK, Layout, Row, layout_of
from vlmtrace.formats.slices import DERIVED, Slice, Slices, earliest, series
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording

__all__ = ["CLOSING", "DOCUMENT_KEY", "OPENING", "gzipped", "microseconds", "written"]

DOCUMENT_KEY: Final = "vlmtrace"
"""The document is ``otherData.vlmtrace``, on the file's first line."""
OPENING: Final = '{"otherData":{"' + DOCUMENT_KEY + '":'
_EVENTS: Final = '},"traceEvents":[\n'
CLOSING: Final = "]}"
_CHUNK: Final = 128 * 1024


def written(recording: Recording) -> Iterator[bytes]:
    """The trace of ``recording`` as JSON, in chunks of about a hundred kilobytes."""
    layout = layout_of(recording)
    start = earliest(recording, layout)
    base = min(recording.origin_ns, start)  # Perfetto drops events before 0
    lines = _Lines(recording, layout, base)
    chunk: list[str] = [OPENING, dumped(recording, base), _EVENTS]
    size, comma = 0, ""
    for line in lines.all(start):
        chunk.append(comma + line)
        comma = ",\n"
        size += len(line)
        if size >= _CHUNK:
            yield "".join(chunk).encode()
            chunk.clear()
            size = 0
    chunk.append(f"\n{CLOSING}\n")
    yield "".join(chunk).encode()


def gzipped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """``chunks`` as one gzip member without name and time, so that equal recordings make equal files."""
    packer = zlib.compressobj(wbits=31)
    for chunk in chunks:
        if packed := packer.compress(chunk):
            yield packed
    yield packer.flush()


Argument: TypeAlias = "int | float | str | Mapping[str, int | float | str]"


def microseconds(ns: int) -> str:
    """``ns`` as a JSON number of microseconds with three decimals, exactly."""
    whole, rest = divmod(abs(ns), 1000)
    return f"{'-' if ns < 0 else ''}{whole}.{rest:03d}"


class _Lines:
    """The events, each as one line of JSON without its comma.

    Processes are numbered from 1 and threads on from there: Perfetto takes a thread 0, and one numbered like its
    process, for the process's main thread.
    """

    def __init__(self, recording: Recording, layout: Layout, base: int) -> None:
        self.recording, self.layout, self.base = recording, layout, base
        self.pids = [layout.processes[row.process].number + 1 for row in layout.rows]
        self.tids = [len(layout.processes) + row.number + 1 for row in layout.rows]
        self._quoted: dict[str, str] = {}

    def all(self, start: int) -> Iterator[str]:
        yield from self._metadata()
        row = self.layout.facts.number
        told = quoted(facts(self.recording, len(self.layout.findings)))
        yield (
            f'{{"ph":"i","s":"t","pid":{self.pids[row]},"tid":{self.tids[row]},"ts":{microseconds(start - self.base)},'
            f'"cat":"{DERIVED}","name":"{names.RECORDING}","args":{told}}}'
        )
        yield from self._findings()
        yield from self._slices()
        yield from self._counters()

    def _metadata(self) -> Iterator[str]:
        for process in self.layout.processes:
            where = f'"ph":"M","pid":{process.number + 1}'
            yield f'{{{where},"name":"process_name","args":{{"name":{self._text(process.title)}}}}}'
            yield f'{{{where},"name":"process_sort_index","args":{{"sort_index":{process.number}}}}}'
        for row in self.layout.rows:
            if row.kind != GROUP and row.kind not in COUNTERS:
                where = f'"ph":"M","pid":{self.pids[row.number]},"tid":{self.tids[row.number]}'
                track = f',"track":{row.index}' if row.kind == TRACK else ""
                title = self._text(self.layout.full_title(row))
                yield f'{{{where},"name":"thread_name","args":{{"name":{title}{track}}}}}'
                yield f'{{{where},"name":"thread_sort_index","args":{{"sort_index":{row.number}}}}}'

    def _findings(self) -> Iterator[str]:
        for row, at, name, args in finding_instants(self.recording, self.layout):
            yield (
                f'{{"ph":"i","s":"t","pid":{self.pids[row.number]},"tid":{self.tids[row.number]},'
                f'"ts":{microseconds(at - self.base)},"cat":"{FINDING_CATEGORY}","name":{self._text(name)},'
                f'"args":{{{self._args(args)}}}}}'
            )

    def _slices(self) -> Iterator[str]:
        arguments = SpanArguments(self.recording)
        places = [f'"pid":{pid},"tid":{tid},"ts":' for pid, tid in zip(self.pids, self.tids, strict=True)]
        drawn = Slices(self.recording, self.layout)
        for one in drawn.in_order():
            args: dict[str, Argument] = {"span": one.span} if one.derived else {**arguments.of(one.span, one.title)}
            if not one.derived and (told := drawn.told.of(one.span)):
                args[TOLD] = told
            # An arrow can arrive at a slice alone, be it as short as an instant.
            is_instant = one.instant and not one.arrives
            kind = '"ph":"i","s":"t"' if is_instant else f'"ph":"X","dur":{microseconds(one.end - one.begin)}'
            yield (
                f"{{{kind},{places[one.row]}{microseconds(one.begin - self.base)},{_flow(one)}"
                f'"cat":"{one.category}","name":{self._text(one.title)},"args":{{{self._args(args)}}}}}'
            )

    def _args(self, args: Mapping[str, Argument]) -> str:
        text = self._text
        return ",".join([f"{text(key)}:{self._value(value)}" for key, value in args.items()])

    def _value(self, value: Argument) -> str:
        if isinstance(value, str):
            return self._text(value)
        return f"{{{self._args(value)}}}" if isinstance(value, Mapping) else str(value)

    def _counters(self) -> Iterator[str]:
        for one in series(self.recording, self.layout):
            row: Row = one.row
            what = f'"cat":"{DERIVED}"' if row.index is None else f'"cat":"counter","counter":{row.index}'
            head = f'{{"ph":"C","pid":{self.pids[row.number]},{what},"name":{self._text(row.title)},"ts":'
            unit = self._text(row.unit or "value")
            for time, value in zip(one.times, one.values, strict=True):
                yield f'{head}{microseconds(time - self.base)},"args":{{{unit}:{value}}}}}'

    def _text(self, text: str) -> str:
        made = self._quoted.get(text)
        if made is None:
            made = self._quoted[text] = quoted(text)
        return made


def _flow(one: Slice) -> str:
    if not (one.arrives or one.leaves):
        return ""
    ends = '"flow_in":true,' * one.arrives + '"flow_out":true,' * one.leaves
    return f'"bind_id":"{one.flow:#x}",{ends}'

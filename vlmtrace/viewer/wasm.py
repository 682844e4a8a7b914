"""Wasm: the trace processor's WebAssembly build, run by wasmtime in this process.

The module speaks the protocol of the UI's worker. Requests are written into a buffer that it hands out, replies come
by a callback; both are the messages of ``TraceProcessorRpcStream`` (protos/perfetto/trace_processor/
trace_processor.proto in Perfetto's sources). It is 32-bit: a trace and its tables may take 4 GiB.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import wasmtime

from vlmtrace.errors import ProcessorError
from vlmtrace.viewer.processor import TraceProcessor, message_types, one_line

__all__ = ["WasmProcessor"]

_BUFFER: Final = 32 << 20
_PAGE: Final = 65536
_MOST_PAGES: Final = 65535
_ENOSYS: Final = -52
_MASK: Final = 0xFFFFFFFF
"""Addresses come as signed 32-bit integers."""


@cache
def _compiled(path: Path) -> tuple[wasmtime.Engine, wasmtime.Module]:
    """Compiling takes seconds: once in a process, and kept on disk by wasmtime for the next where it can."""
    config = wasmtime.Config()
    try:
        config.cache = True
    except wasmtime.WasmtimeError:  # no folder for it
        config = wasmtime.Config()
    engine = wasmtime.Engine(config)
    return engine, wasmtime.Module.from_file(engine, str(path))


class WasmProcessor(TraceProcessor):
    """An instance of the module with a memory of its own."""

    def __init__(self, module: Path) -> None:
        engine, compiled = _compiled(module)
        self._store: wasmtime.Store | None = wasmtime.Store(engine)
        linker = wasmtime.Linker(engine)
        for wanted in compiled.imports:
            kind: Any = wanted.type
            host = wasmtime.Func(self._store, kind, self._host(str(wanted.name), kind))
            linker.define(self._store, wanted.module, str(wanted.name), host)
        exports: Any = linker.instantiate(self._store, compiled).exports(self._store)
        self._memory = exports["memory"]
        self._request = exports["trace_processor_on_rpc_request"]
        exports["emscripten_stack_init"](self._store)
        exports["__wasm_call_ctors"](self._store)
        address = wasmtime.ValType.i32()
        reply = wasmtime.Func(self._store, wasmtime.FuncType([address, address], []), self._on_reply)
        place = exports["__indirect_function_table"].grow(self._store, 1, reply)
        self._buffer = exports["trace_processor_rpc_init"](self._store, place, _BUFFER) & _MASK
        self._replies: list[bytes] = []
        self._sequence = 0

    def close(self) -> None:
        """Give the module's memory back."""
        self._store = None

    def _append(self, data: bytes) -> str:
        replies = self._call("TPM_APPEND_TRACE_DATA", append_trace_data=data)
        return "".join(reply.append_result.error for reply in replies)

    def _finish(self) -> str:
        return "".join(reply.finalize_data_result.error for reply in self._call("TPM_FINALIZE_TRACE_DATA"))

    def _ask(self, sql: str) -> list[Any]:
        replies = self._call("TPM_QUERY_STREAMING", query_args=message_types().QueryArgs(sql_query=sql))
        return [reply.query_result for reply in replies]

    def _call(self, method: str, **arguments: Any) -> Any:
        """Send one request and answer the messages that reply to it."""
        types = message_types()
        number = types.TraceProcessorRpc.TraceProcessorMethod.Value(method)
        request = types.TraceProcessorRpc(seq=self._sequence, request=number, **arguments)
        self._sequence += 1
        sent = types.TraceProcessorRpcStream(msg=[request]).SerializeToString()
        self._replies.clear()
        try:
            for start in range(0, len(sent), _BUFFER):
                part = sent[start : start + _BUFFER]
                self._memory.write(self._store, part, self._buffer)
                self._request(self._store, len(part))
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            what = one_line(str(error).partition("\n")[0])
            raise ProcessorError(f"Perfetto's trace processor broke down: {what}", "has the trace 4 GiB?") from error
        replies = types.TraceProcessorRpcStream.FromString(b"".join(self._replies)).msg
        self._replies.clear()
        for reply in replies:
            if reply.fatal_error:
                raise ProcessorError(f"Perfetto's trace processor broke down: {one_line(reply.fatal_error)}")
        return replies

    def _on_reply(self, at: int, size: int) -> None:
        at &= _MASK
        self._replies.append(bytes(self._memory.read(self._store, at, at + size)))

    def _host(self, name: str, kind: Any) -> Callable[..., Any]:
        """What the module expects of its surroundings; nearly all of it is never needed and answers "not here"."""
        answers: dict[str, Callable[..., Any]] = {
            "clock_time_get": self._clock_time_get,
            "fd_write": self._fd_write,
            "environ_sizes_get": self._environ_sizes_get,
            "environ_get": lambda *_: 0,
            "emscripten_resize_heap": self._resize_heap,
            "emscripten_get_heap_max": lambda: -_PAGE,
            "emscripten_get_now": lambda: time.monotonic() * 1000,
            "emscripten_date_now": lambda: time.time() * 1000,
        }
        if name in answers:
            return answers[name]
        results = list(kind.results)
        absent = None if not results else _ENOSYS if results[0] == wasmtime.ValType.i32() else 0
        return lambda *_: absent

    def _write(self, at: int, data: bytes) -> None:
        self._memory.write(self._store, data, at & _MASK)

    def _clock_time_get(self, _clock: int, _precision: int, out: int) -> int:
        self._write(out, struct.pack("<Q", time.time_ns()))
        return 0

    def _environ_sizes_get(self, count: int, size: int) -> int:
        self._write(count, bytes(4))
        self._write(size, bytes(4))
        return 0

    def _fd_write(self, _fd: int, parts: int, count: int, out: int) -> int:
        """What the module logs is dropped; what matters of it comes in replies."""
        parts &= _MASK
        vector = self._memory.read(self._store, parts, parts + 8 * count)
        self._write(out, struct.pack("<I", sum(size for _, size in struct.iter_unpack("<II", vector))))
        return 0

    def _resize_heap(self, size: int) -> int:
        """1 where the memory could grow to ``size`` bytes: by a fifth at least, so that it need not grow often."""
        pages = self._memory.size(self._store)
        wanted = ((size & _MASK) + _PAGE - 1) // _PAGE
        try:
            self._memory.grow(self._store, max(wanted, min(int(pages * 1.2), _MOST_PAGES)) - pages)
        except wasmtime.WasmtimeError:
            return 0
        return 1

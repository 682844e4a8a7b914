#!/usr/bin/env python3
"""Stands in for Perfetto's ``trace_processor_shell``: its HTTP interface, answered by the WebAssembly build."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from vlmtrace.viewer import builds
from vlmtrace.viewer.processor import message_types
from vlmtrace.viewer.wasm import WasmProcessor

module = builds.importer()
assert module is not None
processor = WasmProcessor(module)
types = message_types()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/notify_eof":
            processor._finish()
        self.answer(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/parse":
            self.answer(types.AppendTraceDataResult(error=processor._append(body)).SerializeToString())
        elif self.path == "/query":
            answers = processor._ask(types.QueryArgs.FromString(body).sql_query)
            self.answer(b"".join(one.SerializeToString() for one in answers))

    def answer(self, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--http-port") + 1])), Handler).serve_forever()

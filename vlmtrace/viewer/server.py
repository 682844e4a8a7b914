"""Server: one trace, offered to one browser on this machine, and to nobody else.

What protects the trace from other pages and programs: it listens on 127.0.0.1 only; the path cannot be guessed; a
request under another host name (DNS rebinding) or from another page's script is refused; and every file that can be
had is known before the first request, so that no path leads anywhere else.
"""

from __future__ import annotations

import mimetypes
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from vlmtrace.errors import VlmtraceError

__all__ = ["PERFETTO", "PERFETTO_PORT", "TraceServer"]

PERFETTO: Final = "https://ui.perfetto.dev"
PERFETTO_PORT: Final = 9001
"""The one local port from which the content security policy of :data:`PERFETTO` lets it read."""

_ADDRESS: Final = "127.0.0.1"
_METHODS: Final = "GET, HEAD, OPTIONS"
_PATIENCE_S: Final = 30
"""How long a connection may be silent."""
_POLL_S: Final = 0.1
_OFFLINE_POLICY: Final = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; frame-ancestors 'none'"
)
"""Keeps the local UI from calling home."""


class TraceServer(ThreadingHTTPServer):
    """Serves ``trace`` from when it is made; a context manager, after which the port is free.

    For the UI on the web, or with ``ui``, the folder of a UI's build, for that one, which it serves as well.

    Raises:
        VlmtraceError: the trace cannot be read, or the port is taken.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, trace: Path, *, port: int = 0, ui: Path | None = None) -> None:
        self.trace = _readable(trace)
        try:
            super().__init__((_ADDRESS, port), _Handler)
        except OSError as error:
            raise VlmtraceError(
                f"port {port} of {_ADDRESS} cannot be used: {error.strerror}",
                "the Perfetto UI reads from no other; end what uses it, or use --offline",
            ) from error
        here = f"http://{_ADDRESS}:{self.server_port}"
        secret = f"/{secrets.token_urlsafe(24)}"
        self.hosts = frozenset(f"{name}:{self.server_port}" for name in (_ADDRESS, "localhost"))
        self.trace_path = f"{secret}/{trace.name}"
        self.trace_url = here + quote(self.trace_path, errors="surrogateescape")
        self.files = {self.trace_path: self.trace}
        if ui is not None:
            self.files |= {f"{secret}/ui/{name}": file for name, file in _files_in(ui).items()}
        self.origin = PERFETTO if ui is None else here
        page = PERFETTO if ui is None else f"{here}{secret}/ui"
        self.page_url = f"{page}/#!/?url={quote(self.trace_url, safe=':/')}"
        self.policy = None if ui is None else _OFFLINE_POLICY
        self.fetched = threading.Event()
        self._active = 0
        self._last = time.monotonic()
        self._lock = threading.Lock()
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": _POLL_S}, name="vlmtrace open", daemon=True
        )
        self._thread.start()

    def __exit__(self, *raised: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def wait(self, idle_s: float | None = None, *, until_fetched: bool = True) -> bool:
        """Wait until the trace was fetched whole and answer whether it was.

        ``idle_s``: give up when nothing was asked for so long. Without ``until_fetched`` only that ends it.
        """
        while not (until_fetched and self.fetched.wait(_POLL_S)):
            if not until_fetched:
                time.sleep(_POLL_S)
            with self._lock:
                idle = 0.0 if self._active else time.monotonic() - self._last
            if idle_s is not None and idle >= idle_s:
                break
        return self.fetched.is_set()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Count the time inside as time in which something was asked."""
        with self._lock:
            self._active += 1
        try:
            yield
        finally:
            with self._lock:
                self._active -= 1
                self._last = time.monotonic()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser may hang up whenever it likes."""


class _Handler(BaseHTTPRequestHandler):
    server: TraceServer
    server_version = "vlmtrace"
    sys_version = ""
    timeout = _PATIENCE_S
    whole = False

    def handle(self) -> None:
        with self.server.active():
            super().handle()

    def finish(self) -> None:
        super().finish()
        if self.whole:
            self.server.fetched.set()

    def do_GET(self) -> None:
        path = self._allowed()
        if path is None:
            return
        try:
            file = self.server.files[path].open("rb")
        except OSError:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with file:
            size = file.seek(0, 2)
            file.seek(0)
            self._head(path, size)
            if self.command == "GET":
                shutil.copyfileobj(file, self.wfile)
                self.whole = path == self.server.trace_path

    do_HEAD = do_GET  # noqa: N815

    def do_OPTIONS(self) -> None:
        """What a browser asks before it lets a page from the web read from this machine."""
        if self._allowed() is not None:
            self.send_response(HTTPStatus.NO_CONTENT)
            self.send_header("Access-Control-Allow-Methods", _METHODS)
            self.send_header("Access-Control-Allow-Headers", "*")
            self.send_header("Access-Control-Allow-Private-Network", "true")
            self.end_headers()

    def _allowed(self) -> str | None:
        """The path that is asked for, decoded; ``None`` where it was refused."""
        origin = self.headers.get("Origin")
        if self.headers.get("Host") not in self.server.hosts or origin not in (None, self.server.origin):
            self.send_error(HTTPStatus.FORBIDDEN)
            return None
        path = unquote(urlsplit(self.path).path, errors="surrogateescape")
        path = path + "index.html" if path.endswith("/ui/") else path
        if path not in self.server.files:
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return path

    def _head(self, path: str, size: int) -> None:
        kind = None if path == self.server.trace_path else mimetypes.guess_type(path)[0]
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind or "application/octet-stream")
        self.send_header("Content-Length", str(size))
        if self.server.policy is not None:
            self.send_header("Content-Security-Policy", self.server.policy)
        self.end_headers()

    def end_headers(self) -> None:
        """What every answer says, a refusal too: to the UI's page alone, and kept by nobody."""
        self.send_header("Access-Control-Allow-Origin", self.server.origin)
        self.send_header("Vary", "Origin")
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Requests are nobody's news."""


def _readable(trace: Path) -> Path:
    """The file by its full path, so that it is found wherever the process goes."""
    try:
        with trace.open("rb"):
            return trace.resolve()
    except OSError as error:
        raise VlmtraceError(f"cannot read {str(trace)!r}: {error.strerror}") from error


def _files_in(folder: Path) -> dict[str, Path]:
    """Every file below ``folder`` by its path in there, links left out."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): path for path in found}

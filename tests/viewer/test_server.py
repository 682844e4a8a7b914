"""The server gives the trace to the one page it is meant for, and nothing to anybody else."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from vlmtrace.errors import VlmtraceError
from vlmtrace.viewer.server import PERFETTO, TraceServer

DATA = bytes(range(256)) * 3_000


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "a b&c#d%é.bin"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def ui(tmp_path: Path) -> Path:
    folder = tmp_path / "build"
    (folder / "v1").mkdir(parents=True)
    (folder / "index.html").write_text("<p>the UI</p>")
    (folder / "v1" / "engine.wasm").write_bytes(b"\0asm")
    (folder / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "secret").write_text("not for you")
    return folder


def asked(server: TraceServer, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()


def test_the_trace_is_served_whole_and_then_the_waiting_ends(trace: Path) -> None:
    with TraceServer(trace) as server:
        assert not server.wait(0.01)
        with urllib.request.urlopen(server.trace_url, timeout=10) as answer:
            assert answer.read() == DATA
            assert answer.headers["Content-Length"] == str(len(DATA))
        assert server.wait(10)


def test_the_address_names_the_page_and_the_file_and_cannot_be_guessed(trace: Path) -> None:
    with TraceServer(trace) as one, TraceServer(trace) as other:
        assert one.page_url.startswith(f"{PERFETTO}/#!/?url=http://127.0.0.1:{one.server_port}/")
        assert unquote(one.page_url.partition("?url=")[2]) == one.trace_url
        secret, name = unquote(urlsplit(one.trace_url).path).strip("/").split("/")
        assert name == trace.name
        assert len(secret) >= 32
        assert secret not in other.trace_url


def test_only_the_page_it_is_meant_for_may_read_the_answer(trace: Path) -> None:
    with TraceServer(trace) as server:
        path = urlsplit(server.trace_url).path
        status, body, headers = asked(server, path, Origin=PERFETTO)
        assert (status, body) == (200, DATA)
        assert headers["Access-Control-Allow-Origin"] == PERFETTO
        assert headers["Cache-Control"] == "no-store"
        status, body, headers = asked(server, path, "OPTIONS", Origin=PERFETTO)
        assert (status, body, headers["Access-Control-Allow-Private-Network"]) == (204, b"", "true")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": PERFETTO + ".evil.example"},
        {"Host": "evil.example"},
        {"Host": "evil.example:9001"},
        {"Host": "127.0.0.1"},
    ],
    ids=str,
)
def test_a_foreign_page_or_host_name_is_refused(trace: Path, method: str, headers: dict[str, str]) -> None:
    with TraceServer(trace) as server:
        status, body, answered = asked(server, urlsplit(server.trace_url).path, method, **headers)
        assert status == 403
        assert DATA[:256] not in body
        assert answered["Access-Control-Allow-Origin"] == PERFETTO
        assert not server.wait(0.01)


def test_every_other_path_is_refused(trace: Path, ui: Path) -> None:
    with TraceServer(trace, ui=ui) as server:
        path = urlsplit(server.trace_url).path
        secret = path.split("/")[1]
        for other in (
            "/",
            f"/{trace.name}".replace(" ", "%20").replace("é", "%C3%A9"),
            f"/{secret}",
            f"/{secret}/",
            f"/{secret}/other",
            f"/{secret}/ui",
            f"/{secret}/ui/v1/",
            f"/{secret}/ui/link",
            f"/{secret}/ui/../secret",
            f"/{secret}/ui/%2e%2e/secret",
            f"/{secret}/ui/..%2fsecret",
            f"/{secret}/ui//etc/passwd",
            f"/{secret}/ui/%2fetc%2fpasswd",
            path + "/",
            path + "%00",
        ):
            status, body, _ = asked(server, other)
            assert (status, b"not for you" in body, DATA[:256] in body) == (404, False, False), other


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT"])
def test_nothing_but_reading_is_answered(trace: Path, method: str) -> None:
    with TraceServer(trace) as server:
        assert asked(server, urlsplit(server.trace_url).path, method)[0] == 501


def test_asking_only_for_the_head_is_not_reading_the_file(trace: Path) -> None:
    with TraceServer(trace) as server:
        status, body, headers = asked(server, urlsplit(server.trace_url).path, "HEAD")
        assert (status, body, headers["Content-Length"]) == (200, b"", str(len(DATA)))
        assert not server.wait(0.01)


def test_a_browser_that_hangs_up_halfway_may_ask_again(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(bytes(32 << 20))
    with TraceServer(big) as server:
        with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
            host = f"127.0.0.1:{server.server_port}"
            connection.sendall(f"GET {urlsplit(server.trace_url).path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.0 200")
        assert not server.wait(0.2)
        with urllib.request.urlopen(server.trace_url, timeout=10) as answer:
            assert len(answer.read()) == 32 << 20
        assert server.wait(10)


def test_the_local_ui_is_served_with_its_types_and_may_call_nobody_else(trace: Path, ui: Path) -> None:
    with TraceServer(trace, ui=ui) as server:
        page = urlsplit(server.page_url)
        assert page.netloc == f"127.0.0.1:{server.server_port}"
        status, body, headers = asked(server, page.path)
        assert (status, body, headers["Content-Type"]) == (200, b"<p>the UI</p>", "text/html")
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert "http" not in headers["Content-Security-Policy"]
        assert asked(server, page.path + "v1/engine.wasm")[2]["Content-Type"] == "application/wasm"
        assert asked(server, page.path, Origin=PERFETTO)[0] == 403
        own = f"http://127.0.0.1:{server.server_port}"
        assert asked(server, urlsplit(server.trace_url).path, Origin=own)[1] == DATA


def test_the_port_is_free_and_no_thread_left_behind_it(trace: Path) -> None:
    before = threading.active_count()
    with TraceServer(trace) as server:
        port = server.server_port
        urllib.request.urlopen(server.trace_url, timeout=10).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)
    with TraceServer(trace, port=port) as again:
        assert again.server_port == port
    assert threading.active_count() <= before


def test_it_listens_to_this_machine_only(trace: Path) -> None:
    with TraceServer(trace) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_a_taken_port_and_an_unreadable_trace_are_said_in_one_line(trace: Path, tmp_path: Path) -> None:
    with TraceServer(trace) as server, pytest.raises(VlmtraceError) as caught:
        TraceServer(trace, port=server.server_port)
    assert str(caught.value) == (
        f"port {server.server_port} of 127.0.0.1 cannot be used: Address already in use: "
        "the Perfetto UI reads from no other; end what uses it, or use --offline"
    )
    with pytest.raises(VlmtraceError, match=r"^cannot read '.*nothing': No such file or directory$"):
        TraceServer(tmp_path / "nothing")
    with pytest.raises(VlmtraceError, match=r"^cannot read '.*': Is a directory$"):
        TraceServer(tmp_path)

"""``vlmtrace open``: the browser is sent to the UI, reads the trace from here, and the command ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
import webbrowser
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests import synthetic
from vlmtrace import api
from vlmtrace.cli import open as open_command
from vlmtrace.viewer import builds
from vlmtrace.viewer.server import PERFETTO, PERFETTO_PORT

ROOT = Path(__file__).parents[2]


@pytest.fixture
def trace(folder: Path) -> Path:
    return api.save(synthetic.recording(), "run-001.pftrace")


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port in place of the one that all of a machine's tests would have to share."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
    monkeypatch.setattr(open_command, "PERFETTO_PORT", number)
    return number


class Browser:
    """Stands in for a browser: it reads what the page of an address would read, or does nothing."""

    def __init__(self, *, reads: bool = True) -> None:
        self.reads, self.opened, self._read = reads, list[str](), list[bytes]()
        self._reading: list[threading.Thread] = []

    @property
    def read(self) -> list[bytes]:
        """What it has read by the time that it is done: the command may end before that."""
        for thread in self._reading:
            thread.join()
        return self._read

    def __call__(self, address: str, *_: object) -> bool:
        self.opened.append(address)
        if self.reads:
            self._reading.append(threading.Thread(target=self.fetch, args=(address,)))
            self._reading[-1].start()
        return True

    def fetch(self, address: str) -> None:
        request = urllib.request.Request(unquote(address.partition("?url=")[2]), headers={"Origin": PERFETTO})
        with urllib.request.urlopen(request, timeout=10) as answer:
            self._read.append(answer.read())


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch) -> Browser:
    made = Browser()
    monkeypatch.setattr(webbrowser, "open", made)
    monkeypatch.setenv("BROWSER", "it")
    return made


def test_the_port_is_the_one_that_perfetto_may_read_from() -> None:
    """``tools/open_trace_in_ui`` of Perfetto: "the only one allowed by the CSP"."""
    assert open_command.PERFETTO_PORT == PERFETTO_PORT == 9001


@pytest.mark.parametrize("suffix", [".pftrace", ".json", ".json.gz"])
def test_the_browser_reads_the_trace_and_the_command_ends(
    type_in: Callable, folder: Path, browser: Browser, port: int, suffix: str
) -> None:
    trace = api.save(synthetic.recording(), f"run-001{suffix}")
    typed = type_in("open", trace)
    assert (typed.code, typed.out) == (0, "")
    assert browser.read == [trace.read_bytes()]
    assert browser.opened[0].startswith(f"https://ui.perfetto.dev/#!/?url=http://127.0.0.1:{port}/")
    assert browser.opened[0].endswith(f"/run-001{suffix}")
    said = typed.err.splitlines()
    assert said[0].startswith(f"Serving run-001{suffix} (")
    assert said[-1] == f"The browser has read run-001{suffix}."
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_without_a_file_it_is_the_newest_trace_here(
    type_in: Callable, trace: Path, browser: Browser, port: int
) -> None:
    os.utime(trace, (1, 1))
    newer = api.save(synthetic.recording(synthetic.Shape(steps=1)), "run-002.pftrace")
    typed = type_in("open", "-q")
    assert (typed.code, typed.out, typed.err) == (0, "", "")
    assert browser.read == [newer.read_bytes()]


def test_any_file_is_served_as_it_is(type_in: Callable, folder: Path, browser: Browser, port: int) -> None:
    Path("other.txt").write_text("another tool's")
    assert type_in("open", "other.txt").code == 0
    assert browser.read == [b"another tool's"]


def test_without_a_browser_the_address_is_on_stdout(
    type_in: Callable, trace: Path, browser: Browser, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    typed = type_in("open", "--timeout", "0.2")
    assert browser.opened == []
    assert typed.out.startswith("https://ui.perfetto.dev/#!/?url=http://127.0.0.1:")
    assert "There is no browser here" in typed.err
    assert f"ssh -L {port}:127.0.0.1:{port} HOST" in typed.err


def test_a_browser_that_cannot_be_started_is_none(
    type_in: Callable, trace: Path, browser: Browser, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda *_: False)
    assert type_in("open", "--timeout", "0.2").out.startswith(PERFETTO)


def test_nobody_reading_it_in_time_is_an_error(type_in: Callable, trace: Path, browser: Browser, port: int) -> None:
    browser.reads = False
    typed = type_in("open", "--timeout", "0.2")
    assert typed.code == 1
    assert typed.err.splitlines()[-1] == (
        "vlmtrace: error: nothing read 'run-001.pftrace' in 0.2 seconds: is https://ui.perfetto.dev open, and allowed "
        "to reach this machine? Or give a longer --timeout"
    )


def test_a_taken_port_and_a_missing_file_are_said_in_one_line(
    type_in: Callable, trace: Path, browser: Browser, port: int
) -> None:
    with socket.create_server(("127.0.0.1", port)):
        typed = type_in("open", trace)
    assert (typed.code, typed.err) == (
        1,
        f"vlmtrace: error: port {port} of 127.0.0.1 cannot be used: Address already in use: the Perfetto UI reads from "
        "no other; end what uses it, or use --offline\n",
    )
    typed = type_in("open", "missing.pftrace")
    assert (typed.code, typed.err) == (
        1,
        "vlmtrace: error: cannot read 'missing.pftrace': No such file or directory\n",
    )
    assert browser.opened == []


def test_offline_needs_the_extra_and_says_so(
    type_in: Callable, trace: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builds, "find_spec", lambda _: None)
    typed = type_in("open", "--offline")
    assert (typed.code, typed.err) == (
        1,
        "vlmtrace: error: the Perfetto UI is not installed here: pip install 'vlmtrace[offline]', or open it from "
        "https://ui.perfetto.dev without --offline\n",
    )
    assert browser.opened == []


def started(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vlmtrace", "open", "--print-url", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_offline_serves_the_ui_and_the_trace_until_ctrl_c_and_ends_quietly(trace: Path) -> None:
    with started("--offline") as process:
        assert process.stdout is not None
        page, _, file = process.stdout.readline().strip().partition("#!/?url=")
        with urllib.request.urlopen(page, timeout=10) as answer:
            assert b"<title>Perfetto UI</title>" in answer.read()
        with urllib.request.urlopen(unquote(file), timeout=10) as answer:
            assert answer.read() == trace.read_bytes()
        with urllib.request.urlopen(page, timeout=10) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in err
    assert err.splitlines()[-1].endswith("stop with Ctrl-C when you are done.")


def test_ctrl_c_before_anything_was_read_ends_quietly_too(trace: Path, tmp_path: Path) -> None:
    program = "import vlmtrace.cli.open as o, sys; o.PERFETTO_PORT = 0; from vlmtrace.cli.main import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, "open", "--print-url", "-q"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(PERFETTO)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")

"""``vlmtrace open``: a trace in the Perfetto UI, read by the browser from this machine and uploaded nowhere."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path

import click

from vlmtrace.cli import destination
from vlmtrace.cli.boundary import EXIT_INTERRUPTED
from vlmtrace.cli.talk import Talk
from vlmtrace.errors import EXIT_OK, VlmtraceError
from vlmtrace.report.cells import clean
from vlmtrace.units import bytes_text
from vlmtrace.viewer import builds
from vlmtrace.viewer.server import PERFETTO, PERFETTO_PORT, TraceServer

__all__ = ["open_trace"]

_PATIENCE_S = 300
_LONGEST = 400
_ONLINE = "If the browser asks, let the page reach this machine. Ctrl-C stops waiting for it."
_OFFLINE = "The UI loads parts of itself only when they are needed: stop with Ctrl-C when you are done."


@click.command("open", context_settings={"show_default": True})
@click.argument("trace", required=False, type=click.Path(path_type=Path), metavar="[TRACE]")
@click.option("--offline", is_flag=True, help="Serve the UI from this machine too; needs the extra 'offline'.")
@click.option("--print-url", is_flag=True, help="Print the address and open no browser: for a machine without one.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help=f"Give up when nothing was asked for so long.  [default: {_PATIENCE_S}, with --offline never]",
)
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but errors.")
def open_trace(trace: Path | None, *, offline: bool, print_url: bool, timeout: float | None, quiet: bool) -> int:
    """Open TRACE in the Perfetto UI (default: the newest trace in this folder).

    The browser reads the file from this machine, over 127.0.0.1 and under an address that nobody can guess; the command
    ends when it has. Any file is served as it is, other tools' traces too: the UI says what it cannot read. With
    --offline the UI comes from this machine as well, and the command stays until Ctrl-C.
    """
    talk = Talk(quiet=quiet)
    path = trace or destination.newest()
    ui = _ui_folder() if offline else None
    patience = _PATIENCE_S if timeout is None and not offline else timeout
    try:
        with TraceServer(path, port=0 if offline else PERFETTO_PORT, ui=ui) as server:
            _say_where(server, path, talk, print_url=print_url)
            talk.say(_OFFLINE if offline else _ONLINE)
            fetched = server.wait(patience, until_fetched=not offline)
    except KeyboardInterrupt:
        return EXIT_OK if offline else EXIT_INTERRUPTED
    if offline:
        return EXIT_OK
    if not fetched:
        raise VlmtraceError(
            f"nothing read {str(path)!r} in {patience:g} seconds",
            f"is {server.origin} open, and allowed to reach this machine? Or give a longer --timeout",
        )
    talk.say(f"The browser has read {clean(path.name, _LONGEST)}.")
    return EXIT_OK


def _say_where(server: TraceServer, path: Path, talk: Talk, *, print_url: bool) -> None:
    """Hand the address to a browser, or to whoever asked for it."""
    talk.say(f"Serving {clean(str(path), _LONGEST)} ({bytes_text(path.stat().st_size)}) to {server.origin}")
    if not print_url:
        if _opened_browser(server.page_url):
            return
        talk.say("There is no browser here: open this address in one.")
    port = server.server_port
    talk.say(f"From another machine, forward the port first: ssh -L {port}:127.0.0.1:{port} HOST")
    click.echo(server.page_url)
    sys.stdout.flush()


def _ui_folder() -> Path:
    found = builds.ui_folder()
    if found is None:
        raise VlmtraceError(
            "the Perfetto UI is not installed here",
            f"pip install 'vlmtrace[offline]', or open it from {PERFETTO} without --offline",
        )
    return found


def _opened_browser(address: str) -> bool:
    """Whether a browser took the address. One in this terminal would be of no use to the UI, and is not tried."""
    shown = sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    try:
        return shown and webbrowser.open(address)
    except webbrowser.Error:
        return False

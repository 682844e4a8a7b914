"""``vlmtrace report``: one HTML page of one or several traces, which opens offline."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from vlmtrace import api, formats
from vlmtrace.cli import destination
from vlmtrace.cli.talk import Talk
from vlmtrace.units import bytes_text

__all__ = ["report"]

_SEVERAL: Final = "report.html"


@click.command(context_settings={"show_default": True})
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[TRACE]...")
@click.option(
    "-o", "--output", metavar="FILE", help="The page, or - for stdout.  [default: TRACE.html; of several: report.html]"
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but errors.")
def report(files: tuple[Path, ...], output: str | None, *, force: bool, quiet: bool) -> None:
    """Show each TRACE (default: the newest one in this folder) on one page with charts, to look at and to share.

    \b
    vlmtrace report run.pftrace
    vlmtrace report eager.pftrace static.pftrace -o both.html

    The page is one file that asks the network for nothing. It needs: pip install 'vlmtrace[report]'
    """
    talk = Talk(quiet=quiet)
    paths = files or (destination.newest(),)
    if not files:
        talk.say(f"Reading {paths[0]}")
    place = None if output == destination.STDOUT else Path(output) if output is not None else _default(paths)
    if place is not None:
        destination.check_writable(place, force=force)
    talk.begin("Drawing")
    page = api.report_page(paths).encode()
    if place is None:
        sys.stdout.buffer.write(page)
        sys.stdout.buffer.flush()
        return
    api.write_atomically(place, iter((page,)))
    talk.say(f"Wrote {place} ({bytes_text(len(page))})")
    talk.say(f"Next: open {place} in a browser; it needs no server and no network")


def _default(paths: Sequence[Path]) -> Path:
    """The page of one trace lies beside it, that of several in the current folder."""
    if len(paths) > 1:
        return Path(_SEVERAL)
    path = paths[0]
    known = next((ending for ending in formats.FORMATS if path.name.lower().endswith(ending)), "")
    return path.with_name(f"{path.name[: len(path.name) - len(known)]}.html")

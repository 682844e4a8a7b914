"""``vlmtrace query``: SQL over a trace, answered by Perfetto's own trace processor."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from vlmtrace.cli.talk import Talk
from vlmtrace.errors import UsageError
from vlmtrace.report.result import RESULT_FORMATS, result_csv, result_json, result_table
from vlmtrace.viewer.processor import Rows, opened
from vlmtrace.viewer.views import make_views

__all__ = ["interruptible", "query", "shell_option"]

_STDIN = "-"
_MOST_ROWS = 1_000
_WIDEST = 10_000

F = TypeVar("F", bound=Callable[..., Any])


def shell_option(command: F) -> F:
    """The option of every command that runs the trace processor."""
    return click.option(
        "--trace-processor",
        "shell",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="A trace_processor_shell to use in place of the one that the extra 'query' brings.",
    )(command)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C ends the process at once: inside the importer no Python runs that could notice it."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@click.command(context_settings={"show_default": True})
@click.argument("trace", type=click.Path(path_type=Path))
@click.argument("sql")
@click.option("--format", "form", type=click.Choice(RESULT_FORMATS), default="table", help="How to show the rows.")
@shell_option
def query(trace: Path, sql: str, form: str, shell: Path | None) -> None:
    """Show what SQL ('-': from stdin) selects of TRACE.

    \b
    vlmtrace query run.pftrace "SELECT stage, sum(ms) FROM vlm_stage GROUP BY stage"

    It is the SQL of Perfetto's trace processor, with all of its tables. Beside them there are vlm_generation,
    vlm_stage, vlm_step and vlm_kernel, with a row for each. Of several statements the last one's rows are shown. A
    table ends after 1,000 rows; JSON and CSV have them all.
    """
    if sql == _STDIN:
        sql = sys.stdin.read()
    if not sql.strip():
        raise UsageError("there is no SQL to run", "give it behind the trace, or '-' to read it from stdin")
    with interruptible(), opened(trace, shell) as processor:
        make_views(processor)
        _show(processor.query(sql), form)


def _show(rows: Rows, form: str) -> None:
    if not rows.columns and form != "json":
        return
    if form == "json":
        sys.stdout.writelines(result_json(rows.columns, rows))
    elif form == "csv":
        sys.stdout.writelines(result_csv(rows.columns, rows, safe=sys.stdout.isatty()))
    else:
        _show_table(rows)


def _show_table(rows: Rows) -> None:
    """As wide as the terminal; elsewhere as wide as it is, so that a row is a line."""
    every = iter(rows)
    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else _WIDEST)
    table = result_table(rows.columns, islice(every, _MOST_ROWS))
    with console.capture() as captured:
        console.print(table)
    sys.stdout.writelines(line.rstrip() + "\n" for line in captured.get().splitlines())
    left = sum(1 for _ in every)
    if left:
        Talk(quiet=False).say(f"{left:,} more rows: --format csv or json has them all")

"""The command group ``vlmtrace``; every command is a file beside this one."""

from __future__ import annotations

import sys

import click

from vlmtrace.cli import boundary
from vlmtrace.cli.check import check
from vlmtrace.cli.export import export
from vlmtrace.cli.open import open_trace
from vlmtrace.cli.pair import pair
from vlmtrace.cli.query import query
from vlmtrace.cli.record import record
from vlmtrace.cli.report import report
from vlmtrace.cli.summary import summary
from vlmtrace.errors import EXIT_USAGE

__all__ = ["main", "vlmtrace"]


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vlmtrace", prog_name="vlmtrace")
@click.option("--debug", is_flag=True, help="Show the traceback of an error (also: VLMTRACE_DEBUG=1).")
@click.pass_context
def vlmtrace(context: click.Context, debug: bool) -> int:
    """Where a vision-language model spends its time: vision, prefill and decode of one real generate().

    Start with: vlmtrace record --demo
    """
    state = context.ensure_object(boundary.State)
    state.debug = state.debug or debug
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
    return EXIT_USAGE


vlmtrace.add_command(check)
vlmtrace.add_command(export)
vlmtrace.add_command(open_trace)
vlmtrace.add_command(pair)
vlmtrace.add_command(query)
vlmtrace.add_command(record)
vlmtrace.add_command(report)
vlmtrace.add_command(summary)


def main() -> None:
    """The entry point of the ``vlmtrace`` command; ends the process with the command's exit code."""
    sys.exit(boundary.run(vlmtrace))

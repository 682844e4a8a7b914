"""``vlmtrace summary``: the stage table of a trace."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from vlmtrace import api
from vlmtrace.analysis.summary import Summary, summarise
from vlmtrace.cli import destination
from vlmtrace.errors import UsageError, VlmtraceError
from vlmtrace.report import FORMATS, VIEWS, SummaryTable, render, view
from vlmtrace.timeline.recording import Recording

__all__ = ["show", "summary"]


@click.command(context_settings={"show_default": True})
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", help="How to show the summary.")
@click.option("--stages", "stages", is_flag=True, help="Show which modules the stages are, and how each was found.")
@click.option("--clock", "clock", is_flag=True, help="Show how the GPU's clock was laid on the host's, and how well.")
@click.option("--launch", "launch", is_flag=True, help="Show the evidence of each verdict, and host-bound stretches.")
@click.option("--kernels", "kernels", is_flag=True, help="Show what ran on the GPU in each stage, where it is known.")
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    metavar="TRACE",
    help="With --kernels: compare with a trace of the same work recorded without Nsight Systems.",
)
def summary(files: tuple[Path, ...], form: str, baseline: Path | None, **asked: bool) -> None:
    """Show where the time went in each trace FILE (default: the newest one in this folder).

    Several files give one table after another, or with --format json one array. JSON has what --stages, --clock,
    --launch and --kernels show without being asked.
    """
    if baseline is not None and not asked["kernels"]:
        raise UsageError("--baseline compares what --kernels shows", "give both")
    views = [name for name in VIEWS if asked[name]]
    paths = files or (destination.newest(),)
    if not files:
        click.echo(f"Reading {paths[0]}", err=True)
    compared = None if baseline is None else api.load(baseline)
    summaries = [summarise(_loaded(path, kernels=asked["kernels"]), compared) for path in paths]
    if form == "json" and len(summaries) > 1:
        click.echo("[\n" + ",\n".join(render(each, form).rstrip() for each in summaries) + "\n]")
        return
    for number, each in enumerate(summaries):
        if number:
            click.echo()
        if len(summaries) > 1:
            click.echo(f"<!-- {paths[number]} -->" if form == "markdown" else f"{paths[number]}:")
        show(each, form, views)


def _loaded(path: Path, *, kernels: bool) -> Recording:
    recording = api.load(path)
    if kernels and recording.pairing is None:
        raise VlmtraceError(
            f"{str(path)!r} holds no kernels",
            "record with --kernels, or pair it with a report, vlmtrace pair TRACE REPORT",
        )
    return recording


def show(summary: Summary, form: str, views: Sequence[str] = (), *, err: bool = False) -> None:
    """Print a summary in one of the report's formats, with some of its views, on stdout, or with ``err`` on stderr."""
    stream = sys.stderr if err else sys.stdout
    if form == "table" and stream.isatty():
        Console(file=stream, highlight=False).print(SummaryTable(summary, view(summary, views)))
    else:
        click.echo(render(summary, form, views=views), nl=False, err=err)

"""``vlmtrace export``: a trace in another format, or as tables for SQL and data frames."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from vlmtrace import api, formats
from vlmtrace.cli import destination
from vlmtrace.cli.talk import Talk
from vlmtrace.errors import UsageError
from vlmtrace.units import bytes_text

__all__ = ["export"]


@click.command(context_settings={"show_default": True})
@click.argument("trace", required=False, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, metavar="OUT", help="The new trace; with --to, the folder of tables.")
@click.option("--to", "form", type=click.Choice(formats.TABLE_FORMATS), help="Write tables of this format to a folder.")
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but errors.")
def export(trace: Path | None, output: str, form: str | None, *, force: bool, quiet: bool) -> None:
    """Write TRACE (default: the newest one in this folder) in another format, or as tables.

    \b
    vlmtrace export run.pftrace -o run.json.gz
    vlmtrace export run.pftrace -o run-tables --to parquet

    A trace's format follows its name: .pftrace, .json or .json.gz. Tables are a folder with spans, steps, generations
    and, of a paired trace, kernels. Parquet needs: pip install 'vlmtrace[parquet]'
    """
    talk = Talk(quiet=quiet)
    known = output == destination.STDOUT or output.lower().endswith(formats.FORMATS)
    if form is None and not known:
        endings = ", ".join(formats.FORMATS)
        raise UsageError(
            f"'{output}' does not say what to write", f"end its name in {endings}, or give --to csv or --to parquet"
        )
    if form is not None and known:
        raise UsageError(f"'{output}' is no name for a folder of tables", f"give -o FOLDER, or leave --to {form} out")
    path = destination.newest() if trace is None else trace
    if trace is None:
        talk.say(f"Reading {path}")
    if form is None:
        place = destination.choose(output, path.stem, force=force)
        written = place.write(api.load(path))
        if written is not None:
            talk.say(f"Wrote {written} ({bytes_text(written.stat().st_size)})")
            talk.say(f"Next: vlmtrace summary {shlex.quote(str(written))} · or drag it into https://ui.perfetto.dev")
        return
    folder = Path(output)
    destination.check_folder(folder, formats.table_files(form), force=force)
    for file in api.export(path, folder, to=form, force=force):
        talk.say(f"Wrote {file} ({bytes_text(file.stat().st_size)})")
    query = f"SELECT name, median(duration_ns) / 1e6 AS ms FROM '{folder / f'spans.{form}'}' GROUP BY name"
    plain = shlex.quote(output) == output
    talk.say(f'Next: duckdb -c "{query}"' if plain else f"Next: duckdb -c {shlex.quote(query)}")

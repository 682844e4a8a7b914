"""``vlmtrace pair``: a trace and the Nsight Systems report of the same run, as one trace with kernels."""

from __future__ import annotations

from pathlib import Path

import click

from vlmtrace import api
from vlmtrace.cli import destination
from vlmtrace.cli.talk import Talk
from vlmtrace.errors import UsageError
from vlmtrace.report.pairing import pairing_text
from vlmtrace.units import bytes_text

__all__ = ["pair"]


@click.command(context_settings={"show_default": True})
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="[TRACE] REPORT")
@click.option("-o", "--output", metavar="FILE", help="The paired trace.  [default: TRACE-paired.pftrace]")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.option("--nsys-path", type=click.Path(path_type=Path), metavar="PATH", help="Which nsys exports a .nsys-rep.")
@click.option("--quiet", "-q", is_flag=True, help="Say nothing but errors.")
def pair(files: tuple[Path, ...], output: str | None, *, force: bool, nsys_path: Path | None, quiet: bool) -> None:
    """Add the kernels and copies of REPORT to TRACE, each in the stage that launched it.

    \b
    vlmtrace record --demo --nsys -o run.pftrace
    vlmtrace pair run.pftrace run.nsys-rep

    REPORT is the .nsys-rep of the very run that wrote TRACE, or its export (nsys export --type=sqlite). Alone it gives
    the stages too, by the NVTX ranges in it: without tokens, and less exactly than a trace does.
    """
    if len(files) > 2:
        raise UsageError(f"'{files[2]}' is one file too many", "give a trace and its report, or a report alone")
    *traces, report = files
    talk = Talk(quiet=quiet)
    place = destination.choose(output or str(_beside(files[0])), files[0].stem, force=force)
    recording = api.load(traces[0]) if traces else None
    talk.begin(f"Reading {report.name}")
    paired = api.pair(recording, report, nsys=nsys_path)
    if paired.pairing is not None:
        talk.say(pairing_text(paired, paired.pairing))
    written = place.write(paired)
    if written is not None:
        talk.say(f"Wrote {written} ({bytes_text(written.stat().st_size)})")
        talk.say(f"Next: vlmtrace summary --kernels {written} · vlmtrace open {written}")


def _beside(file: Path) -> Path:
    name = file.name
    for ending in (".pftrace", ".json.gz", ".json", ".nsys-rep", ".sqlite"):
        name = name.removesuffix(ending)
    return file.with_name(f"{name}-paired.pftrace")

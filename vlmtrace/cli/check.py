"""``vlmtrace check``: whether Perfetto shows of a trace all that is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from vlmtrace import api
from vlmtrace.cli.query import interruptible, shell_option
from vlmtrace.errors import ProcessorError, TraceFormatError, VlmtraceError
from vlmtrace.report.cells import clean
from vlmtrace.viewer.checks import Check, checked, counters, is_ours, is_perfetto
from vlmtrace.viewer.processor import TraceProcessor, new

__all__ = ["check"]

_LONGEST = 400


@click.command(context_settings={"show_default": True})
@click.argument("traces", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="TRACE...")
@click.option("--format", "form", type=click.Choice(("text", "json")), default="text", help="How to show the checks.")
@shell_option
def check(traces: tuple[Path, ...], form: str, shell: Path | None) -> None:
    """Fail where Perfetto's importer loses or mixes up anything of a TRACE.

    That is slices that it drops, cuts or cannot name, arrows that lead nowhere, and times on no clock. A trace of
    vlmtrace's is compared slice by slice with the recording in it; of another tool's there is nothing to compare with.
    The exit code is 1 where a check failed.
    """
    failed = 0
    made: list[dict[str, Any]] = []
    for path in traces:
        with interruptible(), new(shell) as processor:
            found = _checks(processor, path)
        failed += any(one.problem is not None for one in found)
        if form == "text":
            _say(path, found)
        made.append({"trace": str(path), "checks": [_document(one) for one in found]})
    if form == "json":
        click.echo(json.dumps({"format": "vlmtrace.check", "version": 1, "traces": made}, indent=1))
    if failed:
        raise VlmtraceError(f"{failed} of {len(traces)} traces failed" if len(traces) > 1 else "the trace failed")


def _checks(processor: TraceProcessor, path: Path) -> list[Check]:
    from vlmtrace.formats.drawn import Drawn

    try:
        processor.load(path)
    except ProcessorError as error:
        return [Check("import", 0, "slices", str(error))]
    try:
        recording = api.load(path)
    except TraceFormatError as error:
        damaged = [Check("recording", 0, "spans", str(error))] if is_ours(processor) else []
        return [*damaged, *checked(processor, None)]
    return list(checked(processor, Drawn(recording, counters(processor), chrome=not is_perfetto(processor))))


def _say(path: Path, found: list[Check]) -> None:
    click.echo(f"{clean(str(path), _LONGEST)}:")
    for one in found:
        said = f"ok    {one.name}: {one.counted:,} {one.of}"
        if one.problem is not None:
            said = f"FAIL  {one.name}: {clean(one.problem, _LONGEST)}"
        click.echo(f"  {said}")


def _document(one: Check) -> dict[str, Any]:
    return {
        "check": one.name,
        "ok": one.problem is None,
        "counted": one.counted,
        "of": one.of,
        "problem": one.problem,
    }

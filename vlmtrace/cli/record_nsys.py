"""``vlmtrace record --nsys``: the same recording run by Nsight Systems, so that report and trace are of one run.

This process checks where both files go, has nsys run ``vlmtrace record`` again without ``--nsys``, waits, and says what
was written. What it passes on: stdin, stdout, stderr, Ctrl-C and the exit code of the recording.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from vlmtrace import api
from vlmtrace.analysis.summary import summarise
from vlmtrace.capture import demo, loading, program
from vlmtrace.cli import boundary, destination, handover
from vlmtrace.cli.summary import show
from vlmtrace.cli.talk import Talk
from vlmtrace.errors import EXIT_ERROR, EXIT_OK, UsageError, VlmtraceError
from vlmtrace.nsight import command as nsight
from vlmtrace.units import bytes_text

__all__ = ["record_under_nsys"]

_NOT_PASSED_ON: Final = frozenset(("nsys", "nsys_path", "nsys_args", "output", "dry_run"))
_STDERR: Final = 2


def record_under_nsys(context: click.Context, given: Mapping[str, Any], talk: Talk) -> int:
    """Record under nsys; with ``--dry-run`` show the command only. Answers the recording's exit code.

    Raises:
        UsageError: this process runs under nsys itself.
        VlmtraceError: a file cannot go where it should, or there is no nsys that will do.
    """
    state = context.ensure_object(boundary.State)
    if state.handover is not None or nsight.SESSION_VARIABLE in os.environ:
        raise UsageError("--nsys would start nsys in a process that nsys records already", "leave out --nsys")
    trace = destination.choose(given["output"], _name(given), force=given["force"]).path
    assert trace is not None, "'-o -' has been refused"
    report = destination.report_beside(trace, force=given["force"])
    options = nsight.ProfileOptions(report, given["force"], bool(given["command"]), given["nsys_args"])
    again = _again(context, state.words, trace)
    if given["dry_run"]:
        click.echo(shlex.join(nsight.profile_command(_shown(given, talk), options, again)))
        return EXIT_OK
    nsys = nsight.find(given["nsys_path"])
    before = {path: _state(path) for path in (report, report.with_suffix(nsight.RAW))}
    with tempfile.TemporaryDirectory(prefix="vlmtrace-") as folder:
        file = Path(folder) / "left"
        ended = _run(nsight.profile_command(nsys.path, options, again), file, given)
        left = handover.left(file)
    made = {path for path, was in before.items() if _state(path) not in (None, was)}
    written = None if left is None else left.trace
    problem = _report_made(report, made, nsys)
    if left is None:
        problem = VlmtraceError(
            f"nsys ended with exit code {ended}, the recording without a word", "see what it says itself above"
        )
    elif written is not None and problem is None and report not in made:
        failed = ended not in {EXIT_OK, left.code}  # nsys passes the recording's own code on
        why = f"it ended with exit code {ended}" if failed else f"the range {nsight.CAPTURE_RANGE} never opened"
        problem = VlmtraceError(f"nsys made no report '{report}': {why}", "see what it says itself above")
    _deliver(written, report if report in made else None, given, talk)
    if problem is not None:
        click.echo(f"vlmtrace: error: {problem}", err=True)
    code = ended if left is None else left.code
    return code or (EXIT_OK if problem is None else EXIT_ERROR)


def _report_made(report: Path, made: set[Path], nsys: nsight.Nsys) -> VlmtraceError | None:
    """Have a report made of what nsys left, if it left that only, and count it to ``made``; or why there is none."""
    raw = report.with_suffix(nsight.RAW)
    if report in made or raw not in made:
        return None
    try:
        nsight.import_report(raw, report, nsys)
    except VlmtraceError as error:
        return error
    made.add(report)
    return None


def _state(path: Path) -> tuple[int, int, int] | None:
    """What tells a file from another one of its name, ``None`` where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _name(given: Mapping[str, Any]) -> str:
    """What the files are called without ``-o``: as without ``--nsys``."""
    if given["command"]:
        return program.parse(given["command"]).name
    return demo.DEMO_NAME if given["use_demo"] else loading.short_name(given["model"])


def _shown(given: Mapping[str, Any], talk: Talk) -> Path | str:
    """The nsys of a command that is only shown: it may be meant for another machine."""
    try:
        return nsight.find(given["nsys_path"]).path
    except VlmtraceError as error:
        if given["nsys_path"] is not None:
            raise
        talk.say(f"{error}")
        return "nsys"


def _again(context: click.Context, words: Sequence[str], trace: Path) -> list[str]:
    """The command line of this process once more, by this Python, without the options for nsys and with ``trace``."""
    here = words.index(context.info_name or "") + 1
    options = [parameter for parameter in context.command.params if isinstance(parameter, click.Option)]
    kept, rest = _without(words[here:], options)
    return [sys.executable, *_python_flags(words), "-m", "vlmtrace", *words[:here], *kept, "-o", str(trace), *rest]


def _without(words: Sequence[str], options: Sequence[click.Option]) -> tuple[list[str], list[str]]:
    """The words of options that are passed on, and what comes behind all options."""
    named = {name: option for option in options for name in (*option.opts, *option.secondary_opts)}
    kept: list[str] = []
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] not in {"-", "--"}:
        is_long = rest[0].startswith("--")
        name = rest[0].partition("=")[0] if is_long else rest[0][:2]
        has_value = rest[0] != name or named[name].is_flag
        taken = [rest.pop(0) for _ in range(1 if has_value else 2)]
        if named[name].name not in _NOT_PASSED_ON:
            kept += taken
    return kept, rest


def _python_flags(words: Sequence[str]) -> list[str]:
    """The options that this Python was started with: ``-X dev`` of ``python -X dev -m vlmtrace record …``."""
    before = len(sys.orig_argv) - len(words)
    if sys.orig_argv[before:] != list(words):
        return []
    flags = sys.orig_argv[1 : before - 1]
    return flags[:-1] if flags[-1:] == ["-m"] else flags


def _run(command: Sequence[str], file: Path, given: Mapping[str, Any]) -> int:
    """Run nsys, with ``file`` to be handed over, and answer its exit code.

    It mixes lines of its own into the stdout of what it runs. A program's stdout is passed on with them; a model has
    nothing to say there, for its summary is shown here, so that all of it is talk.
    """
    stdout = None if given["command"] else subprocess.DEVNULL if given["quiet"] else _STDERR
    try:
        process = subprocess.Popen(command, stdout=stdout, env=handover.environment(file))
    except OSError as error:
        raise VlmtraceError(
            f"'{command[0]}' cannot be started: {error.strerror}", "name another: --nsys-path"
        ) from error
    ended = _wait(process)
    return 128 - ended if ended < 0 else ended


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end of a process, through every Ctrl-C.

    A terminal sends Ctrl-C to nsys and to what it runs as well, and a second one would make nsys give up its report.
    Only what somebody sent to this process alone is handed on: the kernel says which it was.
    """
    watched = {signal.SIGINT, signal.SIGTERM, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        while (code := process.poll()) is None:
            told = signal.sigwaitinfo(watched)
            if told.si_signo != signal.SIGCHLD and told.si_code <= 0:
                process.send_signal(told.si_signo)
        return code
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _deliver(trace: Path | None, report: Path | None, given: Mapping[str, Any], talk: Talk) -> None:
    """Show the summary, and say what was written."""
    of_program = bool(given["command"])
    if trace is not None and given["summary"] and not (of_program and talk.quiet):
        show(summarise(api.load(trace)), given["form"], err=of_program)
    written = [path for path in (trace, report) if path is not None]
    if written:
        talk.say("")
    for path in written:
        talk.say(f"Wrote {path} ({bytes_text(path.stat().st_size)})")
    if trace is not None:
        talk.say(f"Next: vlmtrace {f'summary {trace}' if report is None else f'pair {trace} {report}'}")

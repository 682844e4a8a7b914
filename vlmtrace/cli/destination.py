"""Destination: where a trace is written, checked before any work is done, and which trace is read by default."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from vlmtrace import api, formats
from vlmtrace.errors import TraceFormatError, UsageError, VlmtraceError
from vlmtrace.nsight.command import RAW, REPORT
from vlmtrace.timeline.recording import Recording

__all__ = ["STDOUT", "Destination", "check_folder", "check_writable", "choose", "newest", "report_beside"]

STDOUT: Final = "-"
_DEFAULT_FORMAT: Final = ".pftrace"
_NUMBERED: Final = re.compile(r"([^/]+)-\d{3,}" + re.escape(_DEFAULT_FORMAT))


@dataclass(frozen=True, slots=True)
class Destination:
    """A file, or stdout where ``path`` is ``None``. ``series`` is the name that numbered files share, if it is one."""

    path: Path | None
    force: bool
    series: str | None = None

    def numbered(self) -> Destination:
        """The same place as one of a series, if its name is one of a series: another process chose the number."""
        found = None if self.path is None or self.force else _NUMBERED.fullmatch(str(self.path))
        return self if found is None else replace(self, series=found[1])

    def write(self, recording: Recording) -> Path | None:
        """Write the trace and answer the file it is in, ``None`` for stdout.

        Raises:
            VlmtraceError: it cannot be written.
        """
        if self.path is None:
            for chunk in formats.write(recording, _DEFAULT_FORMAT):
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            return None
        path = self.path
        if self.series is not None and path.exists():
            # Another recording took the number while this one ran.
            path = _next_in(self.series)
        return api.save(recording, path, force=self.force)


def choose(output: str | None, name: str, *, force: bool) -> Destination:
    """Where ``--output`` points; without one the next free ``NAME-001.pftrace`` in the current folder.

    Raises:
        UsageError: the name's ending is no format, or binary data would go to a terminal.
        VlmtraceError: the file exists (without ``force``) or could not be written.
    """
    if output == STDOUT:
        if sys.stdout.isatty():
            raise UsageError("'-o -' would write a binary trace to the terminal", "redirect stdout, or give -o FILE")
        return Destination(None, force)
    path = _next_in(name) if output is None else Path(output)
    if output is not None:
        formats.format_of(path)
    check_writable(path, force=force)
    return Destination(path, force, name if output is None else None)


def check_writable(path: Path, *, force: bool) -> None:
    """See before any work is done that a file can be written there.

    Raises:
        VlmtraceError: it is a folder, it exists (without ``force``), or its folder takes no file.
    """
    if path.is_dir():
        raise VlmtraceError(f"'{path}' is a folder", "give a file name after -o")
    if path.exists() and not force:
        raise VlmtraceError(f"'{path}' exists", "give another name, or --force to overwrite it")
    try:
        # Trying is the only test that tells: permissions say nothing of read-only or special file systems.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise VlmtraceError(
            f"'{path}' cannot be written: {error.strerror}", "give a writable place after -o"
        ) from error


def check_folder(folder: Path, names: Iterable[str], *, force: bool) -> None:
    """See before any work is done that files of these names can be written to a folder, which may be new.

    Raises:
        VlmtraceError: it is a file, one of them exists (without ``force``), or no file can be written there.
    """
    if folder.is_dir():
        for name in names:
            check_writable(folder / name, force=force)
    elif folder.exists():
        raise VlmtraceError(f"'{folder}' is a file", "give a folder after -o")
    else:
        check_writable(folder, force=force)


def report_beside(trace: Path, *, force: bool) -> Path:
    """The Nsight report that goes with a trace: the same name in the same folder.

    Raises:
        VlmtraceError: the report, or a raw one, exists (without ``force``).
    """
    stem = trace.name[: -len(formats.format_of(trace))]
    report = trace.with_name(stem + REPORT)
    for path in (report, trace.with_name(stem + RAW)):
        if path.is_dir():
            raise VlmtraceError(f"'{path}' is a folder", "give another name after -o")
        if path.exists() and not force:
            raise VlmtraceError(f"'{path}' exists", "give another name after -o, or --force to overwrite it")
    return report


def newest() -> Path:
    """The trace in the current folder that was written last.

    Raises:
        VlmtraceError: there is none.
    """
    found = [path for path in Path().iterdir() if path.name.lower().endswith(formats.FORMATS) and path.is_file()]
    for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if path.suffix.lower() == _DEFAULT_FORMAT or _is_trace(path):
            return path
    raise VlmtraceError("there is no trace in this folder", "name a file, or make one: vlmtrace record --demo")


def _is_trace(path: Path) -> bool:
    """Whether a JSON file is a trace of ours: other tools' JSON lies in many folders."""
    try:
        api.load(path)
    except TraceFormatError:
        return False
    return True


def _next_in(name: str) -> Path:
    endings = "|".join(re.escape(ending) for ending in (_DEFAULT_FORMAT, REPORT, RAW))
    pattern = re.compile(re.escape(name) + rf"-(\d+)(?:{endings})")
    taken = [int(found[1]) for path in Path().iterdir() if (found := pattern.fullmatch(path.name))]
    return Path(f"{name}-{max(taken, default=0) + 1:03d}{_DEFAULT_FORMAT}")

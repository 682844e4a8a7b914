"""Handover: what a recording that nsys runs leaves to the vlmtrace that started nsys.

nsys ends with an exit code of its own where it fails to make a report, so the recording's goes through a file. A
recording with a handover is silent about what it has written: whoever waits for it says that, of trace and report.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Handover", "Left", "environment", "left", "taken"]

_VARIABLE: Final = "VLMTRACE_HANDOVER"


@dataclass(frozen=True, slots=True)
class Left:
    """How a recording ended: its exit code, and the trace it wrote, if it wrote one."""

    code: int
    trace: Path | None


@dataclass(slots=True)
class Handover:
    """The recording's side: ``file`` is what it leaves, ``trace`` what it has written until then."""

    file: Path
    trace: Path | None = None

    def leave(self, code: int) -> None:
        """Leave the exit code and the trace; whoever wanted them may have gone."""
        try:
            self.file.write_bytes(b"%d\n" % code + (b"" if self.trace is None else os.fsencode(self.trace)))
        except OSError:
            return


def environment(file: Path) -> dict[str, str]:
    """The environment of a recording that is to leave in ``file`` how it ended."""
    return os.environ | {_VARIABLE: str(file)}


def taken() -> Handover | None:
    """The handover of this process, if it is such a recording. The variable is gone then: what is started from here is
    nobody's recording."""
    file = os.environ.pop(_VARIABLE, None)
    return None if file is None else Handover(Path(file))


def left(file: Path) -> Left | None:
    """What was left in ``file``, ``None`` where the recording was ended before it could leave anything."""
    try:
        code, _, trace = file.read_bytes().partition(b"\n")
        return Left(int(code), Path(os.fsdecode(trace)) if trace else None)
    except (OSError, ValueError):
        return None

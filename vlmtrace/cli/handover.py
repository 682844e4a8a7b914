"""Handover: what a recording that nsys runs leaves to the vlmtrace that started nsys.

nsys ends with an exit code of its own where it fails to make a report, so the recording's goes through a file. A
recording with a handover is silent about what it has written: whoever waits for it says that, of trace and report.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["environment", "leave", "left", "taken"]

_VARIABLE: Final = "VLMTRACE_HANDOVER"


def environment(file: Path) -> dict[str, str]:
    """The environment of a process that is to leave its exit code in ``file``."""
    return os.environ | {_VARIABLE: str(file)}


def taken() -> Path | None:
    """The file that this process's exit code goes to, if it has one. The variable is gone then: programs started from
    here are nobody's recording."""
    file = os.environ.pop(_VARIABLE, None)
    return None if file is None else Path(file)


def leave(file: Path, code: int) -> None:
    """Leave an exit code; whoever wanted it may have gone."""
    try:
        file.write_text(str(code), encoding="ascii")
    except OSError:
        return


def left(file: Path) -> int | None:
    """The exit code left in ``file``, ``None`` where the process ended before it could leave one."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None

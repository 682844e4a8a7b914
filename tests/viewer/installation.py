"""A ``trace_processor_shell`` for tests, as if Perfetto's own were installed."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["install_shell"]

_ROOT = Path(__file__).parents[2]


def install_shell(folder: Path) -> Path:
    """The program, in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "trace_processor_shell"
    code = Path(__file__).with_name("trace_processor_shell.py")
    program.write_text(f'#!/bin/sh\nPYTHONPATH={_ROOT} exec {sys.executable} {code} "$@"\n')
    program.chmod(0o755)
    return program

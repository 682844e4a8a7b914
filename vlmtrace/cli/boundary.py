"""The error boundary: the one place where what went wrong becomes a line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import click

from vlmtrace.cli.handover import Handover, taken
from vlmtrace.errors import EXIT_ERROR, EXIT_OK, VlmtraceError

__all__ = ["EXIT_INTERRUPTED", "State", "run"]

EXIT_INTERRUPTED: Final = 130
_DEBUG: Final = "VLMTRACE_DEBUG"


@dataclass(slots=True)
class State:
    """What commands and boundary tell each other: the words of the command line, whether to show tracebacks, and what
    is left to the process that has nsys run this one, if one has."""

    words: list[str] = field(default_factory=list)
    debug: bool = False
    handover: Handover | None = None


def run(group: click.Group, words: Sequence[str] | None = None) -> int:
    """Run the command that ``words`` (default: the process's own) name, and answer the exit code."""
    state = State(list(sys.argv[1:] if words is None else words), os.environ.get(_DEBUG, "") not in {"", "0"}, taken())
    code = _run(group, state)
    if state.handover is not None:
        state.handover.leave(code)
    return code


def _run(group: click.Group, state: State) -> int:
    try:
        code = group.main(state.words, prog_name="vlmtrace", standalone_mode=False, obj=state)
        # A closed pipe is noticed here rather than at exit, where Python would complain about it.
        sys.stdout.flush()
    except click.Abort:
        return _failed(state, "interrupted", EXIT_INTERRUPTED)
    except click.ClickException as error:
        return _failed(state, _click_line(error), error.exit_code)
    except VlmtraceError as error:
        return _failed(state, str(error), error.exit_code)
    except BrokenPipeError:
        _leave_stdout()
        return EXIT_ERROR
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return _failed(state, f"unexpected {text} (vlmtrace --debug … shows where; please report it)", EXIT_ERROR)
    return code if isinstance(code, int) else EXIT_OK


def _failed(state: State, line: str, code: int) -> int:
    if state.debug:
        traceback.print_exc()
    click.echo(f"vlmtrace: error: {line}", err=True)
    return code


def _click_line(error: click.ClickException) -> str:
    """Click's message as one line that ends with where the options are listed."""
    message = " ".join(error.format_message().split()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return message if context is None else f"{message}: see {context.command_path} --help"


def _leave_stdout() -> None:
    """Nobody reads stdout any more: let what is still buffered go nowhere."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return

"""What is said on stderr while a command works."""

from __future__ import annotations

import functools
import io
import threading

import pytest
from rich.console import Console

from vlmtrace.cli import talk
from vlmtrace.cli.talk import Talk


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal that takes the place of stderr. (pytest puts its own stderr back between set-up and test.)"""
    monkeypatch.setenv("TERM", "xterm")
    made = Terminal()
    monkeypatch.setattr(talk, "Console", functools.partial(Console, file=made))
    return made


def test_on_a_terminal_work_and_its_progress_are_shown(terminal: Terminal) -> None:
    speaker = Talk(quiet=False)
    speaker.begin("Loading x")
    with speaker.counting() as moved:
        moved(1, 7, "warmup")
        moved(3, 7, "timed")

    shown = terminal.getvalue()
    for part in ("Loading x", "warmup", "1/7", "timed", "3/7"):
        assert part in shown


def test_progress_is_drawn_when_it_moves_and_by_no_thread_in_between(terminal: Terminal) -> None:
    threads = threading.active_count()
    with Talk(quiet=False).counting() as moved:
        moved(1, 7, "timed")
        assert threading.active_count() == threads
    assert "1/7" in terminal.getvalue()


def test_without_a_terminal_lines_are_said_but_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    speaker = Talk(quiet=False)
    speaker.begin("Loading x")
    with speaker.counting() as moved:
        moved(1, 7, "timed")
    speaker.say("Wrote [x] (5 kB)")

    assert capsys.readouterr().err == "Wrote [x] (5 kB)\n"


def test_quiet_says_nothing_even_on_a_terminal(terminal: Terminal) -> None:
    speaker = Talk(quiet=True)
    speaker.begin("Loading x")
    with speaker.counting() as moved:
        moved(1, 7, "timed")
    speaker.say("Wrote x")

    assert terminal.getvalue() == ""


def test_a_long_path_is_never_broken_into_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Talk(quiet=False).say("Wrote " + "x" * 300)

    assert capsys.readouterr().err == "Wrote " + "x" * 300 + "\n"

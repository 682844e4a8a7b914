"""What a person sees of errors, and the exit codes."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from vlmtrace.cli import boundary
from vlmtrace.errors import UsageError, VlmtraceError


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (VlmtraceError("no 'x'", "give one"), 1, "no 'x': give one"),
        (UsageError("no 'x'"), 2, "no 'x'"),
        (click.UsageError("No such option."), 2, "No such option: see vlmtrace fail --help"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            ZeroDivisionError("a\nb"),
            1,
            "unexpected ZeroDivisionError: a b (vlmtrace --debug … shows where; please report it)",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_error_is_one_line_and_an_exit_code(capsys, error: BaseException, code: int, line: str) -> None:
    assert boundary.run(_group(error), ["fail"]) == code

    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.strip() == f"vlmtrace: error: {line}"


def test_debug_shows_the_traceback_in_front_of_the_line(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMTRACE_DEBUG", "1")

    assert boundary.run(_group(VlmtraceError("no")), ["fail"]) == 1

    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last)")
    assert shown.endswith("vlmtrace: error: no\n")


def test_a_commands_own_exit_code_is_passed_on() -> None:
    @click.group()
    def group() -> None: ...

    @group.command()
    def three() -> int:
        return 3

    assert boundary.run(group, ["three"]) == 3


def test_an_unknown_option_names_the_help(type_in) -> None:
    typed = type_in("summary", "--nope")

    assert typed.code == 2
    assert typed.err.startswith("vlmtrace: error: No such option")
    assert "--nope" in typed.err
    assert typed.err.endswith(": see vlmtrace summary --help\n")
    assert typed.err.count("\n") == 1


def test_debug_is_an_option_of_the_group(type_in) -> None:
    typed = type_in("--debug", "summary", "none.pftrace")

    assert typed.code == 1
    assert "Traceback" in typed.err


def test_help_lists_the_commands_and_names_the_first_thing_to_type(type_in) -> None:
    typed = type_in("--help")

    assert typed.code == 0
    assert "vlmtrace record --demo" in typed.out
    assert {"record", "summary"} <= set(typed.out.split())


def test_no_command_at_all_shows_the_help_and_is_a_usage_error(type_in) -> None:
    typed = type_in()

    assert (typed.code, typed.out) == (2, "")
    assert "vlmtrace record --demo" in typed.err


def test_a_reader_that_goes_away_is_no_error_to_speak_of() -> None:
    shown = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m vlmtrace record --help | head -c 1 > /dev/null"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert shown.stderr == ""


def test_help_and_errors_need_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from vlmtrace.cli import boundary, main; boundary.run(main.vlmtrace, ['record', '--help']); "
        "boundary.run(main.vlmtrace, ['record']); "
        "sys.exit(len({'torch', 'transformers', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False).returncode == 0


def _group(error: BaseException) -> click.Group:
    @click.group()
    def group() -> None: ...

    @group.command()
    def fail() -> None:
        raise error

    return group

"""What the tests of the command line share: a folder of their own, and a way to type commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vlmtrace.cli import boundary
from vlmtrace.cli.main import vlmtrace


@dataclass(frozen=True)
class Typed:
    """What came of a command: its exit code, and the text on stdout and stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VLMTRACE_DEBUG", raising=False)
    return tmp_path


@pytest.fixture
def type_in(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Typed]:
    """Type ``vlmtrace`` and these words, in the folder."""

    def typed(*words: object) -> Typed:
        code = boundary.run(vlmtrace, [str(word) for word in words])
        shown = capsys.readouterr()
        return Typed(code, shown.out, shown.err)

    return typed


@pytest.fixture
def noting_starts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Have ``module`` find the machine fit, and note ``what(one)`` of each ``kind`` that is started from now on."""

    def noting(module: ModuleType, kind: type, what: Callable[[Any], Any]) -> list[Any]:
        noted: list[Any] = []
        start: Callable[[Any], Any] = vars(kind)["start"]

        def tells(one: Any) -> Any:
            noted.append(what(one))
            return start(one)

        monkeypatch.setattr(module, "check", lambda: None)
        monkeypatch.setattr(kind, "start", tells)
        return noted

    return noting

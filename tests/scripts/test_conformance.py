"""scripts/conformance.py: what it runs, refuses and writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import conformance


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["conformance.py", *arguments])
    return conformance.main()


def test_a_type_is_checked_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "llava", "--json", str(tmp_path / "made.json")) == 0
    assert "1 of 1 right with transformers" in capsys.readouterr().out
    made = json.loads((tmp_path / "made.json").read_text())
    assert made["types"]["llava"]["encoder"] == "right"
    assert made["types"]["llava"]["problems"] == []


def test_a_type_that_cannot_be_built_is_told_and_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(kind: str) -> None:
        raise ValueError(f"no {kind} here\nmore")

    monkeypatch.setattr(conformance, "build", fail)
    assert run(monkeypatch, "llava") == 1
    told = capsys.readouterr().out
    assert "llava                    cannot be built or does not generate: ValueError: no llava here\n" in told
    assert "0 of 0 right" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("lava",), "'lava' is no model type of transformers"),
        (("pi0",), "'pi0' is left out: has no generate()"),
        (("llava", "--json", "nowhere/made.json"), "the folder 'nowhere' does not exist"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(
    arguments: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err

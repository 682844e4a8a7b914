"""``vlmtrace record --audit-syncs``: a pass of its own behind the timed ones, or one line why there is none."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.saved_models import saved
from vlmtrace import api
from vlmtrace.capture import sync_audit
from vlmtrace.timeline import names

_MESSAGE = "called a synchronizing CUDA operation"
_QUICK = ("--warmup", 1, "--repeats", 2, "--max-new-tokens", 3, "--audit-syncs")


@pytest.fixture
def tiny() -> tuple[object, ...]:
    return ("--model", saved("llava"), "--image-size", "32x32", *_QUICK)


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """A machine whose CPU passes for a GPU, and a library that waits for it whenever it asks whether to stop.

    Answered are the sync debug modes in which it was asked.
    """
    modes: list[Any] = [0]
    asked: list[Any] = []
    monkeypatch.setattr(sync_audit, "check_device", lambda _device: None)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    stopping = transformers.StoppingCriteriaList.__call__

    def waits(*args: Any, **kwargs: Any) -> Any:
        asked.append(modes[-1])
        if modes[-1] == "warn":
            warnings.warn(_MESSAGE, stacklevel=1)
        return stopping(*args, **kwargs)

    monkeypatch.setattr(transformers.StoppingCriteriaList, "__call__", waits)
    yield asked
    assert modes[-1] == 0


def test_the_audit_comes_last_and_is_no_part_of_what_is_timed(
    type_in: Any, folder: Path, tiny: Any, waiting: list[Any]
) -> None:
    typed = type_in("record", *tiny, "-o", "a.json")

    assert typed.code == 0, typed.err
    assert waiting == [0] * 3 * 3 + ["warn"] * 3
    made = api.load("a.json")
    assert len(made.generations) == 3
    assert made.audited == 1
    assert {site.stage: site.count for site in made.syncs} == {
        names.OTHER_FIRST_TOKEN: 1,
        names.GAP: 1,
        names.OTHER_TAIL: 1,
    }
    assert {site.function.rpartition(".")[2] for site in made.syncs} == {"waits"}
    assert "3 synchronisations per generation" in typed.out


def test_every_sample_is_audited_once(type_in: Any, folder: Path, waiting: list[Any]) -> None:
    lines = [{"id": "a", "prompt": "Who?"}, {"id": "b", "prompt": "Hi", "max_new_tokens": 2}]
    (folder / "samples.jsonl").write_text("\n".join(json.dumps(line) for line in lines))

    typed = type_in("record", "--model", saved("llava"), "--inputs", "samples.jsonl", *_QUICK, "--format", "json")

    assert typed.code == 0, typed.err
    syncs = json.loads(typed.out)["syncs"]
    assert syncs["audited_generations"] == 2
    assert syncs["per_generation"] == (3 + 2) / 2


def test_a_failing_audit_does_not_lose_the_recording(
    type_in: Any, folder: Path, tiny: Any, waiting: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(sync_audit.SyncAudit):
        def __enter__(self) -> sync_audit.SyncAudit:
            super().__enter__()

            def refuses(*_: Any) -> bool:
                raise torch.OutOfMemoryError("full")

            monkeypatch.setattr(transformers.StoppingCriteriaList, "__call__", refuses)
            return self

    monkeypatch.setattr(sync_audit, "SyncAudit", Full)

    typed = type_in("record", *tiny, "-o", "a.json")

    assert typed.code == 1
    assert "sample '0' failed in an audited request: out of GPU memory" in typed.err
    made = api.load("a.json")
    assert (len(made.generations), made.audited, made.incomplete) == (3, 0, None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
@pytest.mark.parametrize("device", [(), ("--device", "cpu")])
def test_without_a_gpu_it_is_refused_in_one_line_before_anything_is_loaded(
    type_in: Any, folder: Path, device: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmtrace.capture.loading.load_demo", lambda *_: pytest.fail("the model was loaded"))

    typed = type_in("record", "--demo", *_QUICK, *device)

    assert (typed.code, typed.out) == (2, "")
    (line,) = typed.err.strip().splitlines()
    assert "needs a CUDA device, and this would run on 'cpu'" in line
    assert list(folder.iterdir()) == []


def test_a_program_is_refused_with_the_way_to_audit_it(type_in: Any, folder: Path) -> None:
    (folder / "job.py").write_text("raise SystemExit('the program ran')")

    typed = type_in("record", "--audit-syncs", "--", "job.py")

    assert typed.code == 2
    assert "'--audit-syncs' needs --demo or --model" in typed.err
    assert "vlmtrace.audit_syncs(model)" in typed.err
    assert "the program ran" not in typed.err

"""``vlmtrace record --kernels``: a pass of its own behind the timed ones, or one line why there is none."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.nsight.torch_events import WITHIN, called, kernel, written
from tests.saved_models import saved
from vlmtrace import api
from vlmtrace.analysis.summary import summarise
from vlmtrace.capture import kernel_profile, workload
from vlmtrace.errors import VlmtraceError
from vlmtrace.nsight import torch_trace
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import PROFILED, TIMED, WARMED

pytestmark = pytest.mark.filterwarnings("ignore:CUDA is not available")

_QUICK = ("--warmup", 1, "--repeats", 2, "--max-new-tokens", 3, "--kernels")


@pytest.fixture
def tiny() -> tuple[object, ...]:
    return ("--model", saved("llava"), "--image-size", "32x32", *_QUICK)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose CPU passes for a GPU: torch.profiler's own trace, and in each stage of it a kernel launched."""
    monkeypatch.setattr(kernel_profile, "check_device", lambda _device: None)
    save = kernel_profile.KernelProfile.save

    def with_kernels(profile: kernel_profile.KernelProfile, folder: Path) -> Path:
        path = save(profile, folder)
        events = json.loads(path.read_text(), parse_float=Decimal)["traceEvents"]
        more = []
        for event in events:
            told = names.of_profile(event["name"])
            if told is not None and told[0] in WITHIN:
                at, number = int(event["ts"] * 1000), len(more) // 2 + 1
                launch = called("cudaLaunchKernel", at + 2_000, at + 4_000, event["tid"], number)
                more += [launch | {"pid": event["pid"]}, kernel("gemm", at + 5_000, at + 9_000, number)]
        return written([*events, *more], path)

    monkeypatch.setattr(kernel_profile.KernelProfile, "save", with_kernels)


def test_the_profile_comes_last_and_is_no_part_of_what_is_timed(
    type_in: Any, folder: Path, tiny: Any, kernels: None
) -> None:
    typed = type_in("record", *tiny, "-o", "a.pftrace")

    assert typed.code == 0, typed.err
    made = api.load("a.pftrace")
    assert [one.role for one in made.generations] == [WARMED, TIMED, TIMED, PROFILED]
    assert len({one.output["sha256"] if "sha256" in one.output else str(one.output) for one in made.generations}) == 1
    assert made.pairing is not None
    assert (made.pairing.tool, made.pairing.product) == (torch_trace.TOOL, torch.__version__)
    # One vision, one prefill and two steps: three tokens.
    assert (made.pairing.kernels, made.pairing.unattributed) == (4, {})
    found = summarise(made).kernels
    assert found is not None
    assert {one.stage: one.in_all for one in found.stages if one.in_all} == {
        names.VISION: 1,
        names.PREFILL: 1,
        names.STEP: 2,
    }
    assert "1 profiled, 1 warm-up left out" in " ".join(typed.out.split())
    assert "4 of 4 kernels lie in a stage" in typed.err
    shown = type_in("summary", "--kernels", "a.pftrace")
    assert shown.code == 0
    assert "4 in stages + 0 unattributed = 4 kernels" in shown.out


def test_of_many_samples_the_first_is_profiled(type_in: Any, folder: Path, kernels: None) -> None:
    lines = [{"id": "a", "prompt": "Who?"}, {"id": "b", "prompt": "Hi", "max_new_tokens": 2}]
    (folder / "samples.jsonl").write_text("\n".join(json.dumps(line) for line in lines))

    typed = type_in("record", "--model", saved("llava"), "--inputs", "samples.jsonl", *_QUICK, "-o", "a.json")

    assert typed.code == 0, typed.err
    made = api.load("a.json")
    assert [one.tags["sample"] for one in made.generations if one.role == PROFILED] == ["a"]


def test_a_profiler_that_sees_nothing_does_not_lose_the_recording(
    type_in: Any, folder: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_profile, "check_device", lambda _device: None)

    typed = type_in("record", *tiny, "-o", "a.json")

    assert typed.code == 1
    assert "torch.profiler saw no kernels" in typed.err
    made = api.load("a.json")
    assert (len(made.generations), made.pairing, made.incomplete) == (3, None, None)


def test_a_profiled_request_that_fails_does_not_lose_the_recording(
    type_in: Any, folder: Path, tiny: Any, kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise VlmtraceError("sample '0' failed in a profiled request")

    monkeypatch.setattr(workload, "run_profiled", fails)

    typed = type_in("record", *tiny, "-o", "a.json")

    assert typed.code == 1
    assert len(api.load("a.json").generations) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
@pytest.mark.parametrize("device", [(), ("--device", "cpu")])
def test_without_a_gpu_it_is_refused_in_one_line_before_anything_is_loaded(
    type_in: Any, folder: Path, device: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmtrace.capture.loading.load_demo", lambda *_: pytest.fail("the model was loaded"))

    typed = type_in("record", "--demo", *_QUICK, *device)

    assert (typed.code, typed.out) == (2, "")
    (line,) = typed.err.strip().splitlines()
    assert "need a CUDA device, and this would run on 'cpu'" in line
    assert list(folder.iterdir()) == []


def test_a_program_is_refused_with_the_way_to_profile_it(type_in: Any, folder: Path) -> None:
    (folder / "job.py").write_text("raise SystemExit('the program ran')")

    typed = type_in("record", "--kernels", "--", "job.py")

    assert typed.code == 2
    assert "'--kernels' needs --demo or --model" in typed.err
    assert "vlmtrace.profile_kernels(model)" in typed.err
    assert "the program ran" not in typed.err


def test_with_nsys_it_is_refused(type_in: Any, folder: Path) -> None:
    typed = type_in("record", "--demo", "--nsys", "--kernels")
    assert typed.code == 2
    assert "two profilers cannot watch one GPU" in typed.err

"""Where a model's work runs, also where its weights rest elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, ModelHook, SequentialHook
from torch import nn

from vlmtrace.capture.discovery.anatomy import Anatomy
from vlmtrace.capture.environment import describe_model, working_device
from vlmtrace.capture.recorder import execution_device


def offloaded(root: ModelHook | None, inner: ModelHook | None) -> nn.Module:
    """Two layers whose weights are on the meta device between calls, with hooks of accelerate."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 2))
    for module, hook in ((model, root), (model[0], inner)):
        if hook is not None:
            module._hf_hook = hook  # adding it would move weights to a GPU that may not be there
    return model


GPU = torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("root", "inner"),
    [
        (AlignDevicesHook(1), AlignDevicesHook("cpu")),  # dispatched: the root's own device counts
        (AlignDevicesHook(io_same_device=True), AlignDevicesHook(1, offload=True)),  # cpu_offload() names none there
        (AlignDevicesHook(), AlignDevicesHook("cuda:1")),
        (ModelHook(), AlignDevicesHook(GPU)),  # somebody's own hook knows of no device
        (SequentialHook(AlignDevicesHook(), AlignDevicesHook(GPU)), None),
    ],
)
def test_work_runs_where_accelerates_hooks_say_and_not_where_weights_rest(
    root: ModelHook, inner: ModelHook | None
) -> None:
    assert working_device(offloaded(root, inner)) == GPU
    assert execution_device(offloaded(root, inner)) == 1


@pytest.mark.parametrize("offload", [accelerate.cpu_offload, accelerate.disk_offload])
def test_an_offloaded_model_works_on_the_device_that_was_asked_for(offload: Any, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    folder = (str(tmp_path),) if offload is accelerate.disk_offload else ()
    offload(model, *folder, execution_device=GPU)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert working_device(model) == GPU
    assert execution_device(model) == 1


@pytest.mark.parametrize(
    ("device_map", "notes"),
    [
        ({"": "cpu"}, ()),
        (
            {"0": "cpu", "1": "disk"},
            ("weights are offloaded: bringing them in for each call is part of the stages",),
        ),
    ],
)
def test_that_weights_are_offloaded_is_noted(
    device_map: dict[str, str], notes: tuple[str, ...], tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    accelerate.dispatch_model(model, device_map, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    assert describe_model(Anatomy(model)).notes == notes


def test_without_hooks_work_runs_where_weights_are() -> None:
    assert working_device(nn.Linear(2, 2)) == torch.device("cpu")
    assert execution_device(nn.Linear(2, 2)) is None


def test_where_nothing_tells_there_is_no_device() -> None:
    assert working_device(offloaded(None, None)) is None

"""Where a model's work runs, also where its weights rest elsewhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from vlmtrace.capture.environment import working_device
from vlmtrace.capture.recorder import execution_device


def hooked(device: Any, **more: Any) -> SimpleNamespace:
    """A hook as accelerate puts it on a module."""
    return SimpleNamespace(execution_device=device, **more)


def offloaded(root: SimpleNamespace | None, inner: SimpleNamespace | None) -> nn.Module:
    """Two layers whose weights are on the meta device between calls."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 2))
    model._hf_hook, model[0]._hf_hook = root, inner
    return model


@pytest.mark.parametrize(
    ("root", "inner"),
    [
        (hooked(1), hooked("cpu")),  # dispatched: the root's own device counts
        (hooked(None), hooked(1)),  # cpu_offload() names none at the root
        (hooked(None), hooked("cuda:1")),
        (SimpleNamespace(hooks=(hooked(None), hooked(torch.device("cuda", 1)))), None),  # several hooks in one
    ],
)
def test_work_runs_where_accelerates_hooks_say_and_not_where_weights_rest(
    root: SimpleNamespace, inner: SimpleNamespace | None
) -> None:
    assert working_device(offloaded(root, inner)) == torch.device("cuda", 1)
    assert execution_device(offloaded(root, inner)) == 1


def test_without_hooks_work_runs_where_weights_are() -> None:
    assert working_device(nn.Linear(2, 2)) == torch.device("cpu")
    assert execution_device(nn.Linear(2, 2)) is None


def test_where_nothing_tells_there_is_no_device() -> None:
    assert working_device(offloaded(None, None)) is None

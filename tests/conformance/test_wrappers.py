"""Wrapped models: what a wrapper holds is traced as it is without one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import vlmtrace
from tests.tiny.models import TinyModel, build
from vlmtrace.timeline import names


def stages_of(wrapped: nn.Module, tiny: TinyModel) -> tuple[Counter[str], torch.Tensor]:
    """Spans by name of a generation in which ``wrapped`` was given to ``trace()``, and its token ids."""
    with vlmtrace.trace(wrapped, detail="layer") as session:
        ids = tiny.generate(4)
    spans = session.recording.spans
    return Counter(span.name for span in spans if span.name not in (names.GC, names.COMPILE)), ids


@contextmanager
def one_process(folder: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.FileStore(str(folder / "store"), 1), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("model_type", ["llava", "qwen3_vl"])
@pytest.mark.parametrize(
    "wrap", [DistributedDataParallel, lambda model: torch.compile(model, backend="eager")], ids=["DDP", "compile"]
)
def test_a_wrapped_model_shows_the_same_stages(
    model_type: str, wrap: Callable[[Any], nn.Module], tmp_path: Path
) -> None:
    tiny = build(model_type)
    expected, ids = stages_of(tiny.model, tiny)
    with one_process(tmp_path):
        found, again = stages_of(wrap(tiny.model), tiny)
    assert found == expected
    assert torch.equal(ids, again)

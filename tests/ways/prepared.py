"""Preparations: what programs do to a model before they generate with it."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import cpu_offload
from transformers import CompileConfig, pipeline

from tests.models import build
from tests.saved_models import saved
from tests.ways.bench import Bench

__all__ = [
    "compile_config",
    "compile_forward",
    "compile_in_place",
    "compile_wrapped",
    "dispatch",
    "end_at_third_token",
    "forward_that_asks",
    "generate_that_asks",
    "make_pipeline",
    "offload",
]

_FOLDERS: Final = tempfile.TemporaryDirectory(prefix="vlmtrace-ways-")


def compile_config(**more: Any) -> CompileConfig:
    made = CompileConfig(backend="eager", mode=None, dynamic=False, **more)
    made._compile_all_devices = True  # transformers compiles on accelerators only, unless told so
    return made


def compile_in_place(path: str = "") -> Callable[[Bench], None]:
    return lambda bench: bench.model.get_submodule(path).compile(backend="eager")


def compile_forward(bench: Bench) -> None:
    bench.model.forward = torch.compile(bench.model.forward, backend="eager")


def compile_wrapped(bench: Bench) -> None:
    bench.model = torch.compile(bench.model, backend="eager")


def make_pipeline(bench: Bench) -> None:
    bench.asked = pipeline("image-text-to-text", model=str(saved("llava")))
    bench.model = bench.asked.model
    bench.model.generation_config.eos_token_id = None


def offload(bench: Bench) -> None:
    """Weights rest elsewhere and are brought for each forward."""
    cpu_offload(bench.model, execution_device=torch.device("cpu"))


def dispatch(bench: Bench) -> None:
    """Loaded with a device map; the vision tower stays on disk."""
    folder = Path(tempfile.mkdtemp(dir=_FOLDERS.name))
    bench.model.save_pretrained(folder / "model")
    places = {"model.vision_tower": "disk", "model.multi_modal_projector": "cpu", "model.language_model": "cpu"}
    bench.model = type(bench.model).from_pretrained(
        folder / "model",
        attn_implementation="eager",
        device_map={**places, "lm_head": "cpu"},
        offload_folder=folder / "offloaded",
    )


def end_at_third_token(bench: Bench) -> None:
    bench.model.generation_config.eos_token_id = int(bench.generate()[0, bench.prompt + 2])


def _other() -> Bench:
    tiny = build("llava", 1)
    return Bench(tiny.model, dict(tiny.inputs))


def generate_that_asks(bench: Bench) -> None:
    """A ``generate()`` of a user's own that calls another model's first, then transformers'."""
    kind, other = type(bench.model), _other()

    class Asks(kind):  # type: ignore[misc, valid-type]
        def generate(self, *args: Any, **kwargs: Any) -> Any:
            other.generate(max_new_tokens=2)
            return super().generate(*args, **kwargs)

    bench.model.__class__ = Asks


def forward_that_asks(bench: Bench) -> None:
    """A ``forward()`` of a user's own in which another model generates."""
    kind, other = type(bench.model), _other()

    class Asks(kind):  # type: ignore[misc, valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            other.generate(max_new_tokens=2)
            return super().forward(*args, **kwargs)

    Asks.forward.__signature__ = inspect.signature(kind.forward)  # type: ignore[attr-defined]
    bench.model.__class__ = Asks

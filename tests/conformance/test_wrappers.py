"""Wrapped models: what torch, PEFT and accelerate put around a model, or into it, is looked through.

Each wrapper is the library's own. All of :mod:`tests.conformance.check` holds: tokens, stages and their sums, parts
under the paths that they have without a wrapper, and nothing left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import accelerate
import peft
import pytest
import torch
from torch import distributed, nn
from torch.distributed import fsdp
from torch.distributed.algorithms._checkpoint import checkpoint_wrapper
from torch.nn.parallel import DistributedDataParallel

import vlmtrace
from tests.conformance.check import check
from tests.leftovers import leftovers, snapshot
from tests.tiny.models import TinyModel, build

BEFORE_AND_INSIDE: Final = ("llava", "qwen3_vl", "mllama", "blip-2")
"""Vision before the first forward, with and without a projector of its own; inside it; and a generate() of its own."""


def wrapped(model_type: str, wrap: Callable[[Any], Any]) -> TinyModel:
    tiny = build(model_type)
    return replace(tiny, wrapper=wrap(tiny.model))


def found_without(model_type: str) -> list[tuple[str, str, bool]]:
    return stages_of(build(model_type).model)


def stages_of(model: nn.Module) -> list[tuple[str, str, bool]]:
    """Stage, path and whether it is a guess, of what would be traced."""
    with vlmtrace.trace(model) as session:
        pass
    return [(one.stage, one.path, one.guess) for one in session.recording.models[0].stages]


def assert_told_as_without(tiny: TinyModel) -> None:
    assert check(tiny).problems == ()
    assert stages_of(tiny.held) == found_without(tiny.model_type)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


def sharded(model: nn.Module) -> nn.Module:
    """FSDP2: block by block, and a generate() that gathers the rest before anything reads it."""
    for module in model.modules():
        if type(module).__name__.endswith("DecoderLayer"):
            fsdp.fully_shard(module)
    fsdp.fully_shard(model)
    fsdp.register_fsdp_forward_method(model, "generate")
    return model


def flattened(model: nn.Module) -> nn.Module:
    return fsdp.FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)


def checkpointed(model: nn.Module) -> nn.Module:
    checkpoint_wrapper.apply_activation_checkpointing(
        model, check_fn=lambda module: type(module).__name__.endswith(("DecoderLayer", "EncoderLayer"))
    )
    return model


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("wrap", [DistributedDataParallel, compiled, sharded, checkpointed])
@pytest.mark.parametrize("model_type", BEFORE_AND_INSIDE)
def test_what_torch_wraps_is_told_as_without(model_type: str, wrap: Callable[[Any], Any]) -> None:
    assert_told_as_without(wrapped(model_type, wrap))


@pytest.mark.usefixtures("one_process")
def test_what_the_older_fsdp_wraps_is_told_as_without() -> None:
    assert_told_as_without(wrapped("llava", flattened))


def lora(model: Any, **more: Any) -> Any:
    """Adapters that change what the model says: PEFT's own begin as zeros."""
    options = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, **more}
    return peft.get_peft_model(model, peft.LoraConfig(**options))


def lora_for_language(model: Any) -> Any:
    return lora(model, task_type="CAUSAL_LM")


def lora_everywhere(model: Any) -> Any:
    """In the tower and the projector too."""
    return lora(model, target_modules="all-linear")


def dora(model: Any) -> Any:
    return lora(model, use_dora=True)


def lora_disabled(model: Any) -> Any:
    made = lora(model)
    made.base_model.disable_adapter_layers()
    return made


def lora_merged(model: Any) -> Any:
    made = lora(model)
    made.merge_adapter()
    return made


def lora_merged_and_unloaded(model: Any) -> Any:
    return lora(model).merge_and_unload()


def adapter_of_transformers(model: Any) -> Any:
    """Without a wrapper: transformers puts PEFT's layers into the model itself."""
    model.add_adapter(peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    return model


def ia3(model: Any) -> Any:
    options = {"target_modules": ["k_proj"], "feedforward_modules": [], "init_ia3_weights": False}
    return peft.get_peft_model(model, peft.IA3Config(**options))


def prompt_tuned(model: Any) -> Any:
    return peft.get_peft_model(model, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))


@pytest.mark.parametrize(
    "wrap",
    [
        lora_for_language,
        lora_everywhere,
        dora,
        lora_disabled,
        lora_merged,
        lora_merged_and_unloaded,
        adapter_of_transformers,
        ia3,
        prompt_tuned,
    ],
)
@pytest.mark.parametrize("model_type", ["llava", "blip-2"])
def test_a_model_with_an_adapter_of_peft_is_told_as_without(model_type: str, wrap: Callable[[Any], Any]) -> None:
    assert_told_as_without(wrapped(model_type, wrap))


@pytest.mark.parametrize("model_type", BEFORE_AND_INSIDE)
def test_a_lora_model_says_something_of_its_own_and_is_told_as_without(model_type: str) -> None:
    tiny = wrapped(model_type, lora)
    with tiny.held.disable_adapter():
        plain = tiny.generate(8)
    assert not torch.equal(tiny.generate(8), plain)
    assert_told_as_without(tiny)


def test_a_head_that_is_trained_beside_an_adapter_keeps_its_path() -> None:
    tiny = wrapped("llava", lambda model: lora(model, modules_to_save=["lm_head"]))
    assert stages_of(tiny.held) == found_without("llava")
    told = check(tiny)
    assert told.problems == ("output head: told {'lm_head'}, ran {'lm_head.modules_to_save.default'}",)


def test_an_adapter_may_be_switched_off_and_on_while_tracing() -> None:
    tiny = wrapped("llava", lora)
    before = snapshot()
    with vlmtrace.trace(tiny.held) as session:
        on = tiny.generate(4)
        with tiny.held.disable_adapter():
            tiny.generate(4)
        again = tiny.generate(4)
    assert torch.equal(on, again)
    assert [one.new_tokens for one in session.recording.generations] == [(4,)] * 3
    assert len(session.recording.models) == 1
    assert leftovers(before) == []


CPU: Final = torch.device("cpu")


def in_memory(model: Any, folder: Path) -> Any:
    return accelerate.cpu_offload(model, CPU)


def on_disk(model: Any, folder: Path) -> Any:
    return accelerate.disk_offload(model, str(folder), CPU)


def dispatched(model: Any, folder: Path) -> Any:
    return accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)


def dispatched_lora(model: Any, folder: Path) -> Any:
    return dispatched(lora(model), folder)


@pytest.mark.parametrize(
    ("model_type", "offload"),
    [(kind, way) for kind in ("llava", "qwen3_vl") for way in (in_memory, on_disk)]
    + [(kind, way) for kind in BEFORE_AND_INSIDE for way in (dispatched, dispatched_lora)],
)
def test_a_model_that_accelerate_feeds_is_told_as_without(
    model_type: str, offload: Callable[[Any, Path], Any], tmp_path: Path
) -> None:
    assert_told_as_without(wrapped(model_type, lambda model: offload(model, tmp_path)))


def test_a_model_loaded_with_a_device_map_is_told_as_without(tmp_path: Path) -> None:
    tiny = build("llava")
    tiny.model.save_pretrained(tmp_path / "model")
    device_map = {"model.vision_tower": "disk", "model.multi_modal_projector": "cpu", "model.language_model": "disk"}
    model = type(tiny.model).from_pretrained(
        tmp_path / "model", device_map={**device_map, "lm_head": "cpu"}, offload_folder=tmp_path / "offloaded"
    )
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu", "meta"}
    loaded = replace(tiny, model=model)
    assert torch.equal(loaded.generate(4), tiny.generate(4))
    assert_told_as_without(loaded)


@pytest.mark.usefixtures("one_process")
def test_wrappers_around_wrappers_are_looked_through(tmp_path: Path) -> None:
    tiny = wrapped("llava", lambda model: DistributedDataParallel(compiled(dispatched(lora(model), tmp_path))))
    assert_told_as_without(tiny)

"""Models and processors from folders, and one clear line for everything that keeps them from loading."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import transformers

from tests.saved_models import saved
from vlmtrace.capture import loading
from vlmtrace.capture.loading import LoadOptions
from vlmtrace.errors import UsageError, VlmtraceError

_OLD = tuple(int(part) for part in transformers.__version__.split(".")[:2]) <= (5, 17)


def test_a_saved_llava_loads_with_its_processor_in_evaluation_mode() -> None:
    loaded = loading.load(LoadOptions(str(saved("llava")), device="cpu"))

    assert type(loaded.model).__name__ == "LlavaForConditionalGeneration"
    assert type(loaded.processor).__name__ == "LlavaProcessor"
    assert not loaded.model.training
    assert not loaded.random_weights
    assert loaded.name == "llava"


@pytest.mark.skipif(_OLD, reason="up to transformers 5.17 Idefics3's processor cannot be loaded without torchvision")
def test_a_saved_idefics3_loads_without_torchvision() -> None:
    loaded = loading.load(LoadOptions(str(saved("idefics3")), device="cpu"))

    assert type(loaded.processor).__name__ == "Idefics3Processor"


def test_a_language_model_loads_with_its_tokenizer() -> None:
    loaded = loading.load(LoadOptions(str(saved("text")), device="cpu"))

    assert type(loaded.model).__name__ == "LlamaForCausalLM"
    assert loaded.processor.decode(loaded.processor("hi")["input_ids"]) == "hi"


def test_a_dtype_and_an_attention_implementation_are_taken_over() -> None:
    loaded = loading.load(LoadOptions(str(saved("llava")), dtype="bfloat16", device="cpu", attention="eager"))

    assert loaded.model.dtype == torch.bfloat16
    assert loaded.model.config.text_config._attn_implementation == "eager"


def test_random_weights_need_only_a_config_and_a_processor_and_repeat_with_the_seed() -> None:
    def built(seed: int) -> loading.Loaded:
        return loading.load(LoadOptions(str(saved("weightless")), device="cpu", random_weights=True, seed=seed))

    first, again, other = built(1), built(1), built(2)
    real = loading.load(LoadOptions(str(saved("llava")), device="cpu"))

    assert first.random_weights
    assert first.model.num_parameters() == real.model.num_parameters()
    head = first.model.lm_head.weight
    assert torch.equal(head, again.model.lm_head.weight)
    assert not torch.equal(head, other.model.lm_head.weight)


def test_random_weights_take_the_dtype_asked_for_and_the_checkpoints_own_generation_settings() -> None:
    loaded = loading.load(LoadOptions(str(saved("weightless")), "bfloat16", "cpu", random_weights=True))

    assert loaded.model.dtype == torch.bfloat16
    assert loaded.model.generation_config.eos_token_id == 2


def test_on_the_meta_device_a_model_has_modules_but_no_storage_and_needs_no_processor() -> None:
    loaded = loading.load(LoadOptions(str(saved("bare")), device="meta"))

    assert {parameter.device.type for parameter in loaded.model.parameters()} == {"meta"}
    assert loaded.processor is None


def test_loading_leaves_the_progress_bars_of_transformers_as_they_were() -> None:
    before = transformers.utils.logging.is_progress_bar_enabled()

    loading.load(LoadOptions(str(saved("llava")), device="cpu"))

    assert transformers.utils.logging.is_progress_bar_enabled() == before


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("/nowhere/model", "there is no model folder '/nowhere/model'"),
        ("./model", "there is no model folder './model'"),
        ("a/b/c", "there is no model folder 'a/b/c'"),
    ],
)
def test_a_path_to_nothing_is_refused_before_anything_loads(model: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        loading.check_source(model)


def test_a_folder_without_a_config_and_a_file_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")

    with pytest.raises(UsageError, match="has no config\\.json"):
        loading.check_source(str(tmp_path))
    with pytest.raises(UsageError, match="is a file"):
        loading.check_source(str(file))


@pytest.mark.parametrize("model", ["gpt2", "org/name", "Qwen/Qwen2.5-VL-7B-Instruct"])
def test_a_hub_id_is_not_taken_for_a_missing_folder(model: str) -> None:
    loading.check_source(model)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed here")
def test_a_processor_that_needs_torchvision_is_refused_with_the_command_that_installs_it() -> None:
    with pytest.raises(VlmtraceError, match=r"needs torchvision.*pip install 'vlmtrace\[vision\]'") as raised:
        loading.load(LoadOptions(str(saved("needs-torchvision")), device="cpu"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (LoadOptions("{weightless}", device="cpu"), "comes without weights: give --random-weights"),
        (LoadOptions("{bare}", device="cpu"), "comes without a processor"),
        (LoadOptions("{llava}", device="cpu", attention="foo"), "cannot run with --attn 'foo' here"),
        (LoadOptions("{llava}", device="cpu", dtype="float8"), "unknown dtype 'float8'"),
        (LoadOptions("{llava}", device="gpu"), "unknown device 'gpu'"),
        (LoadOptions("{llava}", device="mps"), "unknown device 'mps'"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(options: LoadOptions, says: str) -> None:
    folder = saved(options.model.strip("{}"))

    with pytest.raises(VlmtraceError, match=says) as raised:
        loading.load(LoadOptions(str(folder), options.dtype, options.device, options.attention))
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_said(device: str) -> None:
    with pytest.raises(VlmtraceError, match=f"'{device}' was asked for, but torch sees no CUDA GPU"):
        loading.check_device(device)


def test_a_model_type_that_cannot_generate_is_said(tmp_path: Path) -> None:
    transformers.ViTConfig().save_pretrained(tmp_path)

    with pytest.raises(VlmtraceError, match="is of type 'vit', which transformers cannot load to generate text"):
        loading.load(LoadOptions(str(tmp_path), device="meta"))


def test_code_of_a_repositorys_own_is_run_only_when_it_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}')
    (tmp_path / "own.py").write_text("raise SystemExit('this code ran')")

    with pytest.raises(VlmtraceError, match="comes with code of its own: read it, then give --trust-remote-code"):
        loading.load(LoadOptions(str(tmp_path), device="cpu"))


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in {"torch", "PIL"} else object())

    with pytest.raises(VlmtraceError) as raised:
        loading.check_installed()
    assert str(raised.value) == (
        "recording needs torch and Pillow, which are not installed: pip install 'vlmtrace[record]'"
    )


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2.5-vl-7b-instruct"),
        ("/models/My Model/", "my-model"),
        ("models/llava", "llava"),
    ],
)
def test_a_models_short_name_is_the_last_part_of_its_id_or_path(model: str, name: str) -> None:
    assert loading.short_name(model) == name


def test_an_exception_becomes_one_line_of_bounded_length() -> None:
    assert loading.one_line(ValueError("a\n  b")) == "ValueError: a b"
    assert loading.one_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert len(loading.one_line(ValueError("x" * 10_000))) < 300

"""Tiny models with their processors, saved once a session as folders that a user could have: no hub, no torchvision."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from vlmtrace.capture import demo

__all__ = ["saved"]

_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
_ROOT = tempfile.TemporaryDirectory(prefix="vlmtrace-models-")


@functools.cache
def saved(name: str) -> Path:
    """The folder of ``llava``, ``idefics3``, ``text`` (a tokenizer and a language model), ``bare`` (a config alone),

    ``weightless`` (LLaVA without weights), ``untemplated`` (LLaVA without a chat template) or ``needs-torchvision``.
    """
    folder = Path(_ROOT.name) / name
    folder.mkdir()
    {
        "llava": _llava,
        "idefics3": _idefics3,
        "text": _text,
        "bare": lambda at: _copy(at, "config.json"),
        "weightless": lambda at: _copy(at, "*.json", "*.jinja"),
        "untemplated": lambda at: _copy(at, "*.json", "*.safetensors"),
        "needs-torchvision": _needs_torchvision,
    }[name](folder)
    return folder


def _copy(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for file in saved("llava").glob(pattern):
            shutil.copy(file, folder)


def _llava(folder: Path) -> None:
    import transformers

    processor = demo._processor()
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(image_size=224, patch_size=16, projection_dim=32, **_VISION),
        text_config=transformers.LlamaConfig(vocab_size=len(processor.tokenizer), **_TEXT),
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
    )
    _save(folder, transformers.LlavaForConditionalGeneration(config), processor)


def _text(folder: Path) -> None:
    import transformers

    tokenizer = demo._tokenizer()
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), **_TEXT)
    _save(folder, transformers.LlamaForCausalLM(config), tokenizer)


def _idefics3(folder: Path) -> None:
    import transformers
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    grid = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    marks = ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *grid]
    tokenizer = demo._tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", *marks]})
    config = transformers.Idefics3Config(
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **_TEXT},
        vision_config={"image_size": 32, "patch_size": 8, **_VISION},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    processor = transformers.Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=demo._CHAT_TEMPLATE,
    )
    _save(folder, transformers.Idefics3ForConditionalGeneration(config), processor)


def _needs_torchvision(folder: Path) -> None:
    """The files of a Qwen2-VL checkpoint's processor, whose video part transformers writes for torchvision alone."""
    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    Qwen2VLImageProcessorPil().save_pretrained(folder)
    demo._tokenizer().save_pretrained(folder)
    transformers.Qwen2VLConfig().save_pretrained(folder)
    settings = folder / "preprocessor_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"processor_class": "Qwen2VLProcessor"}))


def _save(folder: Path, model: Any, processor: Any) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)

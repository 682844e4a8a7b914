"""The built-in model: a tiny LLaVA with random weights, its processor and a picture, all made in code.

It needs no network, no GPU and no torchvision. The classes are transformers' own, so what a recording of it shows
is how a real model runs; only the weights, and so the words it says, mean nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["DEMO_NAME", "DEMO_PROMPT", "PICTURE_SIZE", "build", "draw"]

DEMO_NAME: Final = "demo"
DEMO_PROMPT: Final = "What is in this picture?"
PICTURE_SIZE: Final = (640, 480)
"""Width and height of the demo's picture, in pixels."""

_TITLE: Final = "tiny LLaVA"
_SIDE, _PATCH = 224, 16
_IMAGE_TOKEN = "<image>"
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper }}: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}" + _IMAGE_TOKEN + "\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def build(seed: int = 0) -> tuple[Any, Any]:
    """A random-weight ``LlavaForConditionalGeneration`` of some 15 million parameters (float32, CPU) and its processor.

    The same ``seed`` gives the same weights and so the same token ids. The model never ends a text by itself:
    weights without meaning would end it anywhere, and runs could not be compared.
    """
    import torch

    transformers = _transformers()
    processor = _processor()
    tokenizer = processor.tokenizer
    torch.manual_seed(seed)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=6,
            num_attention_heads=4,
            projection_dim=256,
            image_size=_SIDE,
            patch_size=_PATCH,
        ),
        text_config=transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=384,
            intermediate_size=1024,
            num_hidden_layers=6,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(_IMAGE_TOKEN),
    )
    model = transformers.LlavaForConditionalGeneration(config).eval()
    model.config.name_or_path = _TITLE
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = None
    return model, processor


def draw(width: int, height: int) -> Image.Image:
    """An RGB picture of ``width`` × ``height`` pixels: a house under the sun, the same every time."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (width, height), (135, 190, 235))
    pen = ImageDraw.Draw(picture)

    def at(*shares: float) -> list[float]:
        """Shares of width and height, in turn, as pixels."""
        return [share * (height - 1 if place % 2 else width - 1) for place, share in enumerate(shares)]

    pen.ellipse(at(0.72, 0.08, 0.88, 0.29), fill=(250, 215, 80))
    pen.rectangle(at(0.0, 0.68, 1.0, 1.0), fill=(105, 165, 85))
    pen.rectangle(at(0.20, 0.42, 0.55, 0.82), fill=(205, 130, 95))
    pen.polygon(at(0.15, 0.42, 0.375, 0.18, 0.60, 0.42), fill=(130, 60, 55))
    pen.rectangle(at(0.34, 0.60, 0.42, 0.82), fill=(90, 60, 45))
    pen.rectangle(at(0.24, 0.50, 0.31, 0.60), fill=(225, 240, 250))
    pen.rectangle(at(0.45, 0.50, 0.52, 0.60), fill=(225, 240, 250))
    return picture


def _transformers() -> Any:
    """The library, imported only when a model is made, and as ``Any``: which of its parts are typed varies."""
    return importlib.import_module("transformers")


def _processor() -> Any:
    return _transformers().LlavaProcessor(
        image_processor=_image_processor_class()(
            size={"shortest_edge": _SIDE}, crop_size={"height": _SIDE, "width": _SIDE}
        ),
        tokenizer=_tokenizer(),
        patch_size=_PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=_IMAGE_TOKEN,
        chat_template=_CHAT_TEMPLATE,
    )


def _image_processor_class() -> Any:
    """CLIP's image processor on Pillow: a module of its own in recent transformers, the plain class before."""
    try:
        return importlib.import_module("transformers.models.clip.image_processing_pil_clip").CLIPImageProcessorPil
    except ModuleNotFoundError:
        return importlib.import_module("transformers.models.clip.image_processing_clip").CLIPImageProcessor


def _tokenizer() -> Any:
    """Byte-level BPE without merges: one token a byte, so that every text can be said and read back."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokens = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bpe = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = _transformers().PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [_IMAGE_TOKEN]})
    return tokenizer

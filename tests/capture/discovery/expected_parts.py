"""The parts that each model has, as paths: read from the models' own code by a person, not by discovery."""

from __future__ import annotations

import re
from dataclasses import dataclass

import transformers

from vlmtrace.capture.discovery.anatomy import Anatomy, Part

__all__ = ["BARE", "TINY", "Expected", "found_in", "lists"]


@dataclass(frozen=True)
class Expected:
    """Paths, as people know them from the model's code; lists stand for the modules in them."""

    encoders: str
    projectors: str = ""
    inner: str = ""
    language_model: str = "model.language_model"
    layers: str = "model.language_model.layers"
    lm_head: str = "lm_head"
    methods: str = "model.get_image_features"


_BLIP = {
    "language_model": "language_model",
    "layers": "language_model.model.decoder.layers",
    "lm_head": "language_model.lm_head",
}
_TEXT_MODEL = {"language_model": "model.text_model", "layers": "model.text_model.layers"}
_CORE = {"language_model": "model", "layers": "model.layers"}
_IMAGES = "model.get_image_features"
_TOKENISER = "model.vqmodel.encoder model.vqmodel.quant_conv model.vqmodel.quantize"
_BOTH = f"{_IMAGES} model.get_video_features"

TINY = {
    "llava": Expected("model.vision_tower", "model.multi_modal_projector"),
    "llava_next": Expected("model.vision_tower", "model.multi_modal_projector"),
    "llava_onevision": Expected("model.vision_tower", "model.multi_modal_projector", methods=_BOTH),
    "qwen2_vl": Expected("model.visual", inner="model.visual.merger", methods=_BOTH),
    "qwen2_5_vl": Expected("model.visual", inner="model.visual.merger", methods=_BOTH),
    "qwen3_vl": Expected("model.visual", inner="model.visual.merger model.visual.deepstack_merger_list", methods=_BOTH),
    "internvl": Expected("model.vision_tower", "model.multi_modal_projector"),
    "gemma3": Expected("model.vision_tower", "model.multi_modal_projector"),
    "paligemma": Expected("model.vision_tower", "model.multi_modal_projector"),
    "idefics3": Expected("model.vision_model", "model.connector", **_TEXT_MODEL),
    "smolvlm": Expected("model.vision_model", "model.connector", **_TEXT_MODEL),
    "mllama": Expected("model.vision_model", "model.multi_modal_projector", methods=""),
    "blip-2": Expected("vision_model", "qformer language_projection", methods="", **_BLIP),
    "instructblip": Expected(
        "vision_model",
        "qformer language_projection",
        methods="get_image_features",
        **{**_BLIP, "language_model": "language_model.model.decoder"},
    ),
    "kosmos-2": Expected(
        "vision_model",
        "image_to_text_projection",
        "",
        "text_model",
        "text_model.model.layers",
        "text_model.lm_head",
        "",
    ),
    "llama4": Expected(
        "vision_model",
        "multi_modal_projector",
        "",
        "language_model",
        "language_model.model.layers",
        "language_model.lm_head",
        "get_image_features",
    ),
    "molmo_layout": Expected(
        "model.vision_backbone",
        inner="model.vision_backbone.image_pooling_2d model.vision_backbone.image_projector",
        language_model="model",
        layers="model.transformer.blocks",
        lm_head="model.transformer.ff_out",
        methods="",
    ),
    "llama": Expected("", methods="", **_CORE),
}

BARE = {
    "aria": Expected("model.vision_tower", "model.multi_modal_projector"),
    "blip": Expected(
        "vision_model",
        "",
        "",
        "text_decoder",
        "text_decoder.bert.encoder.layer",
        "text_decoder.cls.predictions.decoder",
        "",
    ),
    "chameleon": Expected(_TOKENISER, **_CORE),
    "cohere2_vision": Expected("model.vision_tower", "model.multi_modal_projector"),
    "deepseek_vl": Expected("model.vision_model", "model.aligner"),
    "emu3": Expected(_TOKENISER, **_TEXT_MODEL),
    "ernie4_5_vl_moe": Expected("model.vision_tower", "model.resampler_model", methods=_BOTH),
    "florence2": Expected(
        "model.vision_tower", "model.multi_modal_projector", layers="model.language_model.decoder.layers"
    ),
    "fuyu": Expected("model.vision_embed_tokens"),
    "git": Expected("git.image_encoder", "git.visual_projection", "", "git", "git.encoder.layer", "output", ""),
    "glm4v": Expected("model.visual", inner="model.visual.merger model.visual.downsample", methods=_BOTH),
    "got_ocr2": Expected("model.vision_tower", "model.multi_modal_projector"),
    "idefics": Expected("model.vision_model", methods="", **_CORE),
    "idefics2": Expected("model.vision_model", "model.connector", **_TEXT_MODEL),
    "instructblipvideo": Expected(
        "vision_model",
        "qformer language_projection",
        methods="get_video_features",
        **{**_BLIP, "language_model": "language_model.model.decoder"},
    ),
    "janus": Expected("model.vision_model", "model.aligner"),
    "kosmos-2.5": Expected(
        "vision_model",
        "image_to_text_projection",
        "",
        "text_model",
        "text_model.model.layers",
        "text_model.lm_head",
        "",
    ),
    "lfm2_vl": Expected("model.vision_tower", "model.multi_modal_projector"),
    "lighton_ocr": Expected("model.vision_encoder", "model.vision_projection"),
    "mistral3": Expected("model.vision_tower", "model.multi_modal_projector"),
    "ovis2": Expected("model.vision_tower", "model.visual_embeddings_table"),
    "paddleocr_vl": Expected("model.visual", "model.projector"),
    "pix2struct": Expected("encoder", "", "", "decoder", "decoder.layer", "decoder.lm_head", ""),
    "t5gemma2": Expected(
        "model.encoder.vision_tower",
        "model.encoder.multi_modal_projector",
        "",
        "model.decoder",
        "model.decoder.layers",
        "lm_head.out_proj",
        "model.encoder.get_image_features",
    ),
    "video_llama_3": Expected("model.vision_model", "model.projector", methods=_BOTH),
    "video_llava": Expected("model.image_tower model.video_tower", "model.multi_modal_projector", methods=_BOTH),
    "vipllava": Expected("model.vision_tower", "model.multi_modal_projector"),
}
if hasattr(transformers, "Molmo2Config"):  # since transformers 5.20
    BARE["molmo2"] = Expected("model.vision_tower", "model.multi_modal_projector", methods=_BOTH)


def lists(parts: tuple[Part, ...]) -> str:
    return " ".join(dict.fromkeys(re.sub(r"\.\d+$", "", part.path) for part in parts))


def found_in(anatomy: Anatomy) -> Expected:
    assert anatomy.language_model is not None
    assert anatomy.lm_head is not None
    return Expected(
        lists(anatomy.encoders),
        lists(anatomy.projectors),
        lists(anatomy.inner_projectors),
        anatomy.language_model.path,
        lists(anatomy.layers),
        anatomy.lm_head.path,
        " ".join(f"{found.path}.{found.method}".lstrip(".") for found in anatomy.feature_methods),
    )

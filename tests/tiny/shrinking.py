"""Shrinking: a model type's default config, made so small that random weights are built in an instant.

Every number that is known to be a width, a depth or a count becomes a small one, at any depth of the config, and every
token id moves into a small vocabulary, equal ids to equal ids. What a type needs beside that stands in
:mod:`tests.tiny.changes`.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import transformers
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto import modeling_auto

from tests.tiny.changes import CHANGES, EACH_KIND

__all__ = ["class_of", "known_types", "shrunk_config", "tiny_config"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SIZES: Final[dict[str, int]] = {
    name: size
    for size, group in {
        64: "hidden_size embed_dim d_model dim n_embd out_hidden_size projection_dim text_hidden_size hidden_dim "
        "vision_output_dim output_dim encoder_hidden_size vision_output_size projector_input_dim projector_output_dim "
        "word_embed_proj_dim projector_hidden_size vision_embed_dim vt_hidden_size mm_hidden_size "
        "projection_hidden_size",
        96: "intermediate_size ffn_hidden_size encoder_ffn_dim decoder_ffn_dim ffn_dim d_ff mlp_dim block_ff_dim "
        "vision_intermediate_size intermediate_size_mlp n_inner",
        32: "moe_intermediate_size shared_expert_intermediate_size base_channels z_channels latent_dim image_size "
        "max_source_positions moe_shared_expert_intermediate_size",
        16: "head_dim attention_head_dim d_kv v_head_dim q_lora_rank kv_lora_rank num_embeds linear_key_head_dim "
        "linear_value_head_dim mamba_head_dim mamba_d_head mamba_d_state ssm_state_size resampler_head_dim "
        "hidden_size_per_layer_input num_mel_bins",
        8: "qk_nope_head_dim qk_rope_head_dim laurel_rank",
        4: "num_attention_heads num_heads n_head encoder_attention_heads decoder_attention_heads attention_heads "
        "num_experts n_routed_experts num_local_experts moe_num_experts num_query_tokens resampler_n_latents "
        "resampler_n_heads mamba_num_heads mamba_n_heads",
        3: "num_channels",
        2: "num_hidden_layers depth num_layers n_layer n_layers encoder_layers decoder_layers num_encoder_layers "
        "num_decoder_layers layers num_key_value_heads num_experts_per_tok moe_topk moe_k top_k_experts "
        "max_window_layers max_num_tiles linear_num_value_heads linear_num_key_heads conf_num_hidden_layers",
        1: "num_global_layers n_group topk_group n_groups first_k_dense_replace",
        0: "num_kv_shared_layers",
        512: "vocab_size vocab_size_per_layer_input max_position_embeddings",
    }.items()
    for name in group.split()
}
_SPREAD: Final = 0.02
"""Of random weights; some default configs have one so small that nothing of an image would arrive."""
_PER_LAYER: Final = _words(
    "layer_types mlp_layer_types no_rope_layers moe_layers attention_layers indexer_types hybrid_override_pattern "
    "layers_block_type activation_sparsity_pattern fullatt_block_indexes deepstack_visual_indexes full_attn_idxs "
    "per_layer_config full_attention_layers num_experts_list"
)
"""Lists with an entry for each layer of the real model: a config of fewer layers makes its own."""
_NOT_SIZES: Final = _words(
    "id2label label2id transformers_version _name_or_path architectures dtype torch_dtype _attn_implementation"
)
_TOKEN_ENDINGS: Final = (
    "token_id", "token_index", "start_id", "end_id", "_tok_id", "token_type_id", "placeholder_id",
)  # fmt: skip
_FIRST_TOKEN: Final = 20
"""Where moved token ids begin; the first few stay what they are by custom: padding, begin, end."""


def known_types() -> dict[str, str]:
    """Class name by model type: image-text-to-text, and what else takes several kinds of input, images among them."""
    wide = getattr(modeling_auto, "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", {})
    named = {**wide, **modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}
    return {kind: name if isinstance(name, str) else name[0] for kind, name in sorted(named.items())}


def class_of(model_type: str) -> Any:
    return getattr(transformers, known_types()[model_type])


def tiny_config(model_type: str) -> PretrainedConfig:
    kind = class_of(model_type).config_class
    default = _default(model_type, kind)
    shrunk = _with_small_tokens(_shrunk(default))
    changed = _changed(shrunk, copy.deepcopy(CHANGES.get(model_type, {})))
    return kind(**_with_each_kind(changed, default))


def shrunk_config(default: PretrainedConfig) -> PretrainedConfig:
    """The same config in small, with nothing changed beside sizes and token ids."""
    return type(default)(**_with_small_tokens(_shrunk(default.to_dict())))


def _default(model_type: str, kind: Any) -> dict[str, Any]:
    """The default config of a type, or of its class where the type has another's; empty where there is none."""
    for make in (lambda: AutoConfig.for_model(model_type), kind):
        try:
            made = make()
        except Exception:  # whatever a config's own checks raise
            continue
        if isinstance(made, kind):
            return made.to_dict()
    return {}


def _shrunk(config: dict[str, Any]) -> dict[str, Any]:
    small: dict[str, Any] = {}
    for name, value in config.items():
        if not isinstance(name, str) or name in _NOT_SIZES or name in _PER_LAYER:
            continue
        if isinstance(value, dict) and ("model_type" in value or name.endswith("_config")):
            small[name] = _shrunk(value)
        elif name == "initializer_range":
            small[name] = _SPREAD
        elif name in _SIZES and isinstance(value, int | float) and not isinstance(value, bool):
            small[name] = _SIZES[name]
        else:
            small[name] = value
    return small


def _with_small_tokens(config: dict[str, Any]) -> dict[str, Any]:
    moved: dict[int, int] = {}

    def small(token: Any) -> Any:
        if not isinstance(token, int) or isinstance(token, bool) or token < 3:
            return token
        return moved.setdefault(token, _FIRST_TOKEN + len(moved))

    def walk(at: dict[Any, Any]) -> None:
        for name, value in at.items():
            if isinstance(value, dict):
                walk(value)
            elif isinstance(name, str) and (name.endswith(_TOKEN_ENDINGS) or name in ("image_token", "video_token")):
                at[name] = [small(token) for token in value] if isinstance(value, list | tuple) else small(value)

    walk(config)
    return config


def _changed(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for name, value in changes.items():
        known = config.get(name)
        config[name] = _changed(known, value) if isinstance(value, dict) and isinstance(known, dict) else value
    return config


def _with_each_kind(config: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """One layer of each kind of the default config where that is asked for: the kinds' names differ by version."""
    for name, value in config.items():
        known = default.get(name)
        if isinstance(value, dict) and isinstance(known, dict):
            _with_each_kind(value, known)
        elif value == EACH_KIND:
            config[name] = list(dict.fromkeys(known))[:2]
    return config

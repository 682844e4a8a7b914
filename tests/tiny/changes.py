"""Changes: what each model type's small config needs beside smaller numbers, so that its parts fit together."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["CHANGES", "EACH_KIND", "IMAGE"]

EACH_KIND: Final = "one layer of each kind"

_WIDTH: Final = 64
IMAGE: Final = 30
"""The placeholder of an image where a type's default config names none."""

_TOWER: Final[dict[str, Any]] = {
    "hidden_size": _WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
_CLIP: Final = {**_TOWER, "model_type": "clip_vision_model", "projection_dim": _WIDTH}
_SIGLIP: Final = {**_TOWER, "model_type": "siglip_vision_model"}
_SQUARES: Final = {"vision_config": {"image_size": [32, 32], "patch_size": [8, 8]}}
_LLAMA: Final[dict[str, Any]] = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": _WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
_QWEN2: Final = {**_LLAMA, "model_type": "qwen2"}
_ROPE: Final = {"rope_type": "default", "rope_theta": 10000.0}
_MROPE: Final = {**_ROPE, "mrope_section": [2, 3, 3]}
_WHOLE_MROPE: Final = {"rope_parameters": {**_MROPE, "partial_rotary_factor": 1.0}}
_LINEAR_FIRST: Final = {**_WHOLE_MROPE, "layer_types": ["linear_attention", "full_attention"]}
_TILES: Final = {"image_grid_pinpoints": [[32, 32], [32, 64], [64, 32]]}
_DEEP: Final = {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
_ASKING: Final[dict[str, Any]] = {"num_query_tokens": 4, "qformer_config": {"encoder_hidden_size": _WIDTH}}
_CODES: Final[dict[str, Any]] = {
    "embed_dim": 16,
    "latent_channels": 16,
    "base_channels": 32,
    "num_res_blocks": 1,
    "attn_resolutions": [],
}
_TWO_SCALES: Final = {**_CODES, "num_embeddings": 64, "channel_multiplier": [1, 1], "in_channels": 3}


def _chameleon_words() -> dict[str, int]:
    digits = {f"IMGIMG{''.join(chr(65 + int(digit)) for digit in str(code))}Z": 100 + code for code in range(64)}
    return {**digits, "<image>": 90}


def _emu3_words() -> dict[str, int]:
    return {**{f"<|visual token {code:06d}|>": 100 + code for code in range(64)}, "<|extra_200|>": 91, "<image>": 90}


_OMNI: Final = {
    "vision_start_token_id": 60,
    "vision_end_token_id": 61,
    "text_config": {"rope_parameters": _MROPE},
    "vision_config": {"fullatt_block_indexes": [1]},
}
_DEEP_OMNI: Final = {**_OMNI, "vision_config": _DEEP}
_SAM: Final[dict[str, Any]] = {"image_size": 64, "patch_size": 8, "output_channels": 16, "global_attn_indexes": [1]}
_DENSE: Final = ["dense", "dense"]

CHANGES: Final[dict[str, dict[str, Any]]] = {
    "aria": {"projector_patch_to_query_dict": {1: 1, 4: 4, 16: 4}},
    "aya_vision": {"vision_config": _SIGLIP},
    "blip-2": {"image_token_index": IMAGE, **_ASKING},
    "chameleon": {
        "vq_config": {**_TWO_SCALES, "resolution": 32, "z_channels": 16, "attn_type": "vanilla"},
        "vocabulary_map": _chameleon_words(),
    },
    "cohere2_vision": {"vision_config": _SIGLIP, "alignment_intermediate_size": 96},
    "cohere_compass": {
        "text_config": {"layer_types": ["full_attention"] * 2, "rope_parameters": {"full_attention": _MROPE}}
    },
    "cosmos3_edge": {"text_config": {"rope_parameters": _MROPE}, "vision_config": {"num_patches": 64}},
    "cosmos3_omni": {"text_config": {"rope_parameters": _MROPE}, "vision_config": _DEEP},
    "deepseek_ocr2": {
        "text_config": {"mlp_layer_types": _DENSE},
        "vision_config": {"sam_config": {**_SAM, "downsample_channels": [32, _WIDTH]}},
    },
    "deepseek_vl": {"vision_config": _SIGLIP, "text_config": _LLAMA},
    "deepseek_vl_hybrid": {
        "vision_config": _SIGLIP,
        "text_config": _LLAMA,
        "high_res_vision_config": {**_SAM, "num_pos_feats": 8},
    },
    "diffusion_gemma": {
        "canvas_length": 4,
        "vision_config": {
            "patch_size": 8,
            "num_key_value_heads": 4,
            "position_embedding_size": 64,
            "pooling_kernel_size": 2,
        },
        "text_config": {"per_layer_config": {}, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32},
    },
    "dots3_note": {
        "text_config": {"num_key_value_heads": 4, "per_layer_config": {}, "mlp_layer_types": _DENSE},
        "vision_config": {
            "per_layer_config": {},
            "mlp_layer_types": _DENSE,
            "adapter_in_dim": _WIDTH,
            "adapter_out_dim": _WIDTH,
        },
        "audio_config": {"adapter_out_dim": _WIDTH, "adapter_input_size": _WIDTH},
    },
    "emu3": {
        "vq_config": {
            **_CODES,
            "codebook_size": 64,
            "channel_multiplier": [1, 2, 2, 2],
            "hidden_size": 64,
            "num_attention_heads": 1,
        },
        "vocabulary_map": _emu3_words(),
    },
    "ernie4_5_vl_moe": {
        "text_config": {
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "moe_intermediate_size": [32, 16],
            "rope_parameters": {**_ROPE, "mrope_section": [6, 6, 4]},
        }
    },
    "florence2": {
        "vision_config": {
            "embed_dim": [16, 32, _WIDTH, _WIDTH],
            "num_heads": [2, 2, 4, 4],
            "num_groups": [2, 2, 4, 4],
            "depths": [1, 1, 1, 1],
            "projection_dim": _WIDTH,
        }
    },
    "fast_vlm": {"vision_config": {**_SIGLIP, "patch_size": 4}},
    "gemma3": {"vision_config": _SIGLIP, "mm_tokens_per_image": 4},
    "gemma3n": {
        "text_config": {
            "intermediate_size": [96, 96],
            "layer_types": ["sliding_attention", "full_attention"],
            "activation_sparsity_pattern": [0.0, 0.0],
        },
        "vision_soft_tokens_per_image": 16,
    },
    "gemma4": {
        "vision_config": {
            **_TOWER,
            "model_type": "gemma4_vision",
            "num_key_value_heads": 4,
            "head_dim": 16,
            "position_embedding_size": 64,
            "pooling_kernel_size": 2,
        },
        "text_config": {"global_head_dim": 16, "num_kv_shared_layers": 0},
    },
    "gemma4_unified": {
        "text_config": {"global_head_dim": 16},
        "vision_config": {"model_type": "gemma4_unified_vision"},
    },
    "glm5_next": {
        "text_config": {
            "num_key_value_heads": 4,
            "qk_rope_head_dim": 0,
            "head_dim": 0,
            "layer_types": EACH_KIND,
            "mlp_layer_types": _DENSE,
        },
    },
    "granite4_vision": {
        "text_config": {
            "attention_multiplier": 0.25,
            "embedding_multiplier": 1.0,
            "residual_multiplier": 1.0,
            "logits_scaling": 1.0,
        },
        "vision_config": _CLIP,
        "deepstack_layer_map": [[-1, 0]],
        "spatial_target_layers": [1],
        "downsample_rate": "1/2",
        "qformer_config": {"encoder_hidden_size": _WIDTH},
        **_TILES,
    },
    "granite_docling": {"vision_config": {"patch_size": 8, "scale_factor": 2, "deepstack_visual_indexes": [0, 1]}},
    "hunyuan_vl": {
        "text_config": {
            "head_dim": 16,
            "rope_parameters": {**_ROPE, "xdrope_section": [2, 2, 2, 2], "mrope_section": [2, 2, 2, 2]},
        }
    },
    **{kind: {"text_config": _WHOLE_MROPE} for kind in ("glm46v", "glm4v", "glm4v_moe", "glm_ocr", "glmga")},
    "idefics": {
        "vision_config": {"image_size": 32, "patch_size": 8},
        "use_resampler": False,
        "cross_layer_interval": 2,
    },
    "idefics2": {"perceiver_config": {"resampler_n_latents": 4, "resampler_depth": 1, "hidden_size": _WIDTH}},
    "idefics3": {"vision_config": {"patch_size": 8}, "scale_factor": 2, "text_config": _LLAMA},
    "instructblip": {"image_token_index": IMAGE, **_ASKING},
    "instructblipvideo": {"video_token_index": IMAGE, **_ASKING},
    "inkling2": {"text_config": {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 16}},
    "internvl": _SQUARES,
    "janus": {
        "vision_config": {"image_size": 32, "patch_size": 8, "projection_dim": _WIDTH},
        "vq_config": {**_TWO_SCALES, "projection_dim": _WIDTH},
    },
    "kimi_k25": {"text_config": {"num_key_value_heads": 4, "head_dim": 8}},
    "lfm3_vl": {"text_config": {"layer_types": ["conv", "full_attention"]}},
    "lighton_ocr": {"vision_config": {"patch_size": 8}, "spatial_merge_size": 2},
    "llama4": {"vision_config": {**_TOWER, "intermediate_size": 256}},
    "llava": {"vision_config": _CLIP, "text_config": _LLAMA},
    "llava_next": {"vision_config": _CLIP, "text_config": _LLAMA, **_TILES},
    "llava_next_video": {"vision_config": _CLIP, "text_config": _LLAMA, **_TILES},
    "llava_onevision": {"vision_config": _SIGLIP, "text_config": _QWEN2, **_TILES},
    **{
        kind: {"image_token_id": IMAGE, "text_config": _LINEAR_FIRST}
        for kind in ("minicpm_ocr", "minicpmv4_6", "minicpmv4_7")
    },
    "minimax_m3_vl": {"merged_hidden_size": 4 * _WIDTH},
    "mistral3": {"vision_config": {"patch_size": 8}, "text_config": {"head_dim": 16}, "spatial_merge_size": 2},
    "mistral_large4": {
        "text_config": {
            "num_key_value_heads": 4,
            "kv_source_layers": [0, 1],
            "layer_types": ["indexed_attention"] * 2,
            "mlp_layer_types": _DENSE,
            "no_rope_layers": [1, 0],
        },
        "vision_config": {"patch_size": 8},
    },
    "mllama": {
        "vision_config": {
            "image_size": 32,
            "patch_size": 8,
            "supported_aspect_ratios": [[1, 1], [1, 2]],
            "vision_output_dim": 2 * _WIDTH,
            "intermediate_layers_indices": [0],
        },
        "text_config": {"cross_attention_layers": [1], "num_hidden_layers": 2},
    },
    "molmo2": {
        "image_patch_id": IMAGE,
        "image_token_id": IMAGE,
        "vision_config": {
            "image_size": [32, 32],
            "patch_size": 8,
            "num_position_embeddings": 16,
            "num_key_value_heads": 4,
        },
        "adapter_config": {
            "vision_feature_layer": [-1, -2],
            "hidden_size": _WIDTH,
            "num_key_value_heads": 4,
            "intermediate_size": 96,
        },
    },
    "muse_glimmer": {"text_config": {"layer_rope_theta": [10000.0, 0]}, "out_hidden_size": 4 * _WIDTH},
    "muse_spark": {
        "out_hidden_size": 4 * _WIDTH,
        "text_config": {"layer_rope_theta": [10000.0, 0]},
        "audio_config": {"num_hidden_layers": 4},
    },
    "nemotron_h_omni": {
        "image_token_id": IMAGE,
        "vision_hidden_size": _WIDTH,
        "projector_hidden_size": _WIDTH,
        "text_config": {
            "layers_block_type": ["linear_attention", "full_attention"],
            "mamba_num_heads": 8,
            "n_groups": 1,
            "chunk_size": 16,
        },
        "vision_config": {"max_img_size": 128, "patch_size": 8, "patch_dim": 192, "video_patch_dim": 384},
    },
    "paddleocr_vl": {"text_config": {"rope_parameters": _MROPE}},
    "paligemma": {
        "vision_config": {**_SIGLIP, "projection_dim": _WIDTH, "vision_use_head": False},
        "projection_dim": _WIDTH,
        "hidden_size": _WIDTH,
    },
    "perception_lm": {"vision_config": {"model_args": {"embed_dim": _WIDTH}}},
    "phi4_multimodal": {"vision_config": {"patch_size": 8, "crop_size": 32}},
    "pp_formulanet": {
        "vision_config": {
            "decoder_hidden_size": _WIDTH,
            "output_channels": 16,
            "post_conv_in_channels": 16,
            "post_conv_mid_channels": 16,
            "post_conv_out_channels": 16,
            "global_attn_indexes": [1],
        },
    },
    "qianfan_ocr": _SQUARES,
    "qwen2_5_omni": {"thinker_config": _OMNI},
    "qwen2_5_omni_thinker": _OMNI,
    "qwen2_5_vl": {
        "vision_config": {"fullatt_block_indexes": [1], "window_size": 28},
        "text_config": {"rope_parameters": _MROPE},
    },
    "qwen2_vl": {
        "vision_config": {"hidden_size": _WIDTH, "embed_dim": _WIDTH},
        "text_config": {"rope_parameters": _MROPE},
    },
    **{
        kind: {"vision_config": {"num_position_embeddings": 64}, "text_config": _LINEAR_FIRST}
        for kind in ("qwen3_5", "qwen3_5_moe")
    },
    **{
        kind: {"vision_config": _DEEP, "text_config": {"rope_parameters": _MROPE}}
        for kind in ("qwen3_vl", "qwen3_vl_moe")
    },
    "qwen3_omni_moe": {"thinker_config": _DEEP_OMNI, "enable_audio_output": False},
    "qwen3_omni_moe_thinker": _DEEP_OMNI,
    "qwen4_exp": {
        "text_config": {
            "layer_types": EACH_KIND,
            "rope_parameters": _MROPE,
            "indexer_n_heads": 4,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 16,
            "indexer_budget": 64,
            "indexer_compress_ratio": 16,
        },
        "vision_config": {"num_position_embeddings": 64},
    },
    "shieldgemma2": {"vision_config": _SIGLIP, "mm_tokens_per_image": 4},
    "smolvlm": {"vision_config": {"patch_size": 8}, "scale_factor": 2, "text_config": _LLAMA},
    "step3p7": {"text_config": {"sliding_window": 16}},
    "t5gemma2": {"encoder": {"vision_config": _SIGLIP, "mm_tokens_per_image": 4}, "decoder_start_token_id": 2},
    "udop": {"decoder_start_token_id": 0, "image_size": 32, "patch_size": 8},
    "unlimited_ocr": {
        "text_config": {"mlp_layer_types": _DENSE},
        "vision_config": {
            "sam_config": {**_SAM, "downsample_channels": [32, _WIDTH]},
            "encoder_config": {"image_size": 64, "patch_size": 32},
        },
    },
    "video_llava": {"vision_config": _CLIP, "text_config": _LLAMA},
    "vipllava": {
        "vision_config": _CLIP,
        "text_config": _LLAMA,
        "vision_feature_layers": [-2, -1, -2, -1, -2],
        "projector_layernorm_eps": 1e-5,
    },
    "vision-encoder-decoder": {
        "encoder": {**_TOWER, "model_type": "vit"},
        "decoder": {
            **_LLAMA,
            "model_type": "bert",
            "is_decoder": True,
            "add_cross_attention": True,
        },
        "decoder_start_token_id": 1,
    },
}

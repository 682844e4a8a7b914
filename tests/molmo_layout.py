"""A tiny model laid out like Molmo's published code: a core called through ``forward()``, blocks in a ModuleDict."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

__all__ = ["MolmoLayout", "MolmoLayoutConfig"]


class MolmoLayoutConfig(PretrainedConfig):
    model_type = "molmo_layout"

    def __init__(self, vocab_size: int = 128, hidden_size: int = 32, num_hidden_layers: int = 2, **more: Any) -> None:
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.num_attention_heads = 2
        super().__init__(**more)


class _Block(nn.Module):
    """Pre-norm attention and MLP; causal over cached keys where a cache is given, over all positions where not."""

    def __init__(self, size: int, heads: int, index: int) -> None:
        super().__init__()
        self.heads, self.index = heads, index
        self.attn_norm, self.ff_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.att_proj, self.attn_out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.ff_proj, self.ff_out = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.att_proj(self.attn_norm(x)).chunk(3, dim=-1)
        )
        if cache is not None:
            k, v = cache.update(k, v, self.index)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.attn_out(attended.transpose(1, 2).flatten(2))
        return x + self.ff_out(F.gelu(self.ff_proj(self.ff_norm(x))))


class _VisionTransformer(nn.Module):
    def __init__(self, size: int, patch: int) -> None:
        super().__init__()
        self.patch_embedding = nn.Linear(patch, size)
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(_Block(size, 2, i) for i in range(2))})

    def forward(self, patches: Tensor) -> Tensor:
        x = self.patch_embedding(patches)
        for block in self.transformer["resblocks"]:
            x = block(x)
        return x


class _VisionBackbone(nn.Module):
    """Images (batch, patches, pixels) to features (batch, patches / 2, size)."""

    def __init__(self, size: int, patch: int) -> None:
        super().__init__()
        self.image_vit = _VisionTransformer(size, patch)
        self.image_pooling_2d = nn.Linear(2 * size, size)
        self.image_projector = nn.Linear(size, size)

    def forward(self, images: Tensor) -> Tensor:
        x = self.image_vit(images)
        return self.image_projector(self.image_pooling_2d(x.unflatten(1, (-1, 2)).flatten(2)))


class _Core(nn.Module):
    def __init__(self, config: MolmoLayoutConfig, patch: int) -> None:
        super().__init__()
        size = config.hidden_size
        blocks = (_Block(size, config.num_attention_heads, i) for i in range(config.num_hidden_layers))
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, size),
                "blocks": nn.ModuleList(blocks),
                "ln_f": nn.LayerNorm(size),
                "ff_out": nn.Linear(size, config.vocab_size, bias=False),
            }
        )
        self.vision_backbone = _VisionBackbone(size, patch)

    def forward(
        self, input_ids: Tensor, images: Tensor | None, image_input_idx: Tensor | None, cache: Cache | None
    ) -> Tensor:
        x = self.transformer.wte(input_ids)
        if images is not None and image_input_idx is not None:
            rows = torch.arange(len(x), device=x.device)[:, None]
            x = x.index_put((rows, image_input_idx), self.vision_backbone(images), accumulate=True)
        past = cache.get_seq_length() if cache is not None else 0
        mask = torch.ones(x.shape[1], past + x.shape[1], dtype=torch.bool, device=x.device).tril(past)
        for block in self.transformer.blocks:
            x = block(x, mask, cache)
        return self.transformer.ff_out(self.transformer.ln_f(x))


class MolmoLayout(PreTrainedModel, GenerationMixin):
    """``model.vision_backbone``, ``model.transformer.blocks`` and a head in the core; registered nowhere."""

    config_class = MolmoLayoutConfig
    base_model_prefix = "model"
    patch = 12

    def __init__(self, config: MolmoLayoutConfig) -> None:
        super().__init__(config)
        self.model = _Core(config, self.patch)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        images: Tensor | None = None,
        image_input_idx: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **more: Any,
    ) -> CausalLMOutputWithPast:
        cache = past_key_values if use_cache is not False else None
        logits = self.model.forward(input_ids, images, image_input_idx, cache)
        return CausalLMOutputWithPast(logits=logits, past_key_values=cache)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        prepared: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, **kwargs)
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            prepared.pop("images", None)
            prepared.pop("image_input_idx", None)
        return prepared

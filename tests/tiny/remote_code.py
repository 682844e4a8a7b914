"""A model whose code comes with it: Molmo's layout in a folder, loaded as a user who trusts that code would."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any, Final
from unittest import mock

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, dynamic_module_utils

from tests.molmo_layout import MolmoLayout, MolmoLayoutConfig

__all__ = ["MOLMO_LAYOUT", "molmo_layout"]

MOLMO_LAYOUT: Final = MolmoLayoutConfig.model_type
_ROOT: Final = tempfile.TemporaryDirectory(prefix="vlmtrace-remote-code-")


def molmo_layout() -> tuple[Any, dict[str, Tensor]]:
    """The model in evaluation mode, and inputs with an image of eight patches that becomes four tokens."""
    places = 4
    ids = torch.tensor([[5, 6, *[9] * places, 7, 8]])
    images = {
        "images": torch.randn(1, 2 * places, MolmoLayout.patch),
        "image_input_idx": torch.arange(2, 2 + places)[None],
    }
    # What is trusted is copied to where transformers keeps such code: here not to the user's own place.
    with mock.patch.object(dynamic_module_utils, "HF_MODULES_CACHE", str(Path(_ROOT.name, "modules"))):
        model = AutoModelForCausalLM.from_pretrained(_saved(), trust_remote_code=True, dtype=torch.float32)
    assert not isinstance(model, MolmoLayout), "its class is that of the folder's code"
    return model.eval(), {"input_ids": ids, "attention_mask": torch.ones_like(ids), **images}


@functools.cache
def _saved() -> Path:
    """A folder of weights, config and code, as ``save_pretrained()`` makes it of a registered class."""
    folder = Path(_ROOT.name, MOLMO_LAYOUT)
    MolmoLayoutConfig.register_for_auto_class()
    MolmoLayout.register_for_auto_class(AutoModelForCausalLM.__name__)
    MolmoLayout(MolmoLayoutConfig(pad_token_id=0)).save_pretrained(folder)
    return folder

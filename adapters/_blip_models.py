"""BLIP's models: the towers that each has, what it is called with, and tiny ones."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from intervene.adapter import Adapter, token_ids

from ._images import images
from ._tiny import build

# Where each model class holds each tower's root; "" where the model is the root.
ROOTS: Mapping[str, Mapping[str, str]] = {
    "BlipForConditionalGeneration": {"vision": "vision_model", "text_decoder": "text_decoder"},
    "BlipForQuestionAnswering": {
        "vision": "vision_model",
        "text_encoder": "text_encoder",
        "text_decoder": "text_decoder",
    },
    "BlipForImageTextRetrieval": {"vision": "vision_model", "text_encoder": "text_encoder"},
    "BlipVisionModel": {"vision": ""},
    "BlipTextModel": {"text_encoder": ""},
    "BlipTextLMHeadModel": {"text_decoder": ""},
}

# The configs of tiny models: of the vision tower, of both text towers, and of a model with towers of both kinds.
VISION = {
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 24,
    "intermediate_size": 28,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "initializer_range": 0.2,
}
TEXT = {
    "vocab_size": 61,
    "max_position_embeddings": 64,
    "hidden_size": 24,
    "encoder_hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sep_token_id": 2,
    "initializer_range": 0.2,
}
BOTH = {"vision_config": VISION, "text_config": TEXT, "image_text_hidden_size": 12, "initializer_range": 0.2}


class BlipModels(Adapter):
    """What an adapter of BLIP says of its models, apart from the table."""

    @classmethod
    def roots_of(cls, model: nn.Module) -> Mapping[str, str]:
        """Where ``model`` holds the root of each of its towers, by the tower's name."""
        return ROOTS.get(cls.class_name(model) or "", {})

    @classmethod
    def config_of(cls, model: nn.Module) -> Any:
        """A tower's own model has the tower's config alone."""
        towers = cls.roots_of(model)
        if "" not in towers.values():
            return model.config
        return SimpleNamespace(**{"vision_config" if "vision" in towers else "text_config": model.config})

    @classmethod
    def example_inputs(
        cls, model: nn.Module, rows: int = 2, columns: int = 6, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        towers, config = cls.roots_of(model), cls.config_of(model)
        inputs = {}
        if "vision" in towers:
            inputs["pixel_values"] = images(rows, 3, config.vision_config.image_size, generator)
        if towers.keys() - {"vision"}:
            ids = token_ids(config.text_config.vocab_size, rows, columns, generator)
            # What generate puts there itself.
            ids[:, 0] = config.text_config.bos_token_id
            inputs["input_ids"] = ids
            if "vision" not in towers:
                shape = (rows, columns, config.text_config.encoder_hidden_size)
                inputs["encoder_hidden_states"] = torch.randn(shape, generator=generator)
            if len(towers) == 3:
                inputs["decoder_input_ids"] = ids.flip(1)
        return inputs

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        name = model or cls.models[0]
        own = {"BlipVisionModel": VISION, "BlipTextModel": TEXT, "BlipTextLMHeadModel": TEXT}
        return build(name, cls.models, seed, own.get(name, BOTH), config)

"""ViT (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929) and DeiT (Touvron et al. 2021,
https://arxiv.org/abs/2012.12877), as in transformers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from intervene.adapter import Adapter, Table
from intervene.lenses import Narrow
from intervene.ports import Input, Output
from intervene.tables import attention

from ._images import images
from ._tiny import build


class ViT(Adapter):
    family = "vit"
    models: ClassVar[tuple[str, ...]] = (
        "ViTModel",
        "ViTForImageClassification",
        "ViTForMaskedImageModeling",
        "DeiTModel",
        "DeiTForImageClassification",
        "DeiTForImageClassificationWithTeacher",
        "DeiTForMaskedImageModeling",
    )
    base = "vit"
    blocks = "vit.layers"
    heads: ClassVar = {"ViTForImageClassification": "classifier", "DeiTForImageClassification": "classifier"}

    def components(self, config: Any) -> Table:
        query, key, value = (Output(f"attention.{name}_proj") for name in "qkv")
        return {
            "block_input": Input(),
            "attention_input": Input("attention"),
            **attention("attention", query, key, value, Input("attention.o_proj"), config.num_attention_heads),
            "attention_output": Output("attention"),
            "mlp_input": Input("mlp"),
            "mlp_activation": Input("mlp.fc2"),
            "mlp_output": Output("mlp"),
            "block_output": Output(),
        }

    def outside(self, config: Any) -> Table:
        embeddings = Output("vit.embeddings")
        return {
            "patch_embedding_output": Output("vit.embeddings.patch_embeddings"),
            "embedding_output": embeddings,
            "class_token": embeddings >> Narrow(axis=1, start=0, length=1),
            "final_norm_output": Output("vit.layernorm"),
        }

    @classmethod
    def example_inputs(
        cls, model: nn.Module, rows: int = 2, columns: int = 6, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        config = cls.config_of(model)
        return {"pixel_values": images(rows, config.num_channels, config.image_size, generator)}

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        defaults = {
            "image_size": 8,
            "patch_size": 4,
            "encoder_stride": 4,
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "num_labels": 5,
            "initializer_range": 0.2,
        }
        return build(model or "ViTForImageClassification", cls.models, seed, defaults, config)

"""DINOv2 (Oquab et al. 2024, https://arxiv.org/abs/2304.07193), without and with register tokens (Darcet et al. 2024,
https://arxiv.org/abs/2309.16588), as in transformers."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from intervene.adapter import Table
from intervene.lenses import Narrow
from intervene.ports import Input, Output

from ._tiny import build
from .vit import ViT


class Dinov2(ViT):
    """ViT's table, but for where the blocks stand, and for a scale that each sub-layer's share goes through."""

    family = "dinov2"
    models = (
        "Dinov2Model",
        "Dinov2ForImageClassification",
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersForImageClassification",
    )
    blocks = "vit.encoder.layer"
    heads: ClassVar = {
        "Dinov2ForImageClassification": "classifier",
        "Dinov2WithRegistersForImageClassification": "classifier",
    }
    variants: ClassVar = {"gated": {"use_swiglu_ffn": True}}

    def components(self, config: Any) -> Table:
        return {
            **super().components(config),
            "attention_output": Output("layer_scale1"),
            "mlp_activation": Input("mlp.down_proj" if config.use_swiglu_ffn else "mlp.fc2"),
            "mlp_output": Output("layer_scale2"),
        }

    def outside(self, config: Any) -> Table:
        registers = getattr(config, "num_register_tokens", 0)
        if not registers:
            return super().outside(config)
        tokens = Output("vit.embeddings") >> Narrow(axis=1, start=1, length=registers)
        return {**super().outside(config), "register_tokens": tokens}

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        name = model or "Dinov2ForImageClassification"
        defaults = {
            "image_size": 8,
            "patch_size": 4,
            "hidden_size": 24,
            "mlp_ratio": 2,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "num_labels": 5,
            "initializer_range": 0.2,
            **({"num_register_tokens": 2} if "WithRegisters" in name else {}),
        }
        return build(name, cls.models, seed, defaults, config)

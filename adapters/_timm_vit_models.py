"""timm's VisionTransformer: which of those so named are meant, what one was made with, and tiny ones."""

from __future__ import annotations

from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from intervene.adapter import Adapter

from ._images import images
from ._tiny import library, seeded, select

# timm keeps no config. By the name of what a model was made with: the attribute that holds it,
ATTRIBUTES = {
    "img_size": "patch_embed.img_size",
    "in_chans": "patch_embed.proj.in_channels",
    "patches": "patch_embed.num_patches",
    "num_prefix_tokens": "num_prefix_tokens",
    "reg_tokens": "num_reg_tokens",
    "class_token": "has_class_token",
    "embed_dim": "embed_dim",
    "num_heads": "blocks.0.attn.num_heads",
    "head_dim": "blocks.0.attn.head_dim",
    "hidden_dim": "blocks.0.mlp.fc2.in_features",
    "num_classes": "num_classes",
    "global_pool": "global_pool",
    "no_embed_class": "no_embed_class",
    "dynamic_img_size": "dynamic_img_size",
}
# and the module that is there, and no identity, where it was asked for.
MODULES = {
    "pre_norm": "norm_pre",
    "fc_norm": "fc_norm",
    "qk_norm": "blocks.0.attn.q_norm",
    "attn_norm": "blocks.0.attn.norm",
    "gated": "blocks.0.attn.gate",
}


class TimmViTModels(Adapter):
    """What an adapter of timm's ViT says of its models, apart from the table."""

    @classmethod
    def recognises(cls, model: nn.Module) -> bool:
        # torchvision has a class of that name, too, and timm's own may be made of blocks of other kinds.
        origin = next((c.__module__ for c in type(model).__mro__ if c.__name__ in cls.models), "")
        blocks: Any = getattr(model, "blocks", ())
        kinds = {(type(block).__name__, type(getattr(block, "attn", None)).__name__) for block in blocks}
        return origin.startswith("timm.") and kinds == {("Block", "Attention")}

    @classmethod
    def config_of(cls, model: Any) -> Any:
        """What others keep in a config."""
        held = {name: attrgetter(path)(model) for name, path in ATTRIBUTES.items()}
        there = {name: _is_there(model, path) for name, path in MODULES.items()}
        return SimpleNamespace(**held, **there, depth=len(model.blocks), pos_embed=model.pos_embed is not None)

    @classmethod
    def example_inputs(
        cls, model: nn.Module, rows: int = 2, columns: int = 6, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        config = cls.config_of(model)
        return {"x": images(rows, config.in_chans, config.img_size, generator)}

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        name = select(model or cls.models[0], cls.models)
        timm = library("timm", "timm")
        made_of = timm.models.deit if name == "VisionTransformerDistilled" else timm.models.vision_transformer
        small = {"img_size": 8, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3, "mlp_ratio": 1.5}
        dropped = {"proj_drop_rate": 0.1, "attn_drop_rate": 0.1}
        arguments = {**small, **dropped, "num_classes": 5, **config}
        return seeded(seed, lambda: getattr(made_of, name)(**arguments), spread=0.2)


def _is_there(model: nn.Module, path: str) -> bool:
    """Whether a module that a model may lack, or have as an identity, is there."""
    return not isinstance(dict(model.named_modules()).get(path, nn.Identity()), nn.Identity)

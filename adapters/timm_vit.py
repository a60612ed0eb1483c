"""timm's VisionTransformer: ViT, DeiT, DINOv2 without and with register tokens, and others made of the same blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from intervene.adapter import Adapter, Table
from intervene.calls import Attention
from intervene.lenses import Chunk, FlatGrid, Heads, Narrow
from intervene.ports import Input, Output, Port, View

from ._images import images
from ._tiny import library, seeded, select


@dataclass(frozen=True)
class Sizes:
    """What timm keeps in the model's own attributes and modules, under timm's names where it has one."""

    img_size: tuple[int, int]
    in_chans: int
    patches: int
    num_prefix_tokens: int
    reg_tokens: int
    class_token: bool
    embed_dim: int
    depth: int
    num_heads: int
    head_dim: int
    hidden_dim: int
    num_classes: int
    global_pool: str
    pre_norm: bool
    fc_norm: bool
    qk_norm: bool
    attn_norm: bool
    gated: bool
    pos_embed: bool
    no_embed_class: bool
    dynamic_img_size: bool


class TimmViT(Adapter):
    family = "timm_vit"
    models = ("VisionTransformer", "VisionTransformerDistilled")
    blocks = "blocks"
    variants: ClassVar = {
        "registers": {"reg_tokens": 2, "init_values": 0.5, "no_embed_class": True},
        "pooled": {"global_pool": "avg", "class_token": False, "qk_norm": True, "dynamic_img_size": True},
        "headless": {"num_classes": 0, "pre_norm": True},
    }

    def components(self, config: Sizes) -> Table:
        heads = Heads(config.num_heads)
        query, key, value = (Output("attn.qkv") >> Chunk(i, of=3) for i in range(3))
        return {
            "block_input": Input(),
            "attention_input": Input("attn"),
            "query_output": query,
            "key_output": key,
            "value_output": value,
            "head_query_output": query >> heads,
            "head_key_output": key >> heads,
            "head_value_output": value >> heads,
            "attention_scores": Attention("scores", "attn"),
            "attention_pattern": Attention("pattern", "attn"),
            "head_attention_value_output": Input("attn.proj") >> heads,
            "attention_value_output": Input("attn.proj"),
            "attention_output": Output("drop_path1"),
            "mlp_input": Input("mlp"),
            "mlp_activation": Input("mlp.fc2"),
            "mlp_output": Output("drop_path2"),
            "block_output": Output(),
        }

    def outside(self, config: Sizes) -> Table:
        patches, embeddings = Output("patch_embed"), Output("norm_pre")
        table: dict[str, Port | View] = {
            "patch_embedding_output": patches >> FlatGrid() if config.dynamic_img_size else patches,
            "embedding_output": embeddings,
        }
        if config.class_token:
            table["class_token"] = embeddings >> Narrow(axis=1, start=0, length=1)
        if config.reg_tokens:
            table["register_tokens"] = embeddings >> Narrow(1, start=int(config.class_token), length=config.reg_tokens)
        if not config.fc_norm:
            table["final_norm_output"] = Output("norm")
        if config.num_classes and self.known_as == "VisionTransformer":
            table["logits"] = Output("head")
        return table

    @classmethod
    def recognises(cls, model: nn.Module) -> bool:
        # torchvision has a class of that name, too, and timm's own may be made of blocks of other kinds.
        origin = next((c.__module__ for c in type(model).__mro__ if c.__name__ in cls.models), "")
        blocks: Any = getattr(model, "blocks", ())
        kinds = {(type(block).__name__, type(getattr(block, "attn", None)).__name__) for block in blocks}
        return origin.startswith("timm.") and kinds == {("Block", "Attention")}

    @classmethod
    def config_of(cls, model: Any) -> Sizes:
        block = model.blocks[0]
        return Sizes(
            img_size=model.patch_embed.img_size,
            in_chans=model.patch_embed.proj.in_channels,
            patches=model.patch_embed.num_patches,
            num_prefix_tokens=model.num_prefix_tokens,
            reg_tokens=model.num_reg_tokens,
            class_token=model.has_class_token,
            embed_dim=model.embed_dim,
            depth=len(model.blocks),
            num_heads=block.attn.num_heads,
            head_dim=block.attn.head_dim,
            hidden_dim=block.mlp.fc2.in_features,
            num_classes=model.num_classes,
            global_pool=model.global_pool,
            pre_norm=_there(model.norm_pre),
            fc_norm=_there(model.fc_norm),
            qk_norm=_there(block.attn.q_norm),
            attn_norm=_there(getattr(block.attn, "norm", None)),
            gated=_there(getattr(block.attn, "gate", None)),
            pos_embed=model.pos_embed is not None,
            no_embed_class=model.no_embed_class,
            dynamic_img_size=model.dynamic_img_size,
        )

    @classmethod
    def example_inputs(
        cls, model: nn.Module, rows: int = 2, columns: int = 6, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        config = cls.config_of(model)
        return {"x": images(rows, config.in_chans, config.img_size, generator)}

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        name = select(model or "VisionTransformer", cls.models)
        timm = library("timm", "timm")
        made_of = timm.models.deit if name == "VisionTransformerDistilled" else timm.models.vision_transformer
        small = {"img_size": 8, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3, "mlp_ratio": 1.5}
        dropped = {"proj_drop_rate": 0.1, "attn_drop_rate": 0.1}
        arguments = {**small, **dropped, "num_classes": 5, **config}
        return seeded(seed, lambda: getattr(made_of, name)(**arguments), spread=0.2)


def _there(module: nn.Module | None) -> bool:
    """Whether a module that a config may leave out is there."""
    return module is not None and not isinstance(module, nn.Identity)

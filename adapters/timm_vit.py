"""timm's VisionTransformer: ViT, DeiT, DINOv2 without and with register tokens, and others made of the same blocks."""

from __future__ import annotations

from typing import Any, ClassVar

from intervene.adapter import Table
from intervene.lenses import Chunk, FlatGrid, Narrow
from intervene.ports import Input, Output, Port, View
from intervene.tables import attention

from ._timm_vit_models import TimmViTModels


class TimmViT(TimmViTModels):
    family = "timm_vit"
    models = ("VisionTransformer", "VisionTransformerDistilled")
    blocks = "blocks"
    variants: ClassVar = {
        "registers": {"reg_tokens": 2, "init_values": 0.5, "no_embed_class": True},
        "pooled": {"global_pool": "avg", "class_token": False, "qk_norm": True, "dynamic_img_size": True},
        "headless": {"num_classes": 0, "pre_norm": True},
    }

    def components(self, config: Any) -> Table:
        query, key, value = (Output("attn.qkv") >> Chunk(i, of=3) for i in range(3))
        return {
            "block_input": Input(),
            "attention_input": Input("attn"),
            **attention("attn", query, key, value, Input("attn.proj"), config.num_heads),
            "attention_output": Output("drop_path1"),
            "mlp_input": Input("mlp"),
            "mlp_activation": Input("mlp.fc2"),
            "mlp_output": Output("drop_path2"),
            "block_output": Output(),
        }

    def outside(self, config: Any) -> Table:
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

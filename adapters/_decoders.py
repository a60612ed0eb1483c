"""What transformers' decoder families share: LLaMA's block, which Mistral and others build on, and the heads' names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from intervene.adapter import Adapter, Table
from intervene.calls import Call
from intervene.ports import Input, Output
from intervene.tables import attention

from ._tiny import build

TINY: Mapping[str, Any] = {
    "vocab_size": 61,
    "max_position_embeddings": 64,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_labels": 3,
}
"""A config of odd sizes, for it takes a size that equals another one to hide a mistake."""


class LlamaLike(Adapter):
    """A pre-norm decoder with rotary embeddings, in which query heads share key and value heads.

    A family with another MLP overrides ``mlp`` alone.
    """

    base = "model"
    blocks = "model.layers"

    def components(self, config: Any) -> Table:
        return {"block_input": Input(), **self.attention(config), **self.mlp(config), "block_output": Output()}

    def attention(self, config: Any) -> Table:
        """The components of a block's attention."""
        query, key, value = (Output(f"self_attn.{name}_proj") for name in "qkv")
        heads, shared = config.num_attention_heads, config.num_key_value_heads
        return {
            "attention_input": Input("self_attn"),
            **attention("self_attn", query, key, value, Input("self_attn.o_proj"), heads, shared),
            "query_rotated": Call("self_attn", ("apply_rotary_pos_emb",), index=0),
            "key_rotated": Call("self_attn", ("apply_rotary_pos_emb",), index=1),
            "attention_output": Output("self_attn"),
        }

    def mlp(self, config: Any) -> Table:
        """The components of a block's MLP."""
        return {
            "mlp_input": Input("mlp"),
            "mlp_activation": Input("mlp.down_proj"),
            "mlp_output": Output("mlp"),
        }

    def outside(self, config: Any) -> Table:
        return {"embedding_output": Output("model.embed_tokens"), "final_norm_output": Output("model.norm")}

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}
        defaults = {**TINY, **heads, "intermediate_size": 40, "initializer_range": 0.2}
        return build(model or cls.models[1], cls.models, seed, defaults, config)

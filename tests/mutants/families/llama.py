"""LLaMA's decoder in transformers, as far as the mutants need it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from intervene.adapter import Adapter, Table
from intervene.adapters._tiny import build
from intervene.lenses import Heads
from intervene.ports import Input, Output


class LLaMA(Adapter):
    """Four query heads share two key and value heads; the MLP has a gate."""

    family = "mutants_llama"
    models = ("LlamaForCausalLM",)
    base = "model"
    blocks = "model.layers"
    spec = Path(__file__).with_name("llama.toml")
    heads: ClassVar = {"LlamaForCausalLM": "lm_head"}

    def components(self, config: Any) -> Table:
        heads, shared = Heads(config.num_attention_heads), Heads(config.num_key_value_heads)
        return {
            "block_input": Input(),
            "attention_input": Input("self_attn", "hidden_states"),
            "query_output": Output("self_attn.q_proj"),
            "key_output": Output("self_attn.k_proj"),
            "value_output": Output("self_attn.v_proj"),
            "head_query_output": Output("self_attn.q_proj") >> heads,
            "head_key_output": Output("self_attn.k_proj") >> shared,
            "head_value_output": Output("self_attn.v_proj") >> shared,
            "head_attention_value_output": Input("self_attn.o_proj") >> heads,
            "attention_value_output": Input("self_attn.o_proj"),
            "attention_output": Output("self_attn"),
            "mlp_input": Input("mlp"),
            "mlp_activation": Input("mlp.down_proj"),
            "mlp_output": Output("mlp"),
            "block_output": Output(),
        }

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        small = {
            "vocab_size": 61,
            "hidden_size": 24,
            "intermediate_size": 20,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "initializer_range": 0.2,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        return build("LlamaConfig", model or "LlamaForCausalLM", cls.models, seed, small, config)

"""GPT-NeoX (Pythia) in transformers, as far as the mutants need it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from intervene.adapter import Adapter, Table
from intervene.adapters._tiny import build
from intervene.lenses import Heads, Interleaved
from intervene.ports import Input, Output


class NeoX(Adapter):
    """The fused projection lays out query, key and value head by head."""

    family = "mutants_neox"
    models = ("GPTNeoXForCausalLM",)
    base = "gpt_neox"
    blocks = "gpt_neox.layers"
    spec = Path(__file__).with_name("neox.toml")
    heads: ClassVar = {"GPTNeoXForCausalLM": "embed_out"}

    def components(self, config: Any) -> Table:
        count = config.num_attention_heads
        qkv = Output("attention.query_key_value")
        query, key, value = (qkv >> Interleaved(i, of=3, heads=count) for i in range(3))
        return {
            "attention_input": Input("attention"),
            "query_output": query,
            "key_output": key,
            "value_output": value,
            "head_value_output": value >> Heads(count),
            "head_attention_value_output": Input("attention.dense") >> Heads(count),
            "block_output": Output(),
        }

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        small = {
            "vocab_size": 61,
            "hidden_size": 24,
            "intermediate_size": 20,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "initializer_range": 0.2,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        return build("GPTNeoXConfig", model or "GPTNeoXForCausalLM", cls.models, seed, small, config)

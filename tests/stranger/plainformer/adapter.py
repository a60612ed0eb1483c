"""Where intervene's components live in a Plainformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch

from intervene.adapter import Adapter, Table
from intervene.lenses import Heads
from intervene.ports import Input, Output

from .model import Plainformer, PlainformerConfig


class PlainformerAdapter(Adapter):
    family = "plainformer"
    models = ("Plainformer",)
    blocks = "blocks"
    heads: ClassVar = {"Plainformer": "head"}
    spec = Path(__file__).with_name("plainformer.toml")

    def components(self, config: Any) -> Table:
        heads = Heads(config.heads)
        query, key, value = Output("attention.query"), Output("attention.key"), Output("attention.value")
        return {
            "block_input": Input(),
            "attention_input": Input("attention"),
            "query_output": query,
            "key_output": key,
            "value_output": value,
            "head_query_output": query >> heads,
            "head_key_output": key >> heads,
            "head_value_output": value >> heads,
            "head_attention_value_output": Input("attention.mix") >> heads,
            "attention_value_output": Input("attention.mix"),
            "attention_output": Output("attention"),
            "mlp_input": Input("mlp"),
            "mlp_activation": Input("mlp.2"),
            "mlp_output": Output("mlp"),
            "block_output": Output(),
        }

    def outside(self, config: Any) -> Table:
        return {"embedding_output": Output("start"), "final_norm_output": Output("norm")}

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> Plainformer:
        sizes = {"vocab_size": 29, "width": 16, "heads": 2, "depth": 2, "context": 32, **config}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Plainformer(PlainformerConfig(**sizes)).eval()

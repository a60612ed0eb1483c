"""ESM (Rives et al. 2021, https://doi.org/10.1073/pnas.2016239118; ESM-2: Lin et al. 2023,
https://doi.org/10.1126/science.ade2574), protein language models, as in transformers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from intervene.adapter import Adapter, Table
from intervene.calls import Attention, Call
from intervene.lenses import Heads
from intervene.ports import Input, Output, Port, View

from ._tiny import build


class Esm(Adapter):
    family = "esm"
    models = ("EsmModel", "EsmForMaskedLM", "EsmForSequenceClassification", "EsmForTokenClassification")
    base = "esm"
    blocks = "esm.encoder.layer"
    heads: ClassVar = {
        "EsmForMaskedLM": "lm_head",
        "EsmForSequenceClassification": "classifier",
        "EsmForTokenClassification": "classifier",
    }
    variants: ClassVar = {"absolute": {"position_embedding_type": "absolute", "emb_layer_norm_before": True}}

    def components(self, config: Any) -> Table:
        heads = Heads(config.num_attention_heads)
        table: dict[str, Port | View] = {
            "block_input": Input(),
            "attention_input": Input("attention.self"),
            "query_output": Output("attention.self.query"),
            "key_output": Output("attention.self.key"),
            "value_output": Output("attention.self.value"),
            "head_query_output": Output("attention.self.query") >> heads,
            "head_key_output": Output("attention.self.key") >> heads,
            "head_value_output": Output("attention.self.value") >> heads,
            "attention_scores": Attention("scores", "attention.self"),
            "attention_pattern": Attention("pattern", "attention.self"),
            "head_attention_value_output": Input("attention.output.dense") >> heads,
            "attention_value_output": Input("attention.output.dense"),
            # The modules around them, attention and output, give back the sum with the residual.
            "attention_output": Output("attention.output.dropout"),
            "mlp_input": Input("intermediate"),
            "mlp_activation": Input("output.dense"),
            "mlp_output": Output("output.dropout"),
            "block_output": Output(),
        }
        if config.position_embedding_type == "rotary":
            table["query_rotated"] = Call("attention.self", ("apply_rotary_pos_emb",), index=0)
            table["key_rotated"] = Call("attention.self", ("apply_rotary_pos_emb",), index=1)
        return table

    def outside(self, config: Any) -> Table:
        return {
            "embedding_output": Input("esm.encoder"),
            "final_norm_output": Output("esm.encoder.emb_layer_norm_after"),
        }

    @classmethod
    def example_inputs(
        cls, model: nn.Module, rows: int = 2, columns: int = 6, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        # Token dropout divides by the share of a row that isn't masked, which is zero in a row of masks alone.
        inputs = super().example_inputs(model, rows, columns, generator)
        masked = inputs["input_ids"] == getattr(cls.config_of(model), "mask_token_id", None)
        return {"input_ids": inputs["input_ids"] - 1 * masked}

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        defaults = {
            "vocab_size": 33,
            "max_position_embeddings": 64,
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "position_embedding_type": "rotary",
            "token_dropout": True,
            "pad_token_id": 1,
            "mask_token_id": 32,
            "num_labels": 4,
            "initializer_range": 0.2,
        }
        return build("EsmConfig", model or "EsmForMaskedLM", cls.models, seed, defaults, config)

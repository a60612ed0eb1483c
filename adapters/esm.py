"""ESM (Rives et al. 2021, https://doi.org/10.1073/pnas.2016239118; ESM-2: Lin et al. 2023,
https://doi.org/10.1126/science.ade2574), protein language models, as in transformers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from intervene.adapter import Adapter, Table
from intervene.calls import Call
from intervene.ports import Input, Output, Port, View

from ._bert import bert_attention, bert_mlp
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
        table: dict[str, Port | View] = {
            "block_input": Input(),
            **bert_attention("attention", config.num_attention_heads),
            **bert_mlp(),
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
        return build(model or "EsmForMaskedLM", cls.models, seed, defaults, config)

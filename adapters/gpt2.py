"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"), as in transformers."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from intervene.adapter import Adapter, Table
from intervene.lenses import Chunk, FlatBatch
from intervene.ports import Input, Output, Port, View
from intervene.tables import attention

from ._tiny import build


class GPT2(Adapter):
    family = "gpt2"
    models = (
        "GPT2Model",
        "GPT2LMHeadModel",
        "GPT2DoubleHeadsModel",
        "GPT2ForSequenceClassification",
        "GPT2ForTokenClassification",
        "GPT2ForQuestionAnswering",
    )
    base = "transformer"
    blocks = "transformer.h"
    heads: ClassVar = {
        "GPT2LMHeadModel": "lm_head",
        "GPT2DoubleHeadsModel": "lm_head",
        "GPT2ForSequenceClassification": "score",
        "GPT2ForTokenClassification": "classifier",
        "GPT2ForQuestionAnswering": "qa_outputs",
    }

    def components(self, config: Any) -> Table:
        qkv = Output("attn.c_attn")
        query, key, value = (qkv >> Chunk(i, of=3) for i in range(3))
        return {
            "block_input": Input(),
            "attention_input": Input("attn"),
            **attention("attn", query, key, value, Input("attn.c_proj"), config.num_attention_heads),
            "attention_output": Output("attn"),
            "mlp_input": Input("mlp"),
            "mlp_activation": Input("mlp.c_proj"),
            "mlp_output": Output("mlp"),
            "block_output": Output(),
        }

    def outside(self, config: Any) -> Table:
        table: dict[str, Port | View] = {
            "embedding_output": Output("transformer.drop"),
            "final_norm_output": Output("transformer.ln_f"),
        }
        if self.known_as == "GPT2DoubleHeadsModel":
            # Its language-model head sees (batch, choices, position, feature), where all before it see the flat batch.
            table["logits"] = Output("lm_head") >> FlatBatch()
        return table

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        small = {"vocab_size": 61, "n_positions": 64, "n_embd": 24, "n_layer": 3, "n_head": 3}
        special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        # GPT-2's own 0.02 leaves the blocks of so narrow a model next to nothing to add to the stream.
        defaults = {**small, **special, "num_labels": 3, "initializer_range": 0.2}
        return build(model or "GPT2LMHeadModel", cls.models, seed, defaults, config)

"""Pythia (Biderman et al. 2023, https://arxiv.org/abs/2304.01373): GPT-NeoX's architecture, as in transformers."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from intervene.adapter import Adapter, Table
from intervene.calls import Call
from intervene.lenses import Interleaved
from intervene.ports import Input, Output, Port, View
from intervene.tables import attention

from ._decoders import TINY
from ._tiny import build


class Pythia(Adapter):
    family = "pythia"
    models = (
        "GPTNeoXModel",
        "GPTNeoXForCausalLM",
        "GPTNeoXForSequenceClassification",
        "GPTNeoXForQuestionAnswering",
        "GPTNeoXForTokenClassification",
    )
    base = "gpt_neox"
    blocks = "gpt_neox.layers"
    heads: ClassVar = {
        "GPTNeoXForSequenceClassification": "score",
        "GPTNeoXForQuestionAnswering": "qa_outputs",
        "GPTNeoXForTokenClassification": "classifier",
    }
    # One after the other, as in the smallest of StableLM and RedPajama; all of a head's features turned.
    variants: ClassVar = {"sequential": {"use_parallel_residual": False, "rotary_pct": 1.0}}

    def components(self, config: Any) -> Table:
        qkv = Output("attention.query_key_value")
        query, key, value = (qkv >> Interleaved(i, of=3, heads=config.num_attention_heads) for i in range(3))
        return {
            "block_input": Input(),
            "attention_input": Input("attention"),
            **attention("attention", query, key, value, Input("attention.dense"), config.num_attention_heads),
            "query_rotated": Call("attention", ("apply_rotary_pos_emb",), index=0),
            "key_rotated": Call("attention", ("apply_rotary_pos_emb",), index=1),
            # What is added to the residual stream is what the dropout leaves.
            "attention_output": Output("post_attention_dropout"),
            "mlp_input": Input("mlp"),
            "mlp_activation": Input("mlp.dense_4h_to_h"),
            "mlp_output": Output("post_mlp_dropout"),
            "block_output": Output(),
        }

    def outside(self, config: Any) -> Table:
        table: dict[str, Port | View] = {
            "embedding_output": Output("gpt_neox.emb_dropout"),
            "final_norm_output": Output("gpt_neox.final_layer_norm"),
        }
        if self.known_as == "GPTNeoXForCausalLM":
            # Earlier releases of transformers call the head embed_out.
            table["logits"] = Output("lm_head" if hasattr(self.model, "lm_head") else "embed_out")
        return table

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        sizes = {"num_attention_heads": 3, "intermediate_size": 40, "rotary_pct": 0.5}
        defaults = {**TINY, **sizes, "initializer_range": 0.2}
        return build(model or "GPTNeoXForCausalLM", cls.models, seed, defaults, config)

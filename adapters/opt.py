"""OPT (Zhang et al. 2022, https://arxiv.org/abs/2205.01068), as in transformers."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from intervene.adapter import Adapter, Table
from intervene.lenses import Unflatten
from intervene.ports import Input, Output, Port, View
from intervene.tables import attention

from ._decoders import TINY
from ._tiny import build


class OPT(Adapter):
    family = "opt"
    models = ("OPTModel", "OPTForCausalLM", "OPTForSequenceClassification", "OPTForQuestionAnswering")
    base = "model"
    blocks = "model.decoder.layers"
    heads: ClassVar = {
        "OPTForCausalLM": "lm_head",
        "OPTForSequenceClassification": "score",
        "OPTForQuestionAnswering": "qa_outputs",
    }
    # OPT-350m alone: norms after the sub-layers, and embeddings narrower than the residual stream.
    variants: ClassVar = {"post_norm": {"do_layer_norm_before": False, "word_embed_proj_dim": 20}}

    def components(self, config: Any) -> Table:
        query, key, value = (Output(f"self_attn.{name}_proj") for name in "qkv")
        return {
            "block_input": Input(),
            "attention_input": Input("self_attn"),
            **attention("self_attn", query, key, value, Input("self_attn.out_proj"), config.num_attention_heads),
            "attention_output": Output("self_attn"),
            # There is no MLP module, and its parts see the tokens of all rows as one list.
            "mlp_input": Input("fc1") >> Unflatten(),
            "mlp_activation": Input("fc2") >> Unflatten(),
            "mlp_output": Output("fc2") >> Unflatten(),
            "block_output": Output(),
        }

    def outside(self, config: Any) -> Table:
        # Token and position embeddings are added in plain code: their sum first shows where the first block reads it.
        table: dict[str, Port | View] = {"embedding_output": Input("model.decoder.layers.0")}
        if self.model.get_submodule(self.locate("model.decoder")).final_layer_norm is not None:
            table["final_norm_output"] = Output("model.decoder.final_layer_norm")
        return table

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        sizes = {"num_attention_heads": 3, "ffn_dim": 40, "init_std": 0.2}
        return build(model or "OPTForCausalLM", cls.models, seed, {**TINY, **sizes}, config)

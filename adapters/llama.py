"""LLaMA (Touvron et al. 2023, https://arxiv.org/abs/2302.13971; 2 and 3 alike), as in transformers."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from intervene.adapter import Adapter, Table
from intervene.calls import Attention, Call
from intervene.lenses import Heads
from intervene.ports import Input, Output

from ._tiny import build


class Llama(Adapter):
    family = "llama"
    models = (
        "LlamaModel",
        "LlamaForCausalLM",
        "LlamaForSequenceClassification",
        "LlamaForQuestionAnswering",
        "LlamaForTokenClassification",
    )
    base = "model"
    blocks = "model.layers"
    heads: ClassVar = {
        "LlamaForCausalLM": "lm_head",
        "LlamaForSequenceClassification": "score",
        "LlamaForQuestionAnswering": "qa_outputs",
        "LlamaForTokenClassification": "score",
    }

    def components(self, config: Any) -> Table:
        heads = Heads(config.num_attention_heads)
        shared = Heads(config.num_key_value_heads)
        return {
            "block_input": Input(),
            "attention_input": Input("self_attn"),
            "query_output": Output("self_attn.q_proj"),
            "key_output": Output("self_attn.k_proj"),
            "value_output": Output("self_attn.v_proj"),
            "head_query_output": Output("self_attn.q_proj") >> heads,
            "head_key_output": Output("self_attn.k_proj") >> shared,
            "head_value_output": Output("self_attn.v_proj") >> shared,
            "query_rotated": Call("self_attn", ("apply_rotary_pos_emb",), index=0),
            "key_rotated": Call("self_attn", ("apply_rotary_pos_emb",), index=1),
            "attention_scores": Attention("scores", "self_attn"),
            "attention_pattern": Attention("pattern", "self_attn"),
            "head_attention_value_output": Input("self_attn.o_proj") >> heads,
            "attention_value_output": Input("self_attn.o_proj"),
            "attention_output": Output("self_attn"),
            "mlp_input": Input("mlp"),
            "mlp_activation": Input("mlp.down_proj"),
            "mlp_output": Output("mlp"),
            "block_output": Output(),
        }

    def outside(self, config: Any) -> Table:
        return {
            "embedding_output": Output("model.embed_tokens"),
            "final_norm_output": Output("model.norm"),
        }

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        defaults = {
            "vocab_size": 61,
            "max_position_embeddings": 64,
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 6,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "num_labels": 3,
            "initializer_range": 0.2,
        }
        return build("LlamaConfig", model or "LlamaForCausalLM", cls.models, seed, defaults, config)

"""Mixtral (Jiang et al. 2024, https://arxiv.org/abs/2401.04088), as in transformers: Mistral's attention, many MLPs."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from intervene.adapter import Table
from intervene.calls import Function
from intervene.lenses import Grouped, Unflatten
from intervene.ports import Input, Output

from ._decoders import LlamaLike
from ._experts import Experts

# The router's own forward goes on from its logits to the choice of experts: what it returns comes too late.
_LOGITS = Function("mlp.gate", (torch.nn.functional.linear,), None, "router logits")


class Mixtral(LlamaLike):
    family = "mixtral"
    models = (
        "MixtralModel",
        "MixtralForCausalLM",
        "MixtralForSequenceClassification",
        "MixtralForQuestionAnswering",
        "MixtralForTokenClassification",
    )
    heads: ClassVar = {
        "MixtralForCausalLM": "lm_head",
        "MixtralForSequenceClassification": "score",
        "MixtralForQuestionAnswering": "qa_outputs",
        "MixtralForTokenClassification": "score",
    }

    def mlp(self, config: Any) -> Table:
        choices = Grouped(config.num_experts_per_tok) >> Unflatten()
        return {
            "mlp_input": Input("mlp"),
            "router_logits": _LOGITS >> Unflatten(),
            "router_weights": Output("mlp.gate", 1) >> Unflatten(),
            "expert_input": Experts("mlp.experts", "input") >> choices,
            "expert_activation": Experts("mlp.experts", "activation") >> choices,
            "expert_output": Experts("mlp.experts", "output") >> choices,
            "mlp_output": Output("mlp"),
        }

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        experts = {"num_local_experts": 5, "num_experts_per_tok": 2, "experts_implementation": "batched_mm"}
        return super().tiny(model, seed, **{**experts, **config})

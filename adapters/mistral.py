"""Mistral (Jiang et al. 2023, https://arxiv.org/abs/2310.06825), as in transformers; LLaMA's table, word for word."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from ._decoders import LlamaLike


class Mistral(LlamaLike):
    family = "mistral"
    models = (
        "MistralModel",
        "MistralForCausalLM",
        "MistralForSequenceClassification",
        "MistralForQuestionAnswering",
        "MistralForTokenClassification",
    )
    heads: ClassVar = {
        "MistralForCausalLM": "lm_head",
        "MistralForSequenceClassification": "score",
        "MistralForQuestionAnswering": "qa_outputs",
        "MistralForTokenClassification": "score",
    }
    # The later releases' attention sees all that came before.
    variants: ClassVar = {"full_attention": {"sliding_window": None}}

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        # A window that the laws' short inputs outgrow.
        return super().tiny(model, seed, **{"sliding_window": 4, **config})

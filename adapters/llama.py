"""LLaMA (Touvron et al. 2023, https://arxiv.org/abs/2302.13971; 2 and 3 alike), as in transformers."""

from __future__ import annotations

from typing import ClassVar

from ._decoders import LlamaLike


class Llama(LlamaLike):
    family = "llama"
    models = (
        "LlamaModel",
        "LlamaForCausalLM",
        "LlamaForSequenceClassification",
        "LlamaForQuestionAnswering",
        "LlamaForTokenClassification",
    )
    heads: ClassVar = {
        "LlamaForCausalLM": "lm_head",
        "LlamaForSequenceClassification": "score",
        "LlamaForQuestionAnswering": "qa_outputs",
        "LlamaForTokenClassification": "score",
    }
    variants: ClassVar = {
        # Llama 3.2's small models: the embedding's weights are the head's, and slow rotations are slowed further.
        "llama3_tied": {
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
        # The first LLaMA's: keys and values for each query head.
        "multi_head": {"num_key_value_heads": 4, "head_dim": None},
    }

"""Small local folders named as the hub ids that the reference's snippets load, and the names that it leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import intervene as pv

END = "<|endoftext|>"


def folders(where: Path) -> None:
    """Save the models and tokenizers that the snippets load by name."""
    tokenizer = byte_tokenizer()
    gpt2: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "n_positions": 128,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    # Deep and wide enough for the layers and ranks that the snippets name.
    models = {
        "gpt2": pv.tiny("gpt2", n_layer=12, n_embd=64, n_head=4, **gpt2),
        "gpt2-xl": pv.tiny("gpt2", n_layer=2, **gpt2),
        "meta-llama/Llama-2-7b-hf": pv.tiny(
            "llama",
            vocab_size=len(tokenizer),
            max_position_embeddings=256,
            num_hidden_layers=9,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        ),
    }
    for name, model in models.items():
        model.save_pretrained(where / name)  # type: ignore[operator]
        tokenizer.save_pretrained(where / name)
    honest(models["meta-llama/Llama-2-7b-hf"]).save(where / "zhengxuanzenwu" / "intervenable_honest_llama2_chat_7B")


def honest(model: torch.nn.Module) -> pv.IntervenableModel:
    """Directions added to what some attention heads put out, as honest LLaMA's intervention does."""
    directions = torch.linspace(-3, 3, 24)
    return pv.IntervenableModel(
        [
            pv.RepresentationConfig(
                layer=layer,
                component="attention_value_output",
                intervention_type=pv.AdditionIntervention,
                source_representation=directions * (layer + 1),
            )
            for layer in (2, 5, 7)
        ],
        model,
    )


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each byte, and three words."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([END, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)
    # The snippets ask for the first token of these, which bytes alone would not tell apart.
    fast.add_tokens([" John", " Mary", " Seattle"])
    return fast


def training_data() -> list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]]:
    """Two batches of (base, source, target) for the training loop."""
    generator = torch.Generator().manual_seed(0)

    def tokens() -> torch.Tensor:
        return torch.randint(1, 256, (2, 6), generator=generator)

    return [({"input_ids": tokens()}, {"input_ids": tokens()}, tokens()) for _ in range(2)]


def criterion(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross entropy at every position."""
    return torch.nn.functional.cross_entropy(logits.flatten(0, -2), target.flatten())


def names_that_the_text_leaves_out() -> dict[str, Any]:
    """What snippets use and none defines."""
    tokenizer = byte_tokenizer()
    return {
        "dataloader": training_data(),
        "criterion": criterion,
        "base_tokens": tokenizer("The capital of Spain is", return_tensors="pt"),
        "source_tokens": tokenizer("The capital of Italy is", return_tensors="pt"),
    }

"""The models that are timed: GPT-2 configs with random weights, so nothing is downloaded."""

from __future__ import annotations

import intervene  # noqa: F401 - before transformers, which a torchvision of another build would break

# isort: split
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

SMALL: dict[str, Any] = {}
TOY: dict[str, Any] = {"vocab_size": 64, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}
TOY |= {"bos_token_id": 0, "eos_token_id": 0}
POSITIONS = 16


def gpt2(config: dict[str, Any]) -> GPT2LMHeadModel:
    """A GPT-2 of that config (GPT-2 small's, where empty) in eval mode, its weights drawn from seed 0."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**config))
    model.train(False)
    return model


def prompt(model: GPT2LMHeadModel, seed: int) -> Tensor:
    """Random token ids, (1, `POSITIONS`)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, model.config.vocab_size, (1, POSITIONS), generator=generator)

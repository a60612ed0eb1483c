"""The model: pre-norm blocks with causal attention and an MLP, and learned positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PlainformerConfig:
    """Sizes of a model."""

    vocab_size: int = 101
    width: int = 64
    heads: int = 4
    depth: int = 2
    context: int = 128


class CausalAttention(nn.Module):
    def __init__(self, config: PlainformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.mix = nn.Linear(config.width, config.width)

    def forward(self, stream: Tensor) -> Tensor:
        batch, length, width = stream.shape

        def split(projected: Tensor) -> Tensor:
            return projected.view(batch, length, self.heads, width // self.heads).transpose(1, 2)

        query, key, value = split(self.query(stream)), split(self.key(stream)), split(self.value(stream))
        scores = query @ key.transpose(-2, -1) / (width // self.heads) ** 0.5
        future = torch.ones(length, length, dtype=torch.bool, device=stream.device).triu(1)
        pattern = scores.masked_fill(future, float("-inf")).softmax(-1)
        return self.mix((pattern @ value).transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    def __init__(self, config: PlainformerConfig) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(config.width)
        self.attention = CausalAttention(config)
        self.before_mlp = nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, 4 * config.width), nn.GELU(), nn.Linear(4 * config.width, config.width)
        )

    def forward(self, stream: Tensor) -> Tensor:
        stream = stream + self.attention(self.before_attention(stream))
        return stream + self.mlp(self.before_mlp(stream))


class Plainformer(nn.Module):
    """Token ids (batch, position) to logits (batch, position, vocabulary)."""

    def __init__(self, config: PlainformerConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.start = nn.Identity()
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        stream = self.start(self.tokens(input_ids) + self.positions(places))
        for block in self.blocks:
            stream = block(stream)
        return self.head(self.norm(stream))

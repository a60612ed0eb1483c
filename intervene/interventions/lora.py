"""Low-rank adaptation as an intervention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ShapeMismatchError
from .base import DistributedRepresentationIntervention, TrainableIntervention, required


class LoRAIntervention(TrainableIntervention, DistributedRepresentationIntervention):
    """Low-rank adaptation: ``base + (alpha / r) B A x``, x the input of the site's module.

    Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", https://arxiv.org/abs/2106.09685. At a
    linear module's output this is the module with ``W + (alpha / r) B A`` for its weight. ``lora_A`` (r, input_dim),
    from a Kaiming uniform distribution, and ``lora_B`` (width, r), from 0, are trained; r is ``low_rank_dimension``.
    ``lora_alpha`` is r by default, a scale of 1.

    Shapes: base (batch, ..., width); the source, the module's input, is (batch, ..., input_dim), width by default,
    without the base's head axis if it has one: each head is then changed alike.
    """

    source_is_input = True
    optional_sizes = ("low_rank_dimension",)

    def __init__(self, *, input_dim: int | None = None, lora_alpha: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width, rank = required(self, "embed_dim"), required(self, "low_rank_dimension")
        self.input_dim = width if input_dim is None else int(input_dim)
        self.scale = 1.0 if lora_alpha is None else float(lora_alpha) / rank
        self.lora_A = nn.Parameter(torch.empty(rank, self.input_dim))
        self.lora_B = nn.Parameter(torch.zeros(width, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    @property
    def takes_source(self) -> bool:
        """It adapts the module in whatever run it is in, by that run's own input."""
        return False

    def resolve_source(self, base: Tensor, source: Tensor | None) -> Tensor:
        if source is None:
            return super().resolve_source(base, source)
        if source.shape[-1] != self.input_dim:
            raise ShapeMismatchError(
                f"LoRAIntervention was made for inputs of {self.input_dim} features and the module's input has "
                f"{source.shape[-1]}: {tuple(source.shape)}; say input_dim={source.shape[-1]}"
            )
        # A head's module input has no heads: the change is the same for each.
        missing = base.dim() - source.dim()
        return source.reshape(source.shape[0], *[1] * missing, *source.shape[1:]).to(base.device)

    def operate(self, base: Tensor, source: Tensor) -> Tensor:
        change = source.to(self.lora_A.dtype) @ self.lora_A.T @ self.lora_B.T
        return base + (self.scale * change).to(base.dtype)

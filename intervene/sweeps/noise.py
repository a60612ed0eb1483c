"""Corruption by noise, as in causal tracing (Meng et al. 2022, https://arxiv.org/abs/2202.05262)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SweepError


@dataclass(frozen=True)
class GaussianNoise:
    """Gaussian noise on the embeddings of some positions.

    Attributes:
        positions: the columns that get noise, those of the subject's tokens in ROME's recipe.
        sigma: the noise's standard deviation, in standard deviations of the model's token embeddings. ROME takes 3.
        samples: how many noise draws; each is one example of the sweep, and values are means over them.
        seed: the draws' seed; torch's own random state is not touched.
    """

    positions: Sequence[int]
    sigma: float = 3.0
    samples: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.sigma <= 0 or not list(self.positions):
            raise SweepError(f"noise needs at least one sample, one position and a positive sigma; found {self}")

    def draw(self, model: nn.Module, width: int) -> Tensor:
        """Noise of shape (samples, positions, width) in float32 on the CPU."""
        generator = torch.Generator().manual_seed(self.seed)
        scale = self.sigma * embedding_deviation(model)
        shape = (self.samples, len(list(self.positions)), width)
        return scale * torch.randn(shape, generator=generator)


def embedding_deviation(model: nn.Module) -> float:
    """The standard deviation of all entries of the model's token embedding matrix."""
    return float(token_embeddings(model).weight.detach().float().std())


def token_embeddings(model: nn.Module) -> Any:
    """The module that holds the model's token embeddings.

    Raises:
        SweepError: the model doesn't say which.
    """
    get = getattr(model, "get_input_embeddings", None)
    if get is None:
        raise SweepError(f"{type(model).__name__} does not say where its token embeddings are (get_input_embeddings)")
    return get()

"""Interchange of the neurons that a learned mask chooses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .base import LocalistRepresentationIntervention, required
from .tempered import TemperedIntervention


class SigmoidMaskIntervention(TemperedIntervention, LocalistRepresentationIntervention):
    """Masked interchange: ``base + m * (source - base)`` with ``m = sigmoid(mask / temperature)``, neuron by neuron.

    Learned masks over neurons (De Cao et al. 2020, https://arxiv.org/abs/2004.14992; Csordás et al. 2021,
    https://arxiv.org/abs/2010.02066). ``mask`` (width,) is trained, from 0, that is from m = 1/2.

    Shapes: base (batch, ..., width), source broadcasts to it; acts on each position by itself.
    """

    def __init__(self, *, temperature: float = 0.01, **kwargs: Any) -> None:
        super().__init__(temperature=temperature, **kwargs)
        self.mask = nn.Parameter(torch.zeros(required(self, "embed_dim")))

    def soft_mask(self) -> Tensor:
        return torch.sigmoid(self.mask / self.temperature)

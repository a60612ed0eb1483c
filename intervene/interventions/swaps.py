"""Interventions in the activation's own basis that need nothing but base and source."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import (
    BasisAgnosticIntervention,
    ConstantSourceIntervention,
    Intervention,
    LocalistRepresentationIntervention,
)


class VanillaIntervention(Intervention, LocalistRepresentationIntervention):
    """Interchange: ``source``.

    Activation patching and interchange intervention (Geiger et al. 2021, "Causal Abstractions of Neural Networks",
    https://arxiv.org/abs/2106.02997; Vig et al. 2020, https://arxiv.org/abs/2004.12265).

    Shapes: base (batch, ..., width), source broadcasts to it.
    """

    def operate(self, base: Tensor, source: Tensor) -> Tensor:
        return source


class AdditionIntervention(BasisAgnosticIntervention, LocalistRepresentationIntervention):
    """Addition: ``base + source``.

    Activation addition, steering (Turner et al. 2023, https://arxiv.org/abs/2308.10248), with the vector as
    ``source_representation`` or from a source run.

    Shapes: base (batch, ..., width), source broadcasts to it.
    """

    def operate(self, base: Tensor, source: Tensor) -> Tensor:
        return base + source


class SubtractionIntervention(BasisAgnosticIntervention, LocalistRepresentationIntervention):
    """Subtraction: ``base - source``. The inverse of addition.

    Steering away from what a vector stands for (Rimsky et al. 2023, "Steering Llama 2 via Contrastive Activation
    Addition", https://arxiv.org/abs/2312.06681).

    Shapes: base (batch, ..., width), source broadcasts to it.
    """

    def operate(self, base: Tensor, source: Tensor) -> Tensor:
        return base - source


class ZeroIntervention(ConstantSourceIntervention, LocalistRepresentationIntervention):
    """Zero ablation: ``0``. The interchange with a source of zeros.

    As heads were first knocked out (Michel et al. 2019, "Are Sixteen Heads Really Better than One?",
    https://arxiv.org/abs/1905.10650).

    Shapes: base (batch, ..., width); no source.
    """

    def resolve_source(self, base: Tensor, source: Tensor | None) -> Tensor:
        return torch.zeros_like(base) if source is None else super().resolve_source(base, source)

    def operate(self, base: Tensor, source: Tensor) -> Tensor:
        return source

"""Masks that are soft while they are trained, at a temperature."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import InterventionArgumentError
from .base import TrainableIntervention


class TemperedIntervention(TrainableIntervention):
    """Interchange by a mask between 0 (base) and 1 (source), ``base + mask * (source - base)``, with a temperature.

    The lower the temperature, the nearer the mask is to a hard choice; training lowers it step by step with
    `set_temperature`. A class of one's own gives `soft_mask`.

    Attributes:
        temperature: () a buffer, so that it is saved and no optimizer moves it.
    """

    temperature: Tensor

    def __init__(self, *, temperature: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.register_buffer("temperature", torch.tensor(_positive(temperature)))

    def get_temperature(self) -> Tensor:
        """The temperature, ()."""
        return self.temperature

    def set_temperature(self, temperature: float | Tensor) -> None:
        """Set the temperature, which is positive."""
        self.temperature.fill_(_positive(float(temperature)))

    def soft_mask(self) -> Tensor:
        """(features,) between 0 and 1."""
        raise NotImplementedError(f"{type(self).__name__} defines no soft_mask()")

    def operate(self, base: Tensor, source: Tensor) -> Tensor:
        # lerp, because it is exactly base at 0 and exactly source at 1.
        return torch.lerp(base, source, self.soft_mask().to(base.dtype))


def _positive(temperature: float) -> float:
    if not temperature > 0:
        raise InterventionArgumentError(f"a temperature is positive, not {temperature}")
    return float(temperature)

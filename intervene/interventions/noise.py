"""Gaussian noise from a seed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import InterventionArgumentError
from ..extras import needed
from .base import LocalistRepresentationIntervention, SourcelessIntervention


class NoiseIntervention(SourcelessIntervention, LocalistRepresentationIntervention):
    """Corruption: ``base + noise_level * e`` with e standard normal, drawn from ``seed``.

    The corrupted run of causal tracing (Meng et al. 2022, "Locating and Editing Factual Associations in GPT",
    https://arxiv.org/abs/2202.05262), which takes three standard deviations of the model's token embeddings as its
    noise level; the default is that of GPT-2 XL as pyvene has it.

    The noise of a position is the same in every row, call and process, and whatever number of positions there are:
    it depends on the seed, the position's place among those acted on, and the width. It comes from NumPy's
    ``RandomState``, whose stream is frozen.

    Shapes: base (batch, ..., positions, width), or (batch, width); no source.
    """

    by_place = True

    def __init__(self, *, noise_level: float = 0.13462981581687927, seed: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if noise_level < 0:
            raise InterventionArgumentError(f"NoiseIntervention: noise_level is not negative, found {noise_level}")
        self.noise_level = float(noise_level)
        self.seed = int(seed)
        self.places: Tensor | None = None
        self._drawn = torch.empty(0, 0)

    def resolve_source(self, base: Tensor, source: Tensor | None) -> Tensor:
        if source is not None:
            return super().resolve_source(base, source)
        between, positions = base.shape[1:-2], base.shape[-2] if base.dim() > 2 else 1
        # Positions first, so that more of them leave the noise of the earlier ones as it is.
        places = torch.arange(positions).unsqueeze(0) if self.places is None else self.places
        noise = self._noise(int(places.max()) + 1, base[0].numel() // positions)[places]
        noise = noise.reshape(*places.shape, *between, base.shape[-1]).movedim(1, -2)
        return (noise if base.dim() > 2 else noise.squeeze(-2)).to(base).expand(base.shape)

    def operate(self, base: Tensor, source: Tensor) -> Tensor:
        return base + self.noise_level * source

    def _noise(self, positions: int, width: int) -> Tensor:
        """(positions, width) standard normal numbers; fewer positions give the first rows of more."""
        if self._drawn.shape[0] < positions or self._drawn.shape[1] != width:
            with needed("numpy", extra="hf", by="noise"):
                import numpy
            drawn = numpy.random.RandomState(self.seed).standard_normal((positions, width))
            self._drawn = torch.from_numpy(drawn)
        return self._drawn[:positions].to(torch.float32)

"""Interchange of an autoencoder's latents."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .base import TrainableIntervention, required
from .featurizers import Latents


class Autoencoder(nn.Module):
    """``decode(encode(x))`` with ``encode(x) = relu(W_e (x - b_d) + b_e)``, ``decode(z) = W_d z + b_d``.

    Shapes: x (..., width), z (..., latents); ``encoder[0]`` and ``decoder[0]`` are the linear layers.
    """

    def __init__(self, width: int, latents: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(width, latents), nn.ReLU())
        self.decoder = nn.Sequential(nn.Linear(latents, width))

    @property
    def output(self) -> nn.Linear:
        """The decoder's linear layer."""
        layer = self.decoder[0]
        assert isinstance(layer, nn.Linear)
        return layer

    def encode(self, x: Tensor) -> Tensor:
        """The latents of ``x``."""
        latents: Tensor = self.encoder(x - self.output.bias)
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """What ``latents`` stand for."""
        x: Tensor = self.decoder(latents)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


class AutoencoderIntervention(TrainableIntervention):
    """Latent interchange: ``base + decode(z') - decode(z)``, z the base's latents, z' with the source's swapped in.

    Latents of a one-layer autoencoder with relu, ``latent_dim`` of them, as in a sparse autoencoder (Cunningham et
    al. 2023, https://arxiv.org/abs/2309.08600; Bricken et al. 2023, "Towards Monosemanticity"). The base keeps its
    reconstruction error, unless ``use_error_term=False``: then the result is ``decode(z')``. Train the
    reconstruction with ``autoencoder(x)``; ``subspaces`` and ``subspace_partition`` choose latents.

    Shapes: base (batch, ..., width), source broadcasts to it; latents (batch, ..., latent_dim).
    """

    optional_sizes = ("latent_dim",)

    def __init__(self, *, use_error_term: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.use_error_term = use_error_term
        self.autoencoder = Autoencoder(required(self, "embed_dim"), required(self, "latent_dim"))

    def feature_count(self) -> int | None:
        return self.latent_dim

    def featurizer(self) -> Latents:
        decoder = self.autoencoder.output

        def reconstruct(x: Tensor, latents: Tensor) -> Tensor:
            return self.autoencoder.decode(latents)

        return Latents(self.autoencoder.encode, decoder.weight.T, reconstruct, keep_error=self.use_error_term)

    def operate(self, base: Tensor, source: Tensor) -> Tensor:
        return source

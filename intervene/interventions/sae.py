"""Interchange of a sparse autoencoder's latents."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn

from ..errors import InterventionArgumentError, did_you_mean
from . import saelens
from .base import TrainableIntervention, required
from .featurizers import Latents
from .saelens import Architecture, Normalization

if TYPE_CHECKING:
    from typing_extensions import Self


class JumpReLUAutoencoderIntervention(TrainableIntervention):
    """SAE interchange: ``base + (z' - z) W_dec``, z' the base's latents z with the chosen ones of the source.

    The latents of a sparse autoencoder, ``z = act((x - b_dec) W_enc + b_enc)`` (``x`` alone without
    ``apply_b_dec_to_input``), with the activation of its architecture:

    - ``jumprelu``: ``p * (p > threshold)`` for p > 0 (Rajamanoharan et al. 2024, https://arxiv.org/abs/2407.14435)
    - ``topk``: relu of the k largest of each position, 0 for the others (Gao et al. 2024,
      https://arxiv.org/abs/2406.04093)
    - ``standard``: relu (Bricken et al. 2023, "Towards Monosemanticity"; Cunningham et al. 2023,
      https://arxiv.org/abs/2309.08600)

    The base keeps its reconstruction error, so that writing back its own latents changes nothing; with
    ``use_error_term=False`` the result is the reconstruction from z'. `from_saelens` loads a SAE that SAELens saved.
    ``subspaces`` (and ``subspace_partition``) choose latents.

    Shapes: base (batch, ..., width), source broadcasts to it; latents (batch, ..., m) with m ``latent_dim``, or
    ``low_rank_dimension`` as pyvene has it; ``W_enc`` (width, m), ``W_dec`` (m, width), ``b_enc`` and ``threshold``
    (m,), ``b_dec`` (width,).
    """

    optional_sizes = ("latent_dim", "low_rank_dimension")

    def __init__(
        self,
        *,
        architecture: Architecture = "jumprelu",
        k: int | None = None,
        apply_b_dec_to_input: bool = False,
        normalize_activations: Normalization = "none",
        rescale_acts_by_decoder_norm: bool = False,
        use_error_term: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value, known in (
            ("architecture", architecture, get_args(Architecture)),
            ("normalize_activations", normalize_activations, get_args(Normalization)),
        ):
            if value not in known:
                raise InterventionArgumentError(
                    f"{name} is one of {', '.join(known)}, not {value!r}.{did_you_mean(str(value), known)}"
                )
        self.latent_dim = self.feature_count()
        width, latents = required(self, "embed_dim"), required(self, "latent_dim")
        if (architecture == "topk") != (k is not None) or (k is not None and not 1 <= k <= latents):
            raise InterventionArgumentError(f"topk, and only topk, needs k= between 1 and {latents} latents, found {k}")
        self.architecture, self.k = architecture, k
        self.apply_b_dec_to_input = apply_b_dec_to_input
        self.normalize_activations = normalize_activations
        self.rescale_acts_by_decoder_norm = rescale_acts_by_decoder_norm
        self.use_error_term = use_error_term
        self.W_dec = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(latents, width)))
        self.W_enc = nn.Parameter(self.W_dec.detach().T.contiguous().clone())
        self.b_enc = nn.Parameter(torch.zeros(latents))
        self.b_dec = nn.Parameter(torch.zeros(width))
        if architecture == "jumprelu":
            self.threshold = nn.Parameter(torch.zeros(latents))

    @classmethod
    def from_saelens(
        cls,
        folder: str | Path,
        *,
        norm_scaling_factor: float | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        **keywords: Any,
    ) -> Self:
        """A SAE from the folder where SAELens saved it: ``cfg.json`` and ``sae_weights.safetensors``.

        Its parameters don't require gradients; ``requires_grad_()`` to train it further.

        Args:
            folder: what ``sae.save_model`` wrote, or one SAE of a downloaded repository.
            norm_scaling_factor: the factor that activations were scaled by in training, for a SAE saved without it
                folded in (``normalize_activations`` is ``expected_average_only_in``).
            dtype: of the parameters; as saved by default.
            device: of the parameters; the CPU by default.
            **keywords: further keywords of the class, ``use_error_term`` for one.

        Raises:
            SAEFormatError: a file is missing, or the architecture or a setting is not one of those above.
            MissingDependencyError: safetensors is not installed.
        """
        settings, weights = saelens.load(Path(folder), norm_scaling_factor)
        made = cls(**settings, **keywords)
        made.to(dtype=weights["W_dec"].dtype)
        made.load_state_dict(weights)
        return made.requires_grad_(False).to(device=device, dtype=dtype)

    def encode(self, x: Tensor) -> Tensor:
        """The latents (..., latent_dim) of activations (..., width)."""
        shift, scale = self._normalization(x)
        x = (x - shift) * scale
        pre = (x - self.b_dec if self.apply_b_dec_to_input else x) @ self.W_enc + self.b_enc
        if self.rescale_acts_by_decoder_norm:
            pre = pre * _norm(self.W_dec).squeeze(-1)
        if self.architecture == "jumprelu":
            return pre.relu() * (pre > self.threshold)
        if self.k is not None:
            values, indices = pre.topk(self.k, dim=-1)
            return torch.zeros_like(pre).scatter(-1, indices, values.relu())
        return pre.relu()

    def decode(self, latents: Tensor, x: Tensor | None = None) -> Tensor:
        """What ``latents`` (..., latent_dim) stand for, (..., width).

        Args:
            x: the activation that they come from; needed where each activation is normalized by itself.
        """
        out = latents @ self._decoder() + self.b_dec
        if self.normalize_activations == "none":
            return out
        if x is None:
            raise InterventionArgumentError(
                f"decoding with {self.normalize_activations} needs the activation: decode(z, x)"
            )
        return out * self._spread(x) + self._normalization(x)[0]

    def feature_count(self) -> int | None:
        return self.low_rank_dimension if self.latent_dim is None else self.latent_dim

    def featurizer(self) -> Latents:
        scale = None if self.normalize_activations == "none" else self._spread
        return Latents(
            self.encode, self._decoder(), lambda x, z: self.decode(z, x), scale=scale, keep_error=self.use_error_term
        )

    def operate(self, base: Tensor, source: Tensor) -> Tensor:
        return source

    def _decoder(self) -> Tensor:
        if self.rescale_acts_by_decoder_norm:
            return self.W_dec / _norm(self.W_dec)
        return self.W_dec

    def _normalization(self, x: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """The shift and the scale that each activation is normalized by, ``(x - shift) * scale``."""
        if self.normalize_activations == "layer_norm":
            return x.mean(-1, keepdim=True), 1 / (x.std(-1, keepdim=True) + 1e-5)
        if self.normalize_activations == "constant_norm_rescale":
            return 0.0, 1 / self._spread(x)
        return 0.0, 1.0

    def _spread(self, x: Tensor) -> Tensor:
        """What a normalized reconstruction is multiplied by, (..., 1)."""
        if self.normalize_activations == "layer_norm":
            return x.std(-1, keepdim=True)
        return _norm(x) / math.sqrt(x.shape[-1])


def _norm(rows: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return norm

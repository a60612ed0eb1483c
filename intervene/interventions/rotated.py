"""Interchange in a learned rotation of the activation: distributed alignment search."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ..errors import InterventionArgumentError
from .base import DistributedRepresentationIntervention, TrainableIntervention, required
from .featurizers import Linear


class RotateLayer(nn.Module):
    """``x @ weight`` with ``weight`` (width, count), whose columns begin, and stay, orthonormal.

    The orthogonality is a parametrization of torch (Lezcano-Casado 2019, https://arxiv.org/abs/1909.09501), so any
    optimizer keeps it. Random from torch's generator.
    """

    weight: Tensor

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, count))
        nn.init.orthogonal_(self.weight)
        parametrizations.orthogonal(self)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        return x.to(weight.dtype) @ weight

    def orthonormal(self) -> Tensor:
        """The weight, computed in full precision under autocast too."""
        with torch.autocast(self._original().device.type, enabled=False):
            return self.weight

    def _original(self) -> Tensor:
        return next(self.parameters())


class _Rotated(TrainableIntervention, DistributedRepresentationIntervention):
    """What the rotated interventions share: a rotation, and the lens to its first directions."""

    rotate_layer: RotateLayer

    def directions(self) -> int:
        """How many of the rotated directions are features, from the first on."""
        raise NotImplementedError

    def featurizer(self) -> Linear:
        weight = self.rotate_layer.orthonormal()[:, : self.directions()]
        return Linear(weight, weight.T)

    def operate(self, base: Tensor, source: Tensor) -> Tensor:
        return source


class RotatedSpaceIntervention(_Rotated):
    """Distributed interchange: ``base + (source - base) R_k R_k^T``, R_k the first k columns of a rotation R.

    Distributed alignment search (Geiger et al. 2023, "Finding Alignments Between Interpretable Causal Variables and
    Distributed Neural Representations", https://arxiv.org/abs/2303.02536). R, ``rotate_layer.weight``, is
    (width, width) and trained; k is ``low_rank_dimension``, all of them by default. With all k the result is the
    source; a subspace is chosen by k, or by ``subspace_partition`` and ``subspaces`` over the rotated directions.

    Shapes: base (batch, ..., width), source broadcasts to it; acts on each position by itself.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width = required(self, "embed_dim")
        _check_rank(self, width)
        self.rotate_layer = RotateLayer(width, width)

    def directions(self) -> int:
        return required(self, "low_rank_dimension" if self.low_rank_dimension is not None else "embed_dim")


class LowRankRotatedSpaceIntervention(_Rotated):
    """Distributed interchange in a subspace: ``base + (source - base) R R^T`` with R (width, k), orthonormal columns.

    As `RotatedSpaceIntervention`, holding and training only the k = ``low_rank_dimension`` directions that are
    swapped (Geiger et al. 2023, https://arxiv.org/abs/2303.02536; Wu et al. 2024, https://arxiv.org/abs/2404.03592).

    Shapes: base (batch, ..., width), source broadcasts to it; acts on each position by itself.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width, rank = required(self, "embed_dim"), required(self, "low_rank_dimension")
        _check_rank(self, width)
        self.rotate_layer = RotateLayer(width, rank)

    def directions(self) -> int:
        return required(self, "low_rank_dimension")


def _check_rank(intervention: TrainableIntervention, width: int) -> None:
    rank = intervention.low_rank_dimension
    if rank is not None and rank > width:
        raise InterventionArgumentError(
            f"{type(intervention).__name__}: low_rank_dimension={rank} is more than the {width} features of the site"
        )

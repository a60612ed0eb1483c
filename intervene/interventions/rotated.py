"""Interchange in a learned rotation of the activation: distributed alignment search."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InterventionArgumentError
from .base import DistributedRepresentationIntervention, TrainableIntervention, required
from .featurizers import Linear
from .rotation import RotateLayer
from .tempered import TemperedIntervention


class RotatedIntervention(TrainableIntervention, DistributedRepresentationIntervention):
    """What the rotated interventions share: the lens to the first `directions` of a learned rotation.

    Attributes:
        rotate_layer: its ``weight`` (width, count) has orthonormal columns, one for each direction.
    """

    rotate_layer: RotateLayer

    def directions(self) -> int:
        """How many of the rotated directions are features, from the first on."""
        return required(self, "embed_dim")

    def feature_count(self) -> int:
        return self.directions()

    def featurizer(self) -> Linear:
        weight = self.rotate_layer.weight[:, : self.directions()]
        return Linear(weight, weight.T)

    def operate(self, base: Tensor, source: Tensor) -> Tensor:
        return source


class RotatedSpaceIntervention(RotatedIntervention):
    """Distributed interchange: ``base + (source - base) R_k R_k^T``, R_k the first k columns of a rotation R.

    Distributed alignment search (Geiger et al. 2023, "Finding Alignments Between Interpretable Causal Variables and
    Distributed Neural Representations", https://arxiv.org/abs/2303.02536). R, ``rotate_layer.weight``, is
    (width, width) and trained; k is ``low_rank_dimension``, all of them by default. With all k the result is the
    source; a subspace is chosen by k, or by ``subspace_partition`` and ``subspaces`` over the rotated directions.

    Shapes: base (batch, ..., width), source broadcasts to it; acts on each position by itself.
    """

    optional_sizes = ("low_rank_dimension",)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width = required(self, "embed_dim")
        _check_rank(self, width)
        self.rotate_layer = RotateLayer(width, width)

    def directions(self) -> int:
        return required(self, "embed_dim" if self.low_rank_dimension is None else "low_rank_dimension")


class LowRankRotatedSpaceIntervention(RotatedIntervention):
    """Distributed interchange in a subspace: ``base + (source - base) R R^T`` with R (width, k), orthonormal columns.

    As `RotatedSpaceIntervention`, holding and training only the k = ``low_rank_dimension`` directions that are
    swapped (Geiger et al. 2023, https://arxiv.org/abs/2303.02536; Wu et al. 2024, https://arxiv.org/abs/2404.03592).

    Shapes: base (batch, ..., width), source broadcasts to it; acts on each position by itself.
    """

    optional_sizes = ("low_rank_dimension",)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width, rank = required(self, "embed_dim"), required(self, "low_rank_dimension")
        _check_rank(self, width)
        self.rotate_layer = RotateLayer(width, rank)

    def directions(self) -> int:
        return required(self, "low_rank_dimension")


class BoundlessRotatedSpaceIntervention(TemperedIntervention, RotatedIntervention):
    """Distributed interchange of a learned number of directions: ``base + (source - base) R diag(m) R^T``.

    Boundless DAS (Wu et al. 2023, "Interpretability at Scale: Identifying Causal Mechanisms in Alpaca",
    https://arxiv.org/abs/2305.08809). The i-th rotated direction of n, i from 0, is swapped by
    ``m_i = sigmoid((i + 1/2) / T) * sigmoid((b n - i - 1/2) / T)``: as the temperature T falls, the first b n ones.
    Each direction stands at the middle of its unit interval, so none is swapped by half for being on the edge.

    ``rotate_layer.weight`` R (n, n) and ``intervention_boundaries`` b (1,), from 1/2 and taken between 0 and 1, are
    trained.

    Shapes: base (batch, ..., n), source broadcasts to it; acts on each position by itself.
    """

    def __init__(self, *, temperature: float = 50.0, **kwargs: Any) -> None:
        super().__init__(temperature=temperature, **kwargs)
        width = required(self, "embed_dim")
        self.rotate_layer = RotateLayer(width, width)
        self.intervention_boundaries = nn.Parameter(torch.tensor([0.5]))

    def get_boundary_parameters(self) -> nn.Parameter:
        """The boundary as a share of the directions, (1,)."""
        return self.intervention_boundaries

    def set_intervention_boundaries(self, intervention_boundaries: float | Tensor) -> None:
        """Set the boundary, a share of the directions between 0 and 1."""
        share = float(intervention_boundaries)
        if not 0 <= share <= 1:
            raise InterventionArgumentError(f"a boundary is a share of the directions between 0 and 1, not {share}")
        with torch.no_grad():
            self.intervention_boundaries.fill_(share)

    def boundary(self) -> Tensor:
        """How many directions the boundary takes in, (1,), with gradient."""
        return self.intervention_boundaries.clamp(0, 1) * required(self, "embed_dim")

    def soft_mask(self) -> Tensor:
        middles = torch.arange(required(self, "embed_dim"), device=self.temperature.device) + 0.5
        inside = torch.sigmoid((self.boundary() - middles) / self.temperature)
        return torch.sigmoid(middles / self.temperature) * inside


class SigmoidMaskRotatedSpaceIntervention(TemperedIntervention, RotatedIntervention):
    """Masked distributed interchange: ``base + (source - base) R diag(m) R^T`` with ``m = sigmoid(masks / T)``.

    As `BoundlessRotatedSpaceIntervention` with a mask of its own for each rotated direction, so that any of them may
    be chosen (a differential binary mask as in Huang et al. 2024, https://arxiv.org/abs/2402.17700). ``masks`` (n,),
    from 100, and ``rotate_layer.weight`` R (n, n) are trained.

    Shapes: base (batch, ..., n), source broadcasts to it; acts on each position by itself.
    """

    def __init__(self, *, temperature: float = 50.0, **kwargs: Any) -> None:
        super().__init__(temperature=temperature, **kwargs)
        width = required(self, "embed_dim")
        self.rotate_layer = RotateLayer(width, width)
        self.masks = nn.Parameter(torch.full((width,), 100.0))

    def soft_mask(self) -> Tensor:
        return torch.sigmoid(self.masks / self.temperature)


def _check_rank(intervention: TrainableIntervention, width: int) -> None:
    rank = intervention.low_rank_dimension
    if rank is not None and not 1 <= rank <= width:
        raise InterventionArgumentError(
            f"{type(intervention).__name__}: low_rank_dimension={rank} is not between 1 and the site's {width}"
        )

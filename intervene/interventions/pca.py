"""Interchange of principal components."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InterventionArgumentError, InterventionError
from .base import BasisAgnosticIntervention, DistributedRepresentationIntervention
from .featurizers import Linear

if TYPE_CHECKING:
    from typing_extensions import Self


class PCARotatedSpaceIntervention(BasisAgnosticIntervention, DistributedRepresentationIntervention):
    """Interchange of k principal components: ``base + ((source - base) / s) C^T C * s``, C (k, width).

    The features are ``(x - mean) / s`` along the principal components C, orthonormal rows; what lies outside them
    stays the base's. They come from `fit`, or from ``pca`` (anything with ``components_``, as scikit-learn's PCA),
    ``pca_mean`` and ``pca_std``. ``subspace_partition`` and ``subspaces`` choose among the components. A baseline
    for learned rotations (Geiger et al. 2023, https://arxiv.org/abs/2303.02536). Not trained.

    Shapes: base (batch, ..., width), source broadcasts to it; ``pca_components`` (k, width), ``pca_mean`` and
    ``pca_std`` (width,).
    """

    optional_sizes = ("low_rank_dimension",)
    late_buffers = ("pca_components", "pca_mean", "pca_std")

    pca_components: Tensor | None
    pca_mean: Tensor | None
    pca_std: Tensor | None

    def __init__(self, *, pca: Any = None, pca_mean: Any = None, pca_std: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Saved as buffers, wherever they come from, so a spec needn't say them.
        self._given = {k: v for k, v in self._given.items() if k not in ("pca", "pca_mean", "pca_std")}
        for name in self.late_buffers:
            self.register_buffer(name, None)
        if pca is not None:
            components = torch.as_tensor(pca.components_, dtype=torch.float32)[: self.low_rank_dimension]
            if self.low_rank_dimension is not None and len(components) < self.low_rank_dimension:
                raise InterventionArgumentError(
                    f"PCARotatedSpaceIntervention: low_rank_dimension={self.low_rank_dimension}, and pca has "
                    f"{len(components)} components"
                )
            mean = getattr(pca, "mean_", None) if pca_mean is None else pca_mean
            self._set(components, mean, pca_std)
        elif pca_mean is not None or pca_std is not None:
            raise InterventionArgumentError("PCARotatedSpaceIntervention: pca_mean and pca_std go with pca=")

    def fit(self, activations: Tensor | Iterable[Tensor], *, standardize: bool = False) -> Self:
        """Take the principal components of activations, the ``low_rank_dimension`` first or all.

        Args:
            activations: (..., width), or several such; all are held in memory at once.
            standardize: divide each feature by its standard deviation first.

        Raises:
            InterventionArgumentError: there are fewer activations than components.
        """
        several = [activations] if isinstance(activations, Tensor) else activations
        rows = torch.cat([a.detach().reshape(-1, a.shape[-1]) for a in several]).to(torch.float32)
        count = rows.shape[-1] if self.low_rank_dimension is None else self.low_rank_dimension
        if len(rows) < count:
            raise InterventionArgumentError(f"{count} principal components need as many activations, not {len(rows)}")
        std = rows.std(0) if standardize else None
        centred = (rows - rows.mean(0)) / (1 if std is None else std)
        directions = torch.linalg.svd(centred, full_matrices=False).Vh
        self._set(directions[:count], rows.mean(0), std)
        return self

    def feature_count(self) -> int | None:
        return self.embed_dim if self.low_rank_dimension is None else self.low_rank_dimension

    def featurizer(self) -> Linear:
        if self.pca_components is None or self.pca_mean is None or self.pca_std is None:
            raise InterventionError(
                "PCARotatedSpaceIntervention has no components yet: fit(activations), pca=, or load_state_dict"
            )
        encode = self.pca_components.T / self.pca_std.unsqueeze(-1)
        return Linear(encode, self.pca_components * self.pca_std, self.pca_mean)

    def operate(self, base: Tensor, source: Tensor) -> Tensor:
        return source

    def _set(self, components: Tensor, mean: Any, std: Any) -> None:
        self.pca_components = components.contiguous()
        self.pca_mean = _row(0.0 if mean is None else mean, components)
        self.pca_std = _row(1.0 if std is None else std, components)
        if not bool((self.pca_std > 0).all()):
            raise InterventionArgumentError("PCARotatedSpaceIntervention: a feature has standard deviation 0")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        shapes = {n: tuple(state_dict[prefix + n].shape) for n in self.late_buffers if prefix + n in state_dict}
        components = shapes.get("pca_components", ())
        width = components[-1] if self.embed_dim is None and components else self.embed_dim
        fits = len(components) == 2 and components[-1] == width and self.low_rank_dimension in (None, components[0])
        if shapes and not (fits and shapes.get("pca_mean") == shapes.get("pca_std") == (width,)):
            errors: list[str] = args[-1]
            errors.append(
                f"{prefix}pca_components are (components, width), pca_mean and pca_std (width,), here with width "
                f"{width} and {self.low_rank_dimension or 'any number of'} components; found {shapes}"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, *args)


def _row(value: Any, components: Tensor) -> Tensor:
    row = torch.as_tensor(value, dtype=components.dtype, device=components.device)
    return row.expand(components.shape[-1]).contiguous()

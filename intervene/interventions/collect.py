"""Collecting activations."""

from __future__ import annotations

from torch import Tensor

from ..errors import InterventionError
from .base import ConstantSourceIntervention
from .subspaces import Subspaces, gather


class CollectIntervention(ConstantSourceIntervention):
    """Collection: the result is ``base`` at the chosen features, which the model keeps; the activation flows on as is.

    For probing (Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes",
    https://arxiv.org/abs/1610.01644) and analysis.

    Shapes: base (batch, ..., width); the result is (batch, ..., chosen features), all of them unless ``subspaces`` or
    ``interchange_dim`` say otherwise.
    """

    collects = True

    def forward(self, base: Tensor, source: Tensor | None = None, subspaces: Subspaces | None = None) -> Tensor:
        if source is not None:
            raise InterventionError("CollectIntervention takes no source; it collects what is there")
        self.check_width(base)
        chosen = self.chosen(base, subspaces)
        return base if chosen is None else gather(chosen, base)

"""Skipping a module."""

from __future__ import annotations

from torch import Tensor

from .base import BasisAgnosticIntervention, LocalistRepresentationIntervention


class SkipIntervention(BasisAgnosticIntervention, LocalistRepresentationIntervention):
    """Skip: the module's input takes the place of its output, ``x`` for ``f(x)``.

    Layer ablation: at ``block_output`` the residual stream passes the block by (Veit et al. 2016, "Residual Networks
    Behave Like Ensembles of Relatively Shallow Networks", https://arxiv.org/abs/1605.06431). The source is the input
    of the site's module, in the same run unless a source run is given.

    Shapes: base (batch, ..., width), the module's input the same.
    """

    source_is_input = True

    def operate(self, base: Tensor, source: Tensor) -> Tensor:
        return source

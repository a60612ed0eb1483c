"""A matrix with orthonormal columns that any optimizer can train."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ..errors import InterventionArgumentError, ShapeMismatchError

_TORCHS = "parametrizations.weight."


class RotateLayer(nn.Module):
    """``x @ weight`` with ``weight`` (width, count), whose columns are orthonormal whatever an optimizer does.

    The weight is the Q of a QR decomposition of ``unconstrained``, with the signs that make R's diagonal positive, so
    it is a smooth function of it (QR as a retraction: Absil, Mahony & Sepulchre 2008, "Optimization Algorithms on
    Matrix Manifolds", section 4.1). Gradients cost a fraction of what torch's own parametrizations by a matrix
    exponential or by reflections do. Begins uniform among all such matrices, from torch's random state.

    Attributes:
        unconstrained: (width, count), trained.
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.unconstrained = nn.Parameter(nn.init.orthogonal_(torch.empty(width, count)))

    @property
    def weight(self) -> Tensor:
        """(width, count), orthonormal columns; computed in float32 at least."""
        full = self.unconstrained.to(torch.promote_types(self.unconstrained.dtype, torch.float32))
        q, r = torch.linalg.qr(full)
        weight: Tensor = q * torch.where(r.diagonal() < 0, -1.0, 1.0).to(q.dtype)
        return weight.to(self.unconstrained.dtype)

    @weight.setter
    def weight(self, weight: Tensor) -> None:
        found, wanted = tuple(weight.shape), tuple(self.unconstrained.shape)
        if found != wanted:
            raise ShapeMismatchError(f"a rotation of shape {wanted} can't be set to one of shape {found}")
        gram = weight.detach().double().T @ weight.detach().double()
        if not torch.allclose(gram, torch.eye(wanted[1], dtype=gram.dtype, device=gram.device), atol=1e-3):
            raise InterventionArgumentError("a rotation's columns are orthonormal; these aren't")
        with torch.no_grad():
            self.unconstrained.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        return x.to(weight.dtype) @ weight

    def extra_repr(self) -> str:
        return "width={}, count={}".format(*self.unconstrained.shape)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        theirs = {k: state_dict.pop(k) for k in list(state_dict) if k.startswith(prefix + _TORCHS)}
        if theirs:
            weight = torchs_orthogonal({k.removeprefix(prefix): tensor for k, tensor in theirs.items()})
            state_dict[prefix + "unconstrained"] = weight
        super()._load_from_state_dict(state_dict, prefix, *args)


def torchs_orthogonal(state: dict[str, Tensor]) -> Tensor:
    """The weight whose ``torch.nn.utils.parametrizations.orthogonal`` has the tensors ``state``, as pyvene saves it.

    Args:
        state: ``parametrizations.weight.original`` and, for a square weight, ``parametrizations.weight.0.base``.

    Raises:
        RuntimeError: they don't fit together.
    """
    original = state[_TORCHS + "original"]
    layer = nn.Module()
    layer.weight = nn.Parameter(nn.init.orthogonal_(torch.empty_like(original, device="cpu")))
    parametrizations.orthogonal(layer)
    layer.load_state_dict(state)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach().to(original.device)

"""Ablation: taking a direction out of what a model computes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..adapted import Adapted
from ..errors import ShapeMismatchError
from ..sites import Site

# What adds to the residual stream: with the direction gone from all of these it is gone from the stream.
_ADDED = ("embedding_output", "attention_output", "cross_attention_output", "mlp_output", "mixer_output")


def ablate(direction: Tensor) -> Callable[[Tensor], Tensor]:
    """A write that takes the component along ``direction`` out: x - (x . d) d, with d of length one.

    Args:
        direction: (feature,), of any length but zero.

    Raises:
        ShapeMismatchError: in the forward, an activation of another width; both are named.
        ValueError: a direction that isn't one: of another shape, or zero.
    """
    if direction.dim() != 1 or not bool(direction.norm() > 0):
        raise ValueError(f"a direction is one vector that isn't zero; found shape {tuple(direction.shape)}")
    unit = direction / direction.norm()

    def write(part: Tensor) -> Tensor:
        if part.shape[-1] != len(unit):
            raise ShapeMismatchError(f"the direction has {len(unit)} features, the activation {part.shape[-1]}")
        along = unit.to(part.device, part.dtype)
        left: Tensor = part - (part @ along).unsqueeze(-1) * along
        return left

    return write


def ablation_writes(adapted: Adapted, direction: Tensor) -> dict[Site, Callable[[Tensor], Tensor]]:
    """Writes that take ``direction`` out of the residual stream at every layer and position, for a session.

    As Arditi et al. 2024 ("Refusal in Language Models Is Mediated by a Single Direction",
    https://arxiv.org/abs/2406.11717): everything that adds to the stream is written, so that no later layer can put the
    direction back.
    """
    write = ablate(direction)
    return {site: write for site in adapted.sites if site.component in _ADDED}

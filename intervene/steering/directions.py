"""Directions: the difference of two means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..adapted import Adapted
from ..errors import ShapeMismatchError
from ..sites import Site, Values
from ..sweeps.inputs import last_real

Inputs = Mapping[str, Any]


def last_positions(inputs: Inputs) -> Tensor:
    """The column of each row's last real token, (batch, 1): by the attention mask, else the last column.

    Raises:
        ShapeMismatchError: a row without a real token.
    """
    mask = inputs.get("attention_mask")
    if mask is None:
        ids: Tensor = inputs["input_ids"]
        return torch.full((ids.shape[0], 1), ids.shape[1] - 1)
    last = last_real(mask)
    empty = (last < 0).nonzero().flatten().tolist()
    if empty:
        raise ShapeMismatchError(f"rows {empty} have no real token")
    return last.unsqueeze(1)


def at_last_token(adapted: Adapted, sites: Iterable[Site | str], inputs: Inputs) -> dict[Site, Tensor]:
    """What flows by at each site at every row's last real token, the position axis kept with one entry."""
    whole = [adapted[s] if isinstance(s, str) else s for s in sites]
    positions = last_positions(inputs)
    chosen = {site.at(positions=positions): site for site in whole}
    values: Values = adapted.read(list(chosen), **inputs)
    return {site: values[narrow] for narrow, site in chosen.items()}


def difference_of_means(
    adapted: Adapted, sites: Iterable[Site | str], positive: Inputs, negative: Inputs
) -> dict[Site, Tensor]:
    """The direction from one set of inputs to another at each site: the mean over the one less that over the other.

    Read at every row's last real token. As in contrastive activation addition (Rimsky et al. 2024, "Steering Llama 2
    via Contrastive Activation Addition", https://arxiv.org/abs/2312.06681) and the directions of Arditi et al. 2024
    (https://arxiv.org/abs/2406.11717).

    Args:
        sites: sites or addresses, with a position axis.
        positive: the model's inputs that show what is wanted.
        negative: the same number of inputs, or another, that don't.

    Returns:
        For each site the direction, (feature,) or (head, feature).
    """
    listed = list(sites)
    more, less = (at_last_token(adapted, listed, inputs) for inputs in (positive, negative))
    return {site: _mean(site, more[site]) - _mean(site, less[site]) for site in more}


def _mean(site: Site, values: Tensor) -> Tensor:
    axes = site.axes or ("batch", "position", "feature")
    return values.float().mean(0).squeeze(axes.index("position") - 1)

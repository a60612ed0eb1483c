"""The selective state-space model, written out: the oracle of what a scan computes, and of what its cache keeps.

The recurrence is that of Gu and Dao 2023 (https://arxiv.org/abs/2312.00752, section 3); with one decay and skip for
each head in place of each feature it is that of Dao and Gu 2024 (https://arxiv.org/abs/2405.21060).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def selective_scan(source: Tensor, step: Tensor, b: Tensor, c: Tensor, decay: Tensor, skip: Tensor) -> Tensor:
    """Each position's output, position after position, from an empty state.

    Args:
        source: (batch, position, features).
        step: (batch, position, features or heads), before its softplus.
        b: (batch, position, groups, state): how the state takes up the source.
        c: (batch, position, groups, state): how it is read.
        decay: (features, state) or (heads,), negative.
        skip: (features or heads,).

    Returns:
        (batch, position, features), in float32.
    """
    features = source.shape[-1]
    # One for each feature, of what there is one of for each head or group; heads and groups are consecutive features.
    dt = _widened(nn.functional.softplus(step.float()), -1, features)
    b, c = _widened(b.float(), -2, features), _widened(c.float(), -2, features)
    decay = _widened(decay.float().reshape(decay.shape[0], -1), 0, features)
    skip = _widened(skip.float(), 0, features)
    source = source.float()
    state = torch.zeros_like(b[:, 0])
    outputs = []
    for position in range(source.shape[1]):
        now = dt[:, position, :, None]
        state = (now * decay).exp() * state + now * b[:, position] * source[:, position, :, None]
        outputs.append((state * c[:, position]).sum(-1) + skip * source[:, position])
    return torch.stack(outputs, 1)


def _widened(value: Tensor, axis: int, size: int) -> Tensor:
    return value.repeat_interleave(size // value.shape[axis], axis)


def split(value: Tensor, groups: int) -> Tensor:
    """(..., groups * state) as (..., groups, state)."""
    return value.reshape(*value.shape[:-1], groups, -1)


def parameter(module: nn.Module, path: str) -> Tensor:
    """The parameter at ``path`` below ``module``."""
    return module.get_parameter(path).detach()


def recurrent_states(past: Mapping[str, Any]) -> list[Tensor]:
    """Each layer's (batch, feature, state) in the cache among a call's arguments ``past``."""
    (cache,) = past.values()
    if hasattr(cache, "layers"):
        states = [layer.recurrent_states[0] for layer in cache.layers]
    else:
        states = [state for _, state in cache.key_value_memory_dict.values()]
    return [state.flatten(1, -2) for state in states]

"""A transformers cache that hands each layer the prefix's keys and values, and keeps none of what comes after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class PrefixLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values before the first column of a forward, copied for its batch as that comes by.

    A layer's attention asks once. Were they kept as in generation, a forward's memory would grow with each layer.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        """
        Args:
            keys: of the base's rows: (rows, heads, columns, features).
            values: shaped likewise.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values = keys, values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The keys and values of all columns, those of the prefix first."""
        return _after(self.keys, key_states), _after(self.values, value_states)


def _after(held: Tensor, new: Tensor) -> Tensor:
    """``new`` after ``held``, of whose rows its own are copies, all of them again and again."""
    copies = held.expand(new.shape[0] // held.shape[0], *held.shape).flatten(0, 1)
    return torch.cat([copies, new], dim=-2)


def prefix_cache(layers: Sequence[tuple[Tensor, Tensor]], columns: int) -> Cache:
    """A cache of the first ``columns`` of each layer's keys and values."""
    return Cache(layers=[PrefixLayer(keys[:, :, :columns], values[:, :, :columns]) for keys, values in layers])

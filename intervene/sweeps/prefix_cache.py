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

    def __init__(self, keys: Tensor, values: Tensor, rows: Sequence[int]) -> None:
        """
        Args:
            keys: of the base's rows: (rows, heads, columns, features).
            values: shaped likewise.
            rows: which of the base's rows each row of the batch is a copy of.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values = self._before = (keys, values)
        self._rows = rows
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The keys and values of all columns, those of the prefix first."""
        keys, values = self._before
        return self._after(keys, key_states), self._after(values, value_states)

    def _after(self, held: Tensor, new: Tensor) -> Tensor:
        alike = held.shape[0] == 1
        copies = held.expand(len(self._rows), -1, -1, -1) if alike else held[torch.tensor(self._rows)]
        return torch.cat([copies, new], dim=-2)


def prefix_cache(layers: Sequence[tuple[Tensor, Tensor]], columns: int, origins: Sequence[Sequence[int]]) -> Cache:
    """A cache of the first ``columns`` of each layer's keys and values.

    Args:
        origins: for each layer, which of the base's rows each row of its batch is a copy of.
    """
    return Cache(
        layers=[
            PrefixLayer(keys[:, :, :columns], values[:, :, :columns], rows)
            for (keys, values), rows in zip(layers, origins, strict=True)
        ]
    )

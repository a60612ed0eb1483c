"""One forward whose batch grows: rows of patched runs join at the first block where they differ from the base run.

Blocks before a row's own never compute it, so a layer x position sweep costs the triangle below its diagonal, in
large matrix products and with one pass of Python overhead, where a loop computes every run from the start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from ..ports import Handle


def repeated(inputs: Mapping[str, Any], rows: int, origins: Sequence[int]) -> dict[str, Any]:
    """Model inputs with more rows: row ``i`` is a copy of row ``origins[i]`` of the ``rows`` there are."""
    index = torch.tensor(list(origins))
    return {
        name: value.index_select(0, index.to(value.device))
        if isinstance(value, Tensor) and value.dim() and value.shape[0] == rows
        else value
        for name, value in inputs.items()
    }


class Branching:
    """Adds rows to the batch at the entrance of blocks, for the time of a ``with``.

    Args:
        blocks: the model's blocks in order; each one's first argument is the hidden state (batch, ...).
        rows: rows of the batch that the forward starts with.
        joining: for a block's index, which of the starting rows each joining row is a copy of.
    """

    def __init__(self, blocks: Sequence[nn.Module], rows: int, joining: Mapping[int, Sequence[int]]) -> None:
        self._blocks = blocks
        self._rows = rows
        self._joining = joining
        self._handles: list[Handle] = []
        self._origins = list(range(rows))

    def __enter__(self) -> Branching:
        for layer, block in enumerate(self._blocks):
            self._handles.append(block.register_forward_pre_hook(self._hook(layer), with_kwargs=True))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _hook(self, layer: int) -> Any:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if layer == 0:
                self._origins = list(range(self._rows))
            hidden, rest = args[0], args[1:]
            new = list(self._joining.get(layer, ()))
            if new:
                index = torch.tensor(new, device=hidden.device)
                hidden = torch.cat([hidden, hidden.index_select(0, index)])
                self._origins += new
            if self._rows == 1 or len(self._origins) == self._rows:
                # What was made for a single row broadcasts to all of them.
                return (hidden, *rest), kwargs
            grown = tuple(self._grow(value) for value in rest)
            return (hidden, *grown), {name: self._grow(value) for name, value in kwargs.items()}

        return hook

    def _grow(self, value: Any) -> Any:
        """Masks and position encodings made for the starting rows, each row's taken from its origin."""
        if isinstance(value, Tensor) and value.dim() > 1 and value.shape[0] == self._rows:
            return value.index_select(0, torch.tensor(self._origins, device=value.device))
        if isinstance(value, tuple):
            return tuple(self._grow(v) for v in value)
        return value

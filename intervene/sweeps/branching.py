"""One forward whose batch grows: rows of patched runs join where they first differ from the base run.

Blocks before that never compute them, so a layer x position sweep costs the triangle below its diagonal, in large
matrix products and with one pass of Python overhead, where a loop computes every run from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from ..ports import Handle, Input, Output


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
    """Adds rows to the batch on its way from block to block, for the time of a ``with`` and one forward.

    Args:
        blocks: the model's blocks in order; each one's first argument is the hidden state (batch, ...), its first
            output the next one's.
        rows: rows of the batch that the forward starts with.
        joining: for the index of the first block that computes a joining row (the number of blocks, where none
            does), which of the starting rows that row is a copy of.
    """

    def __init__(self, blocks: Sequence[nn.Module], rows: int, joining: Mapping[int, Sequence[int]]) -> None:
        self._blocks = blocks
        self._rows = rows
        self._joining = joining
        self._handles: list[Handle] = []
        self._origins = list(range(rows))

    def __enter__(self) -> Branching:
        for layer, block in enumerate(self._blocks):
            if layer == 0 and 0 in self._joining:
                self._handles.append(Input().attach(block, self._join(0)))
            self._handles.append(block.register_forward_pre_hook(self._grow_arguments, with_kwargs=True))
            if layer + 1 in self._joining:
                # At this block's output, not the next one's input: a write to the output must find the rows.
                self._handles.append(Output().attach(block, self._join(layer + 1)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _join(self, layer: int) -> Callable[[Tensor], Tensor]:
        new = self._joining[layer]

        def join(hidden: Tensor) -> Tensor:
            self._origins += new
            return torch.cat([hidden, hidden[torch.tensor(new, device=hidden.device)]])

        return join

    def _grow_arguments(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._rows == 1 or len(self._origins) == self._rows:
            # What was made for a single row broadcasts to all of them.
            return None
        return tuple(map(self._grow, args)), {name: self._grow(value) for name, value in kwargs.items()}

    def _grow(self, value: Any) -> Any:
        """Masks and position encodings made for the starting rows, each row's taken from its origin."""
        if isinstance(value, Tensor) and value.dim() > 1 and value.shape[0] == self._rows:
            return value.index_select(0, torch.tensor(self._origins, device=value.device))
        if isinstance(value, tuple):
            return tuple(self._grow(v) for v in value)
        return value

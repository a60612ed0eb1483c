"""What is collected in a generation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import SelectionError
from ..selection import find_axis


class Collected(list[Any]):
    """What an intervention that collects saw in a generation, forward by forward.

    Each entry is a tensor with ``axes``; where the rows of a forward differ in how many positions were collected it
    is a list of them, one for each row.

    Attributes:
        axes: their names, for example ``("batch", "position", "feature")``; under beam search or with several
            sequences the batch has that many rows for each of the prompt's.
        columns: for each forward the columns of the sequence that the positions are, the same for every row or by row.
        prompt: how many columns the prompt has; later ones are generated tokens.
    """

    def __init__(self, axes: tuple[str, ...]) -> None:
        super().__init__()
        self.axes = axes
        self.columns: list[Any] = []
        self.prompt = 0

    def joined(self) -> Tensor:
        """Every forward's positions in one tensor.

        Raises:
            SelectionError: rows differ in how many positions were collected.
        """
        if not all(isinstance(entry, Tensor) for entry in self):
            raise SelectionError("rows differ in how many positions were collected; take the forwards one by one")
        return torch.cat(list(self), dim=find_axis("positions", self.axes, len(self.axes)))

"""What is collected in a generation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import SelectionError
from ..selection import Frame, find_axis

Columns = tuple[int, ...] | Sequence[tuple[int, ...]]
"""Columns of the sequence, the same for every row or by row."""


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


class Gathering:
    """Puts together what one intervention collects, whose patches see some rows or columns of a forward each."""

    def __init__(self, axes: tuple[str, ...]) -> None:
        self._axes = axes
        self._prompt = 0
        self._frame: Frame | None = None
        self._forwards: list[list[tuple[Sequence[int] | None, Columns, Tensor]]] = []

    def add(self, frame: Frame, prompt: int, rows: Sequence[int] | None, columns: Columns, seen: Tensor) -> None:
        """Keep what was seen of some rows (None for all) in the forward of ``frame``."""
        if frame is not self._frame:
            self._frame, self._prompt = frame, prompt
            self._forwards.append([])
        self._forwards[-1].append((rows, columns, seen))

    def result(self) -> Collected:
        """All of it, forward by forward."""
        collected = Collected(self._axes)
        collected.prompt = self._prompt
        for pieces in self._forwards:
            if all(rows is None and _alike(columns) for rows, columns, _ in pieces):
                axis = find_axis("positions", self._axes, len(self._axes))
                tensors = [seen for _, _, seen in pieces]
                collected.append(tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=axis))
                collected.columns.append(tuple(column for _, columns, _ in pieces for column in columns))
                continue
            by_row = dict(_by_row(pieces))
            found = [by_row[row] for row in sorted(by_row)]
            alike = len({seen.shape for _, seen in found}) == 1
            collected.append(torch.stack([seen for _, seen in found]) if alike else [seen for _, seen in found])
            collected.columns.append([columns for columns, _ in found])
        return collected


def _alike(columns: Columns) -> bool:
    return isinstance(columns, tuple)


def _by_row(
    pieces: Sequence[tuple[Sequence[int] | None, Columns, Tensor]],
) -> Iterator[tuple[int, tuple[Any, Tensor]]]:
    for rows, columns, seen in pieces:
        for index, row in enumerate(range(len(seen)) if rows is None else rows):
            yield row, (columns if _alike(columns) else columns[index], seen[index])

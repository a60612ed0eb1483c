"""Which features an intervention acts on: a partition into subspaces, and the choice of some for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InterventionArgumentError, SelectionError

Subspaces = int | Sequence[int] | Sequence[Sequence[int]] | Tensor
Partition = Sequence[Sequence[int] | range]


def partition(given: Partition, width: int | None) -> tuple[tuple[int, ...], ...]:
    """The features of each subspace.

    Args:
        given: for each subspace ``[start, stop]`` (``stop`` exclusive), or its features if there are not two of them.
        width: how many features there are, None when not known yet.

    Raises:
        InterventionArgumentError: a feature stands in two subspaces or does not exist, or a subspace is empty.
    """
    parts = [_features(entry, width) for entry in given]
    owner: dict[int, int] = {}
    for index, part in enumerate(parts):
        for feature in part:
            if feature in owner:
                raise InterventionArgumentError(
                    f"subspace_partition: feature {feature} stands in subspace {owner[feature]} and in {index}; "
                    f"subspaces must not overlap"
                )
            if feature < 0 or (width is not None and feature >= width):
                raise InterventionArgumentError(
                    f"subspace_partition: subspace {index} names feature {feature}; there are {width} (0 to "
                    f"{'...' if width is None else width - 1})"
                )
            owner[feature] = index
    return tuple(parts)


def _features(entry: Sequence[int] | range, width: int | None) -> tuple[int, ...]:
    numbers = tuple(int(n) for n in entry)
    found = numbers
    if len(numbers) == 2 and not isinstance(entry, range):
        start, stop = numbers
        # One feature too many is enough to be refused for, however many more were asked for.
        found = tuple(range(start, stop if width is None else min(stop, max(start, width) + 1)))
    if not found:
        raise InterventionArgumentError(
            f"subspace_partition: {list(entry)} has no features; [start, stop] excludes stop"
        )
    return found


def chosen_features(
    subspaces: Subspaces, parts: tuple[tuple[int, ...], ...] | None, rows: int, width: int
) -> list[list[int]]:
    """For each batch row, the features that its subspaces hold; without a partition each feature is a subspace."""
    count = width if parts is None else len(parts)
    chosen = []
    for row in _by_row(subspaces, rows):
        wrong = [s for s in row if not 0 <= s < count]
        if wrong:
            raise SelectionError(f"subspaces {wrong} do not exist: there are {count} (0 to {count - 1})")
        chosen.append(sorted({f for s in row for f in ((s,) if parts is None else parts[s])}))
    return chosen


def _by_row(subspaces: Subspaces, rows: int) -> list[list[int]]:
    listed: Any = subspaces.tolist() if isinstance(subspaces, Tensor) else subspaces
    given: list[Any] = [listed] if isinstance(listed, int) else list(listed)
    if not given:
        raise SelectionError("subspaces choose nothing; None stands for all features")
    if all(isinstance(entry, int) for entry in given):
        return [given] * rows
    if not all(isinstance(entry, Sequence) for entry in given):
        raise SelectionError(f"subspaces are a list of ints for each batch row, found {subspaces!r}")
    if len(given) != rows:
        raise SelectionError(f"subspaces were given for {len(given)} rows, the activation has {rows}")
    return [list(entry) for entry in given]


def row_mask(chosen: list[list[int]], like: Tensor) -> Tensor:
    """(rows, 1, ..., features), True at each row's chosen features; broadcasts to ``like``."""
    mask = torch.zeros(len(chosen), like.shape[-1], dtype=torch.bool)
    for row, features in enumerate(chosen):
        mask[row, features] = True
    return mask.to(like.device).reshape(len(chosen), *[1] * (like.dim() - 2), like.shape[-1])


def gather(chosen: list[list[int]], values: Tensor) -> Tensor:
    """(rows, ..., chosen features) of ``values`` (rows, ..., features)."""
    counts = {len(features) for features in chosen}
    if len(counts) != 1 or not chosen[0]:
        raise SelectionError(
            f"collecting needs as many features for each row, and one at least; there are {sorted(counts)}"
        )
    index = torch.tensor(chosen, device=values.device)
    index = index.reshape(len(chosen), *[1] * (values.dim() - 2), index.shape[-1])
    return values.gather(-1, index.expand(*values.shape[:-1], index.shape[-1]))

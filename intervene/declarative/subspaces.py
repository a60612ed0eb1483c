"""Subspaces: which parts of an intervention's partition a call acts on, in every form that it may be said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import SelectionError

BySample = list[list[int]] | list[int]
"""An intervention's subspaces for each batch row, or the same for every row."""


def by_intervention(given: Any, count: int, batch: int | None) -> list[BySample | None]:
    """For each intervention, the subspaces of every row alike or of each; None where it acts on all of its features.

    Args:
        given: an int or a flat list for every intervention and row; a list with an entry for each intervention: None,
            an int, a flat list for every row, or a list for each row; None for all features everywhere.
        count: how many interventions there are.
        batch: how many rows, if known.

    Raises:
        SelectionError: another number of interventions or rows.
    """
    given = given.tolist() if hasattr(given, "tolist") else given
    if given is None:
        return [None] * count
    if _flat(given):
        return [_rows(given, batch)] * count
    if not isinstance(given, (list, tuple)):
        raise SelectionError(f"subspaces are an int, or a list with an entry for each intervention, not {given!r}")
    if len(given) != count:
        raise SelectionError(f"subspaces were given for {len(given)} interventions, there are {count}: {given!r}")
    return [None if entry is None else _rows(entry, batch) for entry in given]


def _rows(entry: Any, batch: int | None) -> BySample:
    entry = entry.tolist() if hasattr(entry, "tolist") else entry
    if _flat(entry):
        return [entry] if isinstance(entry, int) else list(entry)
    rows = list(entry) if isinstance(entry, Sequence) and not isinstance(entry, str) else None
    if rows is None or not all(isinstance(row, (list, tuple)) and _flat(row) for row in rows):
        raise SelectionError(f"an intervention's subspaces are ints, or a list of ints for each row, not {entry!r}")
    if batch is not None and len(rows) != batch:
        raise SelectionError(f"subspaces were given for {len(rows)} rows, the batch has {batch}: {entry!r}")
    return [list(row) for row in rows]


def _flat(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool)
    return isinstance(value, (list, tuple)) and bool(value) and all(type(v) is int for v in value)

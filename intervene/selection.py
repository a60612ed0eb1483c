"""Selections: the positions, heads, feature dims and batch rows of a site that are meant.

A selection is data. Against an activation of known shape, at a known place in the sequence, it becomes a lens.
Positions are columns of the prompt, counted from 0; negative ones count from the prompt's end. Under a key-value
cache a forward sees the columns from ``frame.offset`` on, and a selection picks those of its columns that pass by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Union

import torch
from torch import Tensor

from .errors import SelectionError
from .lenses import Lens, Narrow, Take, TakePerRow, Whole


@dataclass(frozen=True)
class Span:
    """A `slice` that can be hashed on every supported Python."""

    start: int | None
    stop: int | None
    step: int | None

    def indices(self, size: int) -> tuple[int, ...]:
        return tuple(range(size)[slice(self.start, self.stop, self.step)])

    def __str__(self) -> str:
        parts = [self.start, self.stop] + ([self.step] if self.step is not None else [])
        return ":".join("" if p is None else str(p) for p in parts)


Indices = tuple[int, ...]
PerRow = tuple[Indices, ...]
Choice = Union[Span, Indices, PerRow]
Selectable = Union[int, slice, Sequence[int], Sequence[Sequence[int]], Tensor]


@dataclass(frozen=True)
class Frame:
    """Where in the sequence a forward stands: ``offset`` columns were computed by earlier ones."""

    offset: int = 0


@dataclass(frozen=True)
class Picked:
    """A selection resolved for one activation.

    ``entries`` says which of the selection's explicit positions pass by in this forward, by their place in the
    list: None when all of them do, or when positions were not listed.
    """

    lens: Lens
    entries: Indices | None = None


@dataclass(frozen=True)
class Selection:
    """Which rows, heads, positions and feature dims; None means all of that axis.

    ``call`` chooses one of several calls of a module in one forward, counted from 0.
    """

    rows: Span | Indices | None = None
    heads: Span | Indices | None = None
    positions: Choice | None = None
    dims: Span | Indices | None = None
    call: int | None = None

    @property
    def narrows(self) -> bool:
        """Whether any axis is narrowed."""
        return any(c is not None for c in (self.rows, self.heads, self.positions, self.dims))

    @property
    def listed(self) -> frozenset[int]:
        """The positions named one by one for all rows alike; each must be seen once before a session ends."""
        if self.positions is None or isinstance(self.positions, Span) or _per_row(self.positions):
            return frozenset()
        return frozenset(self.positions)  # type: ignore[arg-type]

    def narrowed(self, **choices: Selectable | None) -> Selection:
        """This selection with more axes narrowed.

        Raises:
            SelectionError: an axis that is narrowed already, a repeated index, or a choice that isn't one.
        """
        normal: dict[str, Any] = {}
        for axis, choice in choices.items():
            if choice is None:
                continue
            if getattr(self, axis) is not None:
                raise SelectionError(f"{axis} were chosen already ({getattr(self, axis)}); start from the whole site")
            if axis == "call":
                if not isinstance(choice, int) or choice < 0:
                    raise SelectionError(f"call is a count from 0, not {choice!r}")
                normal[axis] = choice
            else:
                normal[axis] = _normal(axis, choice)
        return replace(self, **normal)

    def resolve(self, shape: Sequence[int], axes: Sequence[str] | None, frame: Frame = Frame()) -> Picked | None:
        """The lens for an activation of ``shape`` with named ``axes``; None if its columns don't pass by now.

        Raises:
            SelectionError: an axis the activation lacks, or an index out of its range.
        """
        lens: Lens = Whole()
        entries: Indices | None = None
        size = list(shape)
        for name, choice in (("rows", self.rows), ("heads", self.heads)):
            if choice is not None:
                axis = find_axis(name, axes, len(shape))
                indices = _in_range(name, choice, size[axis])
                lens, size[axis] = lens >> _lens(axis, indices), len(indices)
        if self.positions is not None:
            axis = find_axis("positions", axes, len(shape))
            picked = _pick_positions(self.positions, axis, size, frame)
            if picked is None:
                return None
            lens, entries = lens >> picked.lens, picked.entries
        if self.dims is not None:
            axis = len(shape) - 1
            lens = lens >> _lens(axis, _in_range("dims", self.dims, size[axis]))
        return Picked(lens, entries)

    def __str__(self) -> str:
        chosen = [(f.name, getattr(self, f.name)) for f in fields(self)]
        return ", ".join(f"{n}={_text(c)}" for n, c in chosen if c is not None)


_AXIS_NAMES = {
    "rows": ("batch",),
    "heads": ("head", "kv_head"),
    "positions": ("position", "query_position"),
}


def find_axis(choice: str, axes: Sequence[str] | None, rank: int) -> int:
    """The index of the axis that ``choice`` (rows, heads or positions) narrows.

    A site by module path has no named axes: rows are axis 0, and positions axis 1 of three.
    """
    if axes is None:
        if choice == "rows":
            return 0
        if choice == "positions" and rank == 3:
            return 1
        raise SelectionError(
            f"cannot choose {choice}: a site by module path has no named axes and this activation has {rank}"
        )
    if len(axes) != rank:
        raise SelectionError(f"the activation has {rank} axes where {tuple(axes)} were expected")
    for name in _AXIS_NAMES[choice]:
        if name in axes:
            return list(axes).index(name)
    raise SelectionError(f"cannot choose {choice}: the axes here are {', '.join(axes)}")


def _normal(axis: str, choice: Selectable) -> Choice:
    if isinstance(choice, slice):
        if choice.step is not None and choice.step <= 0:
            raise SelectionError(f"{axis}: a slice's step must be positive, not {choice.step}")
        return Span(choice.start, choice.stop, choice.step)
    if isinstance(choice, Tensor):
        if choice.is_floating_point() or choice.dtype == torch.bool:
            raise SelectionError(f"{axis} are whole numbers, not a tensor of {choice.dtype}")
        choice = choice.tolist()
    if isinstance(choice, int) and not isinstance(choice, bool):
        return (choice,)
    if isinstance(choice, str) or not isinstance(choice, Sequence) or len(choice) == 0:
        raise SelectionError(f"{axis}: expected an int, a slice, a non-empty list or tensor of ints, found {choice!r}")
    if isinstance(choice[0], (Sequence, Tensor)):
        if axis != "positions":
            raise SelectionError(f"{axis} cannot differ from row to row; only positions can")
        rows = tuple(_indices(axis, row) for row in choice)
        if len({len(row) for row in rows}) != 1:
            raise SelectionError(f"positions by row need as many for each row; found {[len(r) for r in rows]}")
        return rows
    return _indices(axis, choice)


def _indices(axis: str, choice: Any) -> Indices:
    values = choice.tolist() if isinstance(choice, Tensor) else list(choice)
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in values) or not values:
        raise SelectionError(f"{axis} are whole numbers, found {values!r}")
    if len(set(values)) != len(values):
        raise SelectionError(f"{axis} repeat an index: {values}; a place can be written once at a time")
    return tuple(values)


def _per_row(choice: Choice) -> bool:
    return isinstance(choice, tuple) and isinstance(choice[0], tuple)


def _in_range(name: str, choice: Span | Indices, size: int) -> Indices:
    if isinstance(choice, Span):
        indices = choice.indices(size)
        if not indices:
            raise SelectionError(f"{name} {choice} choose nothing of {size}")
        return indices
    wrong = [i for i in choice if not -size <= i < size]
    if wrong:
        raise SelectionError(f"{name} {wrong} out of range: there are {size} (0 to {size - 1})")
    return _distinct(name, tuple(i % size for i in choice), choice)


def _distinct(name: str, resolved: Indices, asked: Indices) -> Indices:
    if len(set(resolved)) != len(resolved):
        raise SelectionError(f"{name} {list(asked)} name the same place twice: {list(resolved)}")
    return resolved


def _lens(axis: int, indices: Indices) -> Lens:
    start, length = indices[0], len(indices)
    if indices == tuple(range(start, start + length)):
        return Narrow(axis, start, length)
    return Take(axis, indices)


def _pick_positions(choice: Choice, axis: int, size: list[int], frame: Frame) -> Picked | None:
    here = range(frame.offset, frame.offset + size[axis])
    if isinstance(choice, Span):
        local = _span_columns(choice, here, frame)
        return Picked(_lens(axis, local)) if local else None
    if _per_row(choice):
        return _pick_per_row(choice, axis, size, frame)  # type: ignore[arg-type]
    columns = [_column(p, here, frame) for p in choice]  # type: ignore[arg-type]
    present = [(entry, c) for entry, c in enumerate(columns) if c is not None]
    if not present:
        return None
    local = _distinct("positions", tuple(c for _, c in present), choice)  # type: ignore[arg-type]
    partial = None if len(present) == len(columns) else tuple(entry for entry, _ in present)
    return Picked(_lens(axis, local), partial)


def _pick_per_row(choice: PerRow, axis: int, size: list[int], frame: Frame) -> Picked | None:
    if len(choice) != size[0]:
        raise SelectionError(f"positions were given for {len(choice)} rows, the activation has {size[0]}")
    here = range(frame.offset, frame.offset + size[axis])
    columns = [[_column(p, here, frame) for p in row] for row in choice]
    if all(c is None for row in columns for c in row):
        return None
    if any(c is None for row in columns for c in row):
        raise SelectionError(
            f"positions {[list(r) for r in choice]} lie only in part in the columns {here.start} to "
            f"{here.stop - 1} of this forward"
        )
    rows = tuple(tuple(c for c in row if c is not None) for row in columns)
    for resolved, asked in zip(rows, choice, strict=True):
        _distinct("positions", resolved, asked)
    return Picked(TakePerRow(axis, rows))


def _column(position: int, here: range, frame: Frame) -> int | None:
    """The index within this forward of the prompt's column ``position``, None if it isn't here."""
    if position < 0:
        # The prompt's end is known only where the prompt itself passes by.
        local = position + len(here)
        return local if frame.offset == 0 and local >= 0 else None
    return position - here.start if position in here else None


def _span_columns(span: Span, here: range, frame: Frame) -> Indices:
    if frame.offset == 0:
        return span.indices(len(here))
    if (span.start or 0) < 0 or (span.stop or 0) < 0:
        return ()
    wanted = set(span.indices(here.stop))
    return tuple(c - here.start for c in here if c in wanted)


def _text(choice: Any) -> str:
    if isinstance(choice, tuple) and len(choice) == 1 and not isinstance(choice[0], tuple):
        return str(choice[0])
    return str([list(c) if isinstance(c, tuple) else c for c in choice]) if isinstance(choice, tuple) else str(choice)

"""Selections: the positions, heads, feature dims and batch rows of a site that are meant.

A selection is data. Against an activation of known shape, at a known place in the sequence, it becomes a lens.
Positions are columns of the prompt, counted from 0; negative ones count from the prompt's end. Under a key-value
cache a forward sees the columns from ``frame.offset`` on, and a selection picks those of its columns that pass by.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple, SupportsIndex

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
Choice = Span | Indices | PerRow
Selectable = SupportsIndex | slice | Sequence[SupportsIndex] | Sequence[Sequence[SupportsIndex]] | Tensor


class Frame(NamedTuple):
    """Where in the sequence a forward stands.

    Attributes:
        offset: how many columns earlier forwards computed and cached.
        length: how many columns this one was given; None where its arguments don't say.
        kept: of how many last columns it computes the logits; None for all.
        prompt: how many of the columns are the prompt's, in a step of ``generate`` without a cache; None for all.
        counted: whether ``offset`` is known.
        tokens: the token ids that this forward was given, (batch, columns); None where it was given none.
    """

    offset: int = 0
    length: int | None = None
    kept: int | None = None
    prompt: int | None = None
    counted: bool = True
    tokens: Tensor | None = None

    def columns(self, size: int) -> range:
        """The columns that an activation of ``size`` positions stands for.

        Raises:
            SelectionError: the forward continues from a cache that holds nobody knows how many.
        """
        if not self.counted:
            raise SelectionError(
                "the cache that this forward continues from keeps a recurrent state and no length, so that its "
                "positions can't be told: open the session before the first call that fills the cache"
            )
        cut = self.kept is not None and self.length is not None and size == self.kept < self.length
        start = self.offset + (self.length - size if cut and self.length is not None else 0)
        return range(start, start + size)

    def end(self, size: int) -> int | None:
        """Where the prompt ends, which is known only when the prompt itself passes by."""
        if self.offset:
            return None
        stop = self.columns(size).stop
        return stop if self.prompt is None else min(self.prompt, stop)


START = Frame()
_TOKENS = Frame._fields.index("tokens")


class Picked(NamedTuple):
    """A selection resolved for one activation.

    Attributes:
        lens: shows the part.
        shape: of the part.
        entries: which of the selection's explicit positions pass by in this forward, by their place in the list: None
            when all of them do, or when positions were not listed.
    """

    lens: Lens
    shape: tuple[int, ...]
    entries: Indices | None = None


class Selection(NamedTuple):
    """Which rows, heads, positions and feature dims; None means all of that axis.

    ``call`` chooses one of several calls of a module in one forward, counted from 0; ``expert`` one of a mixture's.
    Both name a place rather than a part of it: the port sees to them.
    """

    rows: Span | Indices | None = None
    heads: Span | Indices | None = None
    positions: Choice | None = None
    dims: Span | Indices | None = None
    call: int | None = None
    expert: int | None = None

    @property
    def narrows(self) -> bool:
        """Whether any axis is narrowed."""
        return not (self.positions is self.heads is self.dims is self.rows is None)

    @property
    def listed(self) -> frozenset[int]:
        """The positions named one by one for all rows alike; each must be seen once before a session ends."""
        if self.positions is None or isinstance(self.positions, Span) or _per_row(self.positions):
            return frozenset()
        return frozenset(self.positions)  # type: ignore[arg-type]

    def narrowed(
        self,
        rows: Selectable | None = None,
        heads: Selectable | None = None,
        positions: Selectable | None = None,
        dims: Selectable | None = None,
        call: int | None = None,
        expert: int | None = None,
    ) -> Selection:
        """This selection with more axes narrowed.

        Raises:
            SelectionError: an axis that is narrowed already, a repeated index, or a choice that isn't one.
        """
        asked = (rows, heads, positions, dims, call, expert)
        chosen = list(self)
        for index, choice in enumerate(asked):
            if choice is not None:
                chosen[index] = _chosen(self._fields[index], self[index], choice)
        return type(self)._make(chosen)

    def resolve(self, shape: tuple[int, ...], axes: tuple[str, ...] | None, frame: Frame = START) -> Picked | None:
        """The lens for an activation of ``shape`` with named ``axes``; None if its columns don't pass by now.

        Raises:
            SelectionError: an axis the activation lacks, or an index out of its range.
        """
        return _resolve(self, shape, axes, frame[:_TOKENS])

    def __str__(self) -> str:
        return ", ".join(f"{n}={_text(c)}" for n, c in self._asdict().items() if c is not None)


# A sweep or a generation asks for the same few shapes at the same few places again and again, about other tokens.
@lru_cache(maxsize=4096)
def _resolve(
    selection: Selection, shape: tuple[int, ...], axes: tuple[str, ...] | None, place: tuple[Any, ...]
) -> Picked | None:
    frame = Frame(*place)
    lens: Lens = Whole()
    entries: Indices | None = None
    size = list(shape)
    for name, choice in (("rows", selection.rows), ("heads", selection.heads)):
        if choice is not None:
            axis = find_axis(name, axes, len(shape))
            indices = _in_range(name, choice, size[axis])
            lens, size[axis] = lens >> lens_of(axis, indices), len(indices)
    if selection.positions is not None:
        axis = find_axis("positions", axes, len(shape))
        picked = _pick_positions(selection.positions, axis, size, frame)
        if picked is None:
            return None
        lens, size, entries = lens >> picked.lens, list(picked.shape), picked.entries
    if selection.dims is not None:
        axis = len(shape) - 1
        indices = _in_range("dims", selection.dims, size[axis])
        lens, size[axis] = lens >> lens_of(axis, indices), len(indices)
    return Picked(lens, tuple(size), entries)


_AXIS_NAMES = {
    "rows": ("batch",),
    "heads": ("head", "kv_head"),
    "positions": ("position", "query_position", "source_position"),
}


def elsewhere(axes: Sequence[str] | None) -> bool:
    """Whether an activation's positions are another sequence's than the forward computes: those that cross-attention
    attends to, which pass by all at once."""
    return axes is not None and "source_position" in axes and "query_position" not in axes


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


@cache
def position_axis(axes: tuple[str, ...] | None, rank: int) -> int | None:
    """The positions' axis counted from the last one, as broadcasting aligns them; None where there is none."""
    try:
        return find_axis("positions", axes, rank) - rank
    except SelectionError:
        return None


def _chosen(axis: str, before: Any, choice: Any) -> Any:
    if before is not None:
        raise SelectionError(f"{axis} were chosen already ({before}); start from the whole site")
    if axis not in ("call", "expert"):
        return _normal(axis, choice)
    if not isinstance(choice, int) or isinstance(choice, bool) or choice < 0:
        raise SelectionError(f"{axis} is a count from 0, not {choice!r}")
    return choice


def _normal(axis: str, choice: Selectable) -> Choice:
    if type(choice) is int:
        return (choice,)
    if isinstance(choice, slice):
        return _span(axis, choice)
    found = _listed(choice)
    single = whole_number(found)
    if single is not None:
        return (single,)
    if not isinstance(found, list) or not found:
        raise SelectionError(f"{axis}: expected an int, a slice, a non-empty list or tensor of ints, found {choice!r}")
    rows = [_listed(row) for row in found]
    if not any(isinstance(row, list) for row in rows):
        return _indices(axis, rows)
    if axis != "positions":
        raise SelectionError(f"{axis} cannot differ from row to row; only positions can")
    if not all(isinstance(row, list) for row in rows):
        raise SelectionError(f"positions by row need a list for each row, found {choice!r}")
    if len({len(row) for row in rows}) != 1:
        raise SelectionError(f"positions by row need as many for each row; found {[len(r) for r in rows]}")
    return tuple(_indices(axis, row) for row in rows)


def _span(axis: str, choice: slice) -> Span:
    given = {n: getattr(choice, n) for n in ("start", "stop", "step")}
    ends = {n: whole_number(value) for n, value in given.items()}
    wrong = [n for n, value in given.items() if value is not None and ends[n] is None]
    if wrong:
        raise SelectionError(f"{axis}: a slice's {wrong[0]} is a whole number, not {given[wrong[0]]!r}")
    if ends["step"] is not None and ends["step"] <= 0:
        raise SelectionError(f"{axis}: a slice's step must be positive, not {ends['step']}")
    return Span(**ends)


def _listed(choice: Any) -> Any:
    """A tensor, array or sequence as a list; anything else as it is."""
    if hasattr(choice, "tolist"):
        return choice.tolist()
    return list(choice) if isinstance(choice, Sequence) and not isinstance(choice, str) else choice


def whole_number(value: Any) -> int | None:
    """A whole number of any library as an int; None for what isn't one, True and False included."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _indices(axis: str, choice: list[Any]) -> Indices:
    values = [whole_number(v) for v in choice]
    if None in values or not values:
        raise SelectionError(f"{axis} are whole numbers, found {choice!r}")
    if len(set(values)) != len(values):
        raise SelectionError(f"{axis} repeat an index: {values}; a place can be written once at a time")
    return tuple(v for v in values if v is not None)


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


def lens_of(axis: int, indices: Indices) -> Lens:
    """The lens to some entries of an axis, the cheap one where they are neighbours."""
    start, length = indices[0], len(indices)
    if indices == tuple(range(start, start + length)):
        return Narrow(axis, start, length)
    return Take(axis, indices)


def _pick_positions(choice: Choice, axis: int, size: list[int], frame: Frame) -> Picked | None:
    here, end = frame.columns(size[axis]), frame.end(size[axis])
    if isinstance(choice, Span):
        local = _span_columns(choice, here, end)
        return Picked(lens_of(axis, local), _with(size, axis, len(local))) if local else None
    if _per_row(choice):
        return _pick_per_row(choice, axis, size, frame)  # type: ignore[arg-type]
    columns = [_column(p, here, end) for p in choice]  # type: ignore[arg-type]
    present = [(entry, c) for entry, c in enumerate(columns) if c is not None]
    if not present:
        return None
    local = _distinct("positions", tuple(c for _, c in present), choice)  # type: ignore[arg-type]
    partial = None if len(present) == len(columns) else tuple(entry for entry, _ in present)
    return Picked(lens_of(axis, local), _with(size, axis, len(local)), partial)


def _pick_per_row(choice: PerRow, axis: int, size: list[int], frame: Frame) -> Picked | None:
    if len(choice) != size[0]:
        raise SelectionError(f"positions were given for {len(choice)} rows, the activation has {size[0]}")
    here, end = frame.columns(size[axis]), frame.end(size[axis])
    columns = [[_column(p, here, end) for p in row] for row in choice]
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
    return Picked(TakePerRow(axis, rows), _with(size, axis, len(rows[0])))


def _with(size: list[int], axis: int, count: int) -> tuple[int, ...]:
    """``size`` with ``count`` entries on ``axis``."""
    return (*size[:axis], count, *size[axis + 1 :])


def _column(position: int, here: range, end: int | None) -> int | None:
    """The index within this forward of the prompt's column ``position``, None if it isn't here."""
    if position < 0:
        if end is None or position + end < 0:
            return None
        position += end
    # Not by `in`, which torch.compile can't trace where the length of the prompt is a symbol.
    return position - here.start if here.start <= position < here.stop else None


def _span_columns(span: Span, here: range, end: int | None) -> Indices:
    from_end = [bound is not None and bound < 0 for bound in (span.start, span.stop)]
    if end is None and any(from_end):
        return ()
    # Bounds from the prompt's end are the prompt's own; an open or positive one may go on into what is generated.
    start, stop = (
        max(bound + end, 0) if bound is not None and end is not None and negative else bound
        for bound, negative in zip((span.start, span.stop), from_end, strict=True)
    )
    wanted = set(range(here.stop)[slice(start, stop, span.step)])
    return tuple(c - here.start for c in here if c in wanted)


def _text(choice: Any) -> str:
    if isinstance(choice, tuple) and len(choice) == 1 and not isinstance(choice[0], tuple):
        return str(choice[0])
    return str([list(c) if isinstance(c, tuple) else c for c in choice]) if isinstance(choice, tuple) else str(choice)

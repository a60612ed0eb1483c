"""Unit locations: which positions, heads or steps of which rows a call means, in every form that it may be said.

A location is an int, a slice or a list of units for every row alike, or a list of units for each row. `sides` turns
what a call was given into one `Location` for each intervention, where it takes its source and where it acts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import SelectionError
from ..selection import Span

Units = tuple[int, ...]


@dataclass(frozen=True)
class Axis:
    """Which units of one axis: the same of every row, or each row's own; all of them where neither is given."""

    every: Units | Span | None = None
    rows: tuple[Units, ...] | None = None

    @property
    def whole(self) -> bool:
        return self.every is None and self.rows is None

    def at(self, row: int) -> Units | Span | None:
        """The units of one row."""
        return self.every if self.rows is None else self.rows[row]

    def of(self, rows: Iterable[int]) -> Axis:
        """The same for some of the rows; what all of them say alike is then said of every row."""
        if self.rows is None:
            return self
        chosen = tuple(self.rows[row] for row in rows)
        return Axis(every=chosen[0]) if len(set(chosen)) == 1 else Axis(rows=chosen)

    @property
    def choice(self) -> Any:
        """As `Site.at` takes it."""
        if isinstance(self.every, Span):
            return slice(self.every.start, self.every.stop, self.every.step)
        return self.every if self.rows is None else self.rows

    @property
    def repeats(self) -> bool:
        """Whether some row names a unit twice."""
        listed = (self.every,) if isinstance(self.every, tuple) else self.rows or ()
        return any(len(set(row)) != len(row) for row in listed)


ALL = Axis()


@dataclass(frozen=True)
class Location:
    """Where one intervention reads or writes: positions or steps, and heads."""

    units: Axis = ALL
    heads: Axis = ALL

    @property
    def rows(self) -> int | None:
        """For how many rows it was given; None where it means every row alike."""
        return next((len(axis.rows) for axis in (self.units, self.heads) if axis.rows is not None), None)

    def of(self, rows: Iterable[int]) -> Location:
        """The same for some of the rows."""
        chosen = list(rows)
        return Location(self.units.of(chosen), self.heads.of(chosen))

    def shape(self, row: int) -> tuple[Any, Any]:
        """What rows must share to be read or written at once: how many units, and which heads."""
        units = self.units.at(row)
        return len(units) if isinstance(units, tuple) else units, self.heads.at(row)


WHOLE = Location()


def sides(
    given: Mapping[str, Any] | None, mode: str, groups: Sequence[Sequence[int]], units: Sequence[str]
) -> list[tuple[list[Location], list[Location]]]:
    """The locations that ``unit_locations`` means: for each group of interventions, those in its source and those in
    what the source is written into.

    Args:
        given: ``"sources->base"``, ``"base"`` or ``"source_0->base"`` and so on in parallel mode,
            ``"source_0->source_1"`` to ``"source_2->base"`` in serial mode, to locations; None for all.
        mode: the config's.
        groups: the interventions of each group, by their place in the config.
        units: every intervention's unit.

    Raises:
        SelectionError: a key or a location that means nothing here.
    """
    if given is None:
        return [([WHOLE] * len(group), [WHOLE] * len(group)) for group in groups]
    if not isinstance(given, Mapping):
        raise SelectionError(f"unit_locations is a dict such as {{'sources->base': 3}} or {{'base': 3}}, not {given!r}")
    links = _links(mode, len(groups))
    shared = ("sources->base", "base") if mode == "parallel" or len(groups) == 1 else ()
    wrong = [key for key in given if key not in shared and key not in links]
    if wrong:
        raise SelectionError(
            f"unit_locations has no {wrong[0]!r} in {mode} mode with {len(groups)} source(s); it has "
            f"{', '.join(map(repr, (*shared, *links)))}"
        )
    if len(given) > 1 and any(key in shared for key in given):
        raise SelectionError(f"unit_locations says the same twice: {', '.join(map(repr, given))}")
    for key in shared:
        if key in given:
            left, right = _sides(key, given[key], units)
            return [([left[i] for i in group], [right[i] for i in group]) for group in groups]
    return [_sides(key, given.get(key), [units[i] for i in group]) for key, group in zip(links, groups, strict=True)]


def _links(mode: str, groups: int) -> list[str]:
    if mode == "parallel":
        return [f"source_{i}->base" for i in range(groups)]
    return [f"source_{i}->source_{i + 1}" for i in range(groups - 1)] + [f"source_{groups - 1}->base"]


def _sides(key: str, value: Any, units: Sequence[str]) -> tuple[list[Location], list[Location]]:
    value = _listed(value)
    if value is None:
        return [WHOLE] * len(units), [WHOLE] * len(units)
    if key == "base":
        return [WHOLE] * len(units), _side(key, value, units)
    if _is_pair(value, units):
        left, right = value
        return _side(key, left, units), _side(key, right, units)
    both = _side(key, value, units)
    return both, both


def _is_pair(value: Any, units: Sequence[str]) -> bool:
    """Whether ``value`` has a source's and a base's side: a tuple of two, or a list of two full sides."""
    if isinstance(value, tuple):
        if len(value) != 2:
            raise SelectionError(f"a pair of locations has two sides, (source, base), found {len(value)}: {value!r}")
        return True
    full = 4 if any("." in unit for unit in units) else 3
    sides_given = isinstance(value, list) and len(value) == 2 and value != [None, None]
    return sides_given and all(side is None or _depth(side) >= full for side in value)


def _side(key: str, value: Any, units: Sequence[str]) -> list[Location]:
    """One side: a location for each intervention."""
    if isinstance(value, tuple) and any("." not in unit for unit in units):
        value = list(value)
    nested = any("." in unit for unit in units)
    each = isinstance(value, list) and (
        any(entry is None or isinstance(entry, slice) for entry in value) or _depth(value) >= (4 if nested else 3)
    )
    if not each:
        return [_location(key, value, unit) for unit in units]
    if len(value) == 1:
        value = value * len(units)
    if len(value) != len(units):
        raise SelectionError(f"{key}: locations for {len(value)} interventions, there are {len(units)}: {value!r}")
    return [_location(key, entry, unit) for entry, unit in zip(value, units, strict=True)]


def _location(key: str, value: Any, unit: str) -> Location:
    if value is None:
        return WHOLE
    if unit == "h":
        return Location(heads=_units(key, value))
    if unit == "h.pos":
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise SelectionError(f"{key}: unit 'h.pos' needs heads and positions, [heads, positions], found {value!r}")
        heads, positions = value
        found = Location(units=_units(key, positions), heads=_units(key, heads))
        if (
            found.units.rows is not None
            and found.heads.rows is not None
            and len(found.units.rows) != len(found.heads.rows)
        ):
            raise SelectionError(f"{key}: heads and positions for different numbers of rows: {value!r}")
        return found
    return Location(units=_units(key, value))


def _units(key: str, value: Any) -> Axis:
    if value is None:
        return ALL
    if isinstance(value, slice):
        return Axis(every=Span(value.start, value.stop, value.step))
    if _is_unit(value):
        return Axis(every=(value,))
    if isinstance(value, (list, tuple)) and value:
        if all(_is_unit(u) for u in value):
            return Axis(every=tuple(value))
        if all(isinstance(row, (list, tuple)) and row and all(_is_unit(u) for u in row) for row in value):
            return Axis(rows=tuple(tuple(row) for row in value))
    raise SelectionError(
        f"{key}: {value!r} is no location: an int, a slice, a list of ints, or a list of ints for each row of the batch"
    )


def _is_unit(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _listed(value: Any) -> Any:
    """Tensors and arrays as lists, at whatever depth; tuples stay tuples."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return type(value)(_listed(entry) for entry in value)
    if isinstance(value, range):
        return list(value)
    return value


def _depth(value: Any) -> int:
    if isinstance(value, (list, tuple)):
        return 1 + max((_depth(entry) for entry in value), default=0)
    return 0

"""Unit locations: which positions, heads or steps of which rows a call means, in every form that it may be said.

A location is an int, the units of every row alike, or a list of units for each row. `parse` turns what a call was
given into one `Location` for each intervention on each side, `pair` matches the source's with the base's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..errors import SelectionError
from ..lenses import Take, TakePerRow
from ..selection import find_axis
from ..sites import Site

Units = tuple[int, ...]
PerRow = tuple[Units, ...]
"""The units of each batch row."""


@dataclass(frozen=True)
class Location:
    """Where one intervention reads or writes; None for the whole of an axis.

    Attributes:
        units: positions or steps, the same for every row or row by row.
        heads: likewise.
    """

    units: Units | PerRow | None = None
    heads: Units | PerRow | None = None

    @property
    def whole(self) -> bool:
        return self.units is None and self.heads is None

    @property
    def rows(self) -> int | None:
        """For how many rows it was given; None where it means every row alike."""
        return next((len(axis) for axis in (self.units, self.heads) if _per_row(axis)), None)  # type: ignore[arg-type]

    def of(self, rows: Iterable[int]) -> Location:
        """The same for some of the rows."""
        chosen = list(rows)
        return Location(_of_rows(self.units, chosen), _of_rows(self.heads, chosen))

    def shape(self, row: int) -> tuple[int | None, Units | None]:
        """What rows must share to be read or written at once: how many units, and which heads."""
        units = None if self.units is None else len(_row(self.units, row))
        return units, None if self.heads is None else _row(self.heads, row)


WHOLE = Location()


@dataclass(frozen=True)
class Patch:
    """Where an intervention takes its source and where it acts, for rows of the batch that are alike.

    Attributes:
        source: the site to read; its selection is the location.
        base: the site to write.
        rows: which rows of the batch, None for all.
        gather: picks units that were asked for more than once out of what was read.
    """

    source: Site
    base: Site
    rows: Units | None = None
    gather: Callable[[Tensor], Tensor] | None = None


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


def pair(
    site: Site, unit: str, source: Location, base: Location, batch: int | None, source_batch: int | None
) -> list[Patch]:
    """The patches that read ``site`` at ``source`` and write it at ``base``; several where rows differ in shape.

    Raises:
        SelectionError: locations for another number of rows than the batch has, or steps where none were named.
    """
    for location, rows, what in ((base, batch, "batch"), (source, source_batch, "source")):
        if location.rows is not None and rows is not None and location.rows != rows:
            raise SelectionError(
                f"{site.address}: locations were given for {location.rows} row(s), the {what} has {rows}; an int, or "
                f"a list of ints, means every row"
            )
    source, base = (_common(location) for location in (source, base))
    if unit == "t":
        return _steps(site, source, base, batch)
    count = base.rows if base.rows is not None else source.rows
    if count is None:
        return [_patch(site, source, base, None, source_batch)]
    groups: dict[Any, list[int]] = {}
    for row in range(count):
        groups.setdefault((source.shape(row), base.shape(row)), []).append(row)
    return [
        _patch(site, source, base, tuple(rows) if len(groups) > 1 else None, source_batch) for rows in groups.values()
    ]


def _patch(site: Site, source: Location, base: Location, rows: Units | None, source_batch: int | None) -> Patch:
    if rows is not None:
        base = base.of(rows)
        source = source.of(rows) if source.rows is not None else source
    repeated = _repeats(source.units)
    return Patch(
        source=_narrow(site, replace(source, units=None) if repeated else source, rows if source_batch != 1 else None),
        base=_narrow(site, base, rows),
        rows=rows,
        gather=_gatherer(site, source.units) if repeated and source.units is not None else None,
    )


def _steps(site: Site, source: Location, base: Location, batch: int | None) -> list[Patch]:
    """One patch for each pair of a source's step and a base's, with the rows that have it."""
    if base.units is None:
        raise SelectionError(f"{site.address}: unit 't' needs unit_locations that name the steps")
    count = base.rows or source.rows or batch or 1
    found: dict[tuple[int, int], list[int]] = {}
    for row in range(count):
        there = _row(base.units, row)
        here = there if source.units is None else _row(source.units, row)
        if len(here) == 1:
            here = here * len(there)
        if len(here) != len(there):
            raise SelectionError(f"{site.address}: {len(here)} steps of the source for {len(there)} of the base")
        for pair_of_steps in zip(here, there, strict=True):
            found.setdefault(pair_of_steps, []).append(row)
    if any(step < 0 for both in found for step in both):
        raise SelectionError(f"{site.address}: steps are counted from 0; negative ones are not known beforehand")
    patches = []
    for (here_step, there_step), rows in found.items():
        chosen = None if len(rows) == count else tuple(rows)
        read, written = (_narrow(site.at(call=step), WHOLE, chosen) for step in (here_step, there_step))
        patches.append(Patch(read, written, chosen))
    return patches


def _narrow(site: Site, location: Location, rows: Units | None) -> Site:
    choices: dict[str, Any] = {"positions": location.units, "heads": location.heads, "rows": rows}
    given = {name: choice for name, choice in choices.items() if choice is not None}
    if "heads" in given and _per_row(location.heads):
        raise SelectionError(f"{site.address}: heads differ from row to row: {location.heads}")
    return site.at(**given) if given else site


def _gatherer(site: Site, units: Units | PerRow) -> Callable[[Tensor], Tensor]:
    def gather(whole: Tensor) -> Tensor:
        axis = find_axis("positions", site.axes, whole.dim())
        size = whole.shape[axis]
        if _per_row(units):
            return TakePerRow(axis, tuple(tuple(_inside(site, u, size) for u in row) for row in units)).get(whole)  # type: ignore[union-attr]
        return Take(axis, tuple(_inside(site, u, size) for u in units)).get(whole)  # type: ignore[arg-type]

    return gather


def _inside(site: Site, unit: int, size: int) -> int:
    if not -size <= unit < size:
        raise SelectionError(f"{site.address}: position {unit} is out of range: there are {size} (0 to {size - 1})")
    return unit % size


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
    each = isinstance(value, list) and (None in value or _depth(value) >= (4 if nested else 3))
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
        return Location(
            units=None if positions is None else _units(key, positions),
            heads=None if heads is None else _units(key, heads),
        )
    return Location(units=_units(key, value))


def _units(key: str, value: Any) -> Units | PerRow:
    if _is_unit(value):
        return (value,)
    if isinstance(value, (list, tuple)) and value:
        if all(_is_unit(u) for u in value):
            return tuple(value)
        if all(isinstance(row, (list, tuple)) and row and all(_is_unit(u) for u in row) for row in value):
            return tuple(tuple(row) for row in value)
    raise SelectionError(
        f"{key}: {value!r} is no location: an int, a list of ints, or a list of ints for each row of the batch"
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


def _per_row(axis: Units | PerRow | None) -> bool:
    return axis is not None and isinstance(axis[0], tuple)


def _row(axis: Units | PerRow, row: int) -> Units:
    return axis[row] if _per_row(axis) else axis  # type: ignore[return-value]


def _of_rows(axis: Units | PerRow | None, rows: Sequence[int]) -> Units | PerRow | None:
    if axis is None or not _per_row(axis):
        return axis
    chosen = tuple(_row(axis, row) for row in rows)
    return chosen[0] if all(row == chosen[0] for row in chosen) else chosen


def _common(location: Location) -> Location:
    """Rows that all say the same as what every row means, which then holds for any number of rows."""
    return location if location.rows is None else location.of(range(location.rows))


def _repeats(units: Units | PerRow | None) -> bool:
    if units is None:
        return False
    rows = units if _per_row(units) else (units,)
    return any(len(set(row)) != len(row) for row in rows)  # type: ignore[arg-type]

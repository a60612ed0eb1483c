"""Patches: the pairs of narrowed sites that read a source and write the base, for rows that can be done at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..errors import SelectionError
from ..lenses import Take, TakePerRow
from ..selection import find_axis
from ..sites import Site
from .locations import ALL, WHOLE, Axis, Location, Units


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


def patches(
    site: Site, unit: str, source: Location, base: Location, batch: int | None, source_batch: int | None
) -> list[Patch]:
    """The patches that read ``site`` at ``source`` and write it at ``base``; several where rows differ in shape.

    Args:
        site: the whole site.
        unit: what the locations count.
        source: where the source is read.
        base: where the intervention acts.
        batch: how many rows the base has, if known.
        source_batch: how many the source has; one serves every row of the base.

    Raises:
        SelectionError: locations for another number of rows than there are, or steps where none were named.
    """
    for location, rows, what in ((base, batch, "batch"), (source, source_batch, "source")):
        if location.rows is not None and rows is not None and location.rows != rows:
            raise SelectionError(
                f"{site.address}: locations were given for {location.rows} row(s), the {what} has {rows}; an int, or "
                f"a list of ints, means every row"
            )
    # Rows that all say the same as what every row means, which then holds for any number of rows.
    source, base = (_all_rows(location) for location in (source, base))
    if unit == "t":
        return _at_steps(site, source.units, base.units, batch)
    count = base.rows if base.rows is not None else source.rows
    if count is None:
        return [_patch(site, source, base, None, source_batch)]
    groups: dict[Any, list[int]] = {}
    for row in range(count):
        groups.setdefault((source.shape(row), base.shape(row)), []).append(row)
    split = len(groups) > 1
    return [_patch(site, source, base, tuple(rows) if split else None, source_batch) for rows in groups.values()]


def _all_rows(location: Location) -> Location:
    return location if location.rows is None else location.of(range(location.rows))


def _patch(site: Site, source: Location, base: Location, rows: Units | None, source_batch: int | None) -> Patch:
    if rows is not None:
        source, base = source.of(rows), base.of(rows)
    repeated = source.units.repeats
    return Patch(
        source=_narrow(site, replace(source, units=ALL) if repeated else source, rows if source_batch != 1 else None),
        base=_narrow(site, base, rows),
        rows=rows,
        gather=_gatherer(site, source.units) if repeated else None,
    )


def _at_steps(site: Site, source: Axis, base: Axis, batch: int | None) -> list[Patch]:
    """One patch for each pair of a source's step and a base's, with the rows that have it."""
    count = next((len(axis.rows) for axis in (base, source) if axis.rows is not None), batch or 1)
    found: dict[tuple[int, int], list[int]] = {}
    for row in range(count):
        there, here = base.at(row), base.at(row) if source.whole else source.at(row)
        if not isinstance(there, tuple) or not isinstance(here, tuple):
            raise SelectionError(f"{site.address}: unit 't' needs unit_locations that name the steps")
        here = here * len(there) if len(here) == 1 else here
        if len(here) != len(there):
            raise SelectionError(f"{site.address}: {len(here)} steps of the source for {len(there)} of the base")
        for both in zip(here, there, strict=True):
            found.setdefault(both, []).append(row)
    if any(step < 0 for both in found for step in both):
        raise SelectionError(f"{site.address}: steps are counted from 0; how many there are is not known beforehand")
    made = []
    for (here_step, there_step), rows in found.items():
        chosen = None if len(rows) == count else tuple(rows)
        read, written = (_narrow(site.at(call=step), WHOLE, chosen) for step in (here_step, there_step))
        made.append(Patch(read, written, chosen))
    return made


def _narrow(site: Site, location: Location, rows: Units | None) -> Site:
    choices = {"positions": location.units.choice, "heads": location.heads.choice, "rows": rows}
    given = {name: choice for name, choice in choices.items() if choice is not None}
    return site.at(**given) if given else site


def _gatherer(site: Site, units: Axis) -> Callable[[Tensor], Tensor]:
    def gather(whole: Tensor) -> Tensor:
        axis = find_axis("positions", site.axes, whole.dim())

        def inside(row: Units) -> Units:
            size = whole.shape[axis]
            wrong = [unit for unit in row if not -size <= unit < size]
            if wrong:
                raise SelectionError(f"{site.address}: positions {wrong} are out of range: there are {size}")
            return tuple(unit % size for unit in row)

        if units.rows is not None:
            return TakePerRow(axis, tuple(inside(row) for row in units.rows)).get(whole)
        return Take(axis, inside(units.every)).get(whole) if isinstance(units.every, tuple) else whole

    return gather

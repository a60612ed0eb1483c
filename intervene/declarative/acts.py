"""Acts: what one intervention does in one call, as reads of its source's run and writes into the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import InterventionError, ShapeMismatchError
from ..interventions import Intervention
from ..session import Written
from ..sites import Site
from .inputs import batch_of
from .locations import Location
from .output import InterventionOutput
from .patches import Patch, patches
from .placing import Place
from .subspaces import BySample
from .widths import module_input

Writes = list[tuple[Site, Written]]


@dataclass
class Act:
    """One intervention in one call.

    Attributes:
        place: which, and where.
        patches: where it takes its source and where it acts.
        source: a source that was given as a tensor.
        subspaces: the subspaces to act on, for each row or the same for all; None for all features.
        collected: what it saw, by patch, if it is one that collects.
        outputs: what it returned, where it returned more than a tensor.
        extra: what its forward is handed besides, by keyword.
    """

    place: Place
    patches: list[Patch]
    source: Tensor | None
    subspaces: BySample | None
    collected: dict[int, list[Tensor]] = field(default_factory=dict)
    outputs: list[InterventionOutput] = field(default_factory=list)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def intervention(self) -> Intervention:
        return self.place.intervention

    @property
    def reads(self) -> bool:
        """Whether it takes its source from a run of the model."""
        return self.source is None and self.intervention.takes_source

    def read_sites(self) -> list[Site]:
        """What to read in the source's run."""
        if not self.intervention.source_is_input:
            return [patch.source for patch in self.patches]
        return [_at_input(patch.source) for patch in self.patches]

    def writes(self, read: Mapping[Site, Any] | None) -> Writes:
        """What to write into the next run, given what was read in the source's; None where nothing was."""
        found: Writes = []
        for index, (patch, site) in enumerate(zip(self.patches, self.read_sites(), strict=True)):
            source, along = self.source, None
            if source is None and read is not None and self.reads:
                held = read[site]
                along = held if isinstance(held, Along) else None
                gather = patch.gather or _as_it_is
                source = gather(held) if along is None else along.by_copy(gather, along.prompt)
            writer = Writer(self, index, patch, source, along)
            if source is None and self.intervention.source_is_input:
                found.append((_at_input(patch.base), writer.take_input))
            found.append((patch.base, writer))
        return found

    def result(self) -> Any:
        """What was collected: a tensor (batch, ...), or a list of tensors where rows or forwards differ in shape."""
        forwards = zip(*(self.collected[i] for i in range(len(self.patches))), strict=True)
        seen = [_merged(self.patches, parts) for parts in forwards]
        return seen[0] if len(seen) == 1 else seen


@dataclass(frozen=True)
class Along:
    """What a source that was generated along holds at a site.

    Attributes:
        prompt: at what is asked for of its prompt.
        generated: at its generated tokens; None where the site has no positions.
        copies: how many rows there are for each of the source's: the sequences that are sampled for it.
        lengths: how many generated tokens each row has; None where every row has as many as ``generated`` has places.
    """

    prompt: Tensor
    generated: Tensor | None
    copies: int = 1
    lengths: list[int] | None = None

    def by_copy(self, function: Callable[[Tensor], Tensor], activation: Tensor) -> Tensor:
        """A function of a tensor with the source's rows, for one that has ``copies`` of each."""
        parts = [function(activation[copy :: self.copies]) for copy in range(self.copies)]
        return parts[0] if self.copies == 1 else torch.stack(parts, 1).flatten(0, 1)


class Writer:
    """The function that a session calls with the activation at a patch.

    Attributes:
        act: what it is part of.
        patch: where it reads and writes.
        source: the source's part, None where there is none.
        live: whether the source is the module's input in the same run.
        along: what it holds besides, where it was generated along.
    """

    def __init__(self, act: Act, index: int, patch: Patch, source: Tensor | None, along: Along | None = None) -> None:
        self.act, self.patch, self.source, self.along = act, patch, source, along
        self.live = False
        self._index = index

    @property
    def generated(self) -> Tensor | None:
        """The source's values for generated tokens, where it was generated along."""
        return None if self.along is None else self.along.generated

    def rows_of(self, source: Tensor, rows: Sequence[tuple[int, int]]) -> list[int]:
        """The rows of a source for rows of the activation.

        Args:
            source: with a row for each of the batch, or for each of the patch's, or one for all; as many times over as
                the source was generated from.
            rows: of the activation: which of the batch's rows each is, and the how manieth of those for it.
        """
        copies = 1 if self.along is None else self.along.copies
        own, count = self.patch.rows, len(source) // copies
        if count == 1:
            return [copy % copies for _, copy in rows]
        placed = own is not None and count == len(own)
        return [(own.index(row) if placed and own is not None else row) * copies + copy % copies for row, copy in rows]

    @property
    def whole_run(self) -> bool:
        """Whether the source is all that a run of the model had there, no positions of it having been named."""
        chosen = self.patch.source.selection.positions is not None or self.patch.gather is not None
        return self.act.reads and not self.live and not chosen

    def take_input(self, part: Tensor) -> None:
        """Keep the input of the module whose output is written next."""
        self.source, self.live = part, True

    def __call__(self, part: Tensor) -> Tensor | None:
        source, rows = self.source, self.patch.rows
        if source is not None and self.act.source is not None and rows is not None:
            source = source[list(rows)] if source.dim() == part.dim() and len(source) > 1 else source
        new = self.run(part, source, self.subspaces(range(len(part)) if rows is None else rows))
        if self.act.intervention.collects:
            self.act.collected.setdefault(self._index, []).append(new)
            return None
        return new

    def subspaces(self, rows: Sequence[int]) -> list[list[int]] | None:
        """The subspaces that are meant in each of the batch's ``rows``; None where none were named."""
        given = self.act.subspaces
        if given is None:
            return None
        if all(isinstance(entry, int) for entry in given):
            return [list(given)] * len(rows)  # type: ignore[arg-type]
        return [list(given[row]) for row in rows]  # type: ignore[arg-type]

    def run(self, part: Tensor, source: Tensor | None, subspaces: Any, places: Tensor | None = None) -> Tensor:
        """The intervention's result for a part of the activation and of the source.

        Args:
            part: of the activation.
            source: of the source.
            subspaces: by row.
            places: for an intervention that acts by place, where it isn't to count the part's own positions.

        Raises:
            ShapeMismatchError: a source that doesn't fit.
        """
        intervention = self.act.intervention
        if source is not None:
            # One row of a run serves every row, but one token of it serves all only where it was asked for.
            fits = broadcasts(source.shape, part.shape)
            alike = not self.whole_run or source.shape[1:] == part.shape[1:]
            if not intervention.source_is_input and not (fits and alike):
                raise ShapeMismatchError(
                    f"{self.act.place.key}: the source has shape {tuple(source.shape)} there and the base "
                    f"{tuple(part.shape)}; say with unit_locations which positions belong together, such as "
                    f"{{'sources->base': (0, None)}} for the source's first into all of the base's"
                )
            source = source.to(part.device)
        # A class of a user's own may do without subspaces.
        with _at(intervention, places):
            new: Any = intervention(part, source, *([subspaces] if subspaces is not None else []), **self.act.extra)
        if isinstance(new, InterventionOutput):
            self.act.outputs.append(new)
            new = new.output
        return new  # type: ignore[no-any-return]


@contextmanager
def _at(intervention: Any, places: Tensor | None) -> Iterator[None]:
    """Tell an intervention that acts by place which positions it is called with."""
    if places is None:
        yield
        return
    intervention.places = places
    try:
        yield
    finally:
        intervention.places = None


def acts_of(
    places: Sequence[Place],
    locations: Sequence[tuple[Sequence[Location], Sequence[Location]]],
    sources: Sequence[Any],
    given: Mapping[str, Tensor],
    subspaces: Sequence[Any],
    into: Sequence[Any],
) -> list[list[Act]]:
    """What each intervention does in this call, by group; those without the source they need are left out.

    ``into`` has the inputs of the run that each group is written into.
    """
    groups: list[list[Act]] = []
    for group, (left, right) in enumerate(locations):
        members = [place for place in places if place.group == group]
        found = []
        for place, here, there in zip(members, left, right, strict=True):
            tensor = given.get(place.key)
            if tensor is not None and not place.intervention.takes_source:
                raise InterventionError(
                    f"{place.key}: {type(place.intervention).__name__} takes no source, and one was given"
                )
            if place.intervention.needs_source and tensor is None and sources[group] is None:
                continue
            rows = [batch_of(run, place.batch_axis) for run in (into[group], sources[group])]
            made = patches(place.site, place.unit, here, there, *rows)
            found.append(Act(place, made, tensor, subspaces[place.index]))
        groups.append(found)
    return groups


def _as_it_is(activation: Tensor) -> Tensor:
    return activation


def broadcasts(shape: Sequence[int], target: Sequence[int]) -> bool:
    """Whether a tensor of ``shape`` can stand for one of ``target``."""
    return len(shape) <= len(target) and all(
        a in (1, b) for a, b in zip(reversed(shape), reversed(target), strict=False)
    )


def _at_input(site: Site) -> Site:
    moved = module_input(site.whole)
    chosen = site.selection
    if chosen.heads is not None:
        raise InterventionError(f"{site.address}: an intervention on a module's input cannot act on single heads")
    return Site(moved.component, None, None, moved.axes, moved.port, moved.lens, chosen)


def _merged(where: Sequence[Patch], parts: Sequence[Tensor]) -> Any:
    if len(parts) == 1:
        return parts[0]
    steps = {patch.base.selection.call for patch in where}
    if len(steps) > 1:
        return torch.stack(list(parts), dim=1) if all(p.rows is None for p in where) else list(parts)
    rows = [row for patch in where for row in patch.rows or ()]
    if len({part.shape[1:] for part in parts}) > 1:
        by_row = dict(zip(rows, (r for part in parts for r in part), strict=True))
        return [by_row[row] for row in sorted(by_row)]
    order = torch.tensor(sorted(range(len(rows)), key=rows.__getitem__), device=parts[0].device)
    return torch.cat(list(parts)).index_select(0, order)

"""The engine: sources are read, and what they hold is written into the base, by sessions alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..adapted import Adapted
from ..errors import InterventionError, ShapeMismatchError
from ..interventions import Intervention
from ..session import Session, Written
from ..sites import Site
from .locations import Location
from .output import InterventionOutput
from .patches import Patch, patches
from .placing import Place, module_input
from .subspaces import BySample

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
    """

    place: Place
    patches: list[Patch]
    source: Tensor | None
    subspaces: BySample | None
    collected: dict[int, list[Tensor]] = field(default_factory=dict)
    outputs: list[InterventionOutput] = field(default_factory=list)

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
            source = self.source
            if source is None and read is not None and self.reads:
                source = read[site] if patch.gather is None else patch.gather(read[site])
            writer = Writer(self, index, patch, source)
            if source is None and self.intervention.source_is_input:
                found.append((_at_input(patch.base), writer.take_input))
            found.append((patch.base, writer))
        return found

    def result(self) -> Any:
        """What was collected: a tensor (batch, ...), or a list of tensors where rows or forwards differ in shape."""
        forwards = zip(*(self.collected[i] for i in range(len(self.patches))), strict=True)
        seen = [_merged(self.patches, parts) for parts in forwards]
        return seen[0] if len(seen) == 1 else seen


class Writer:
    """The function that a session calls with the activation at a patch.

    Attributes:
        act: what it is part of.
        patch: where it reads and writes.
        source: the source's part, None where there is none.
        live: whether the source is the module's input in the same run.
        generated: the source's values for generated tokens, where it was generated along.
    """

    def __init__(self, act: Act, index: int, patch: Patch, source: Tensor | None) -> None:
        self.act, self.patch, self.source = act, patch, source
        self.live = False
        self.generated: Tensor | None = None
        self._index = index

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

    def run(self, part: Tensor, source: Tensor | None, subspaces: Any) -> Tensor:
        """The intervention's result for a part of the activation and of the source.

        Raises:
            ShapeMismatchError: a source that doesn't fit.
        """
        intervention = self.act.intervention
        if source is not None:
            if not intervention.source_is_input and not broadcasts(source.shape, part.shape):
                raise ShapeMismatchError(
                    f"{self.act.place.key}: the source has shape {tuple(source.shape)} there and the base "
                    f"{tuple(part.shape)}; say with unit_locations which positions belong together"
                )
            source = source.to(part.device)
        # A class of a user's own may do without subspaces.
        new: Any = intervention(part, source, *([subspaces] if subspaces is not None else []))
        if isinstance(new, InterventionOutput):
            self.act.outputs.append(new)
            new = new.output
        return new  # type: ignore[no-any-return]


@dataclass
class Round:
    """The sources and acts of one call.

    Attributes:
        adapted: the model.
        acts: by group.
        sources: the inputs of each group's source run; None where it has none.
        attention: the attention implementation to run with.
    """

    adapted: Adapted
    acts: list[list[Act]]
    sources: list[Any]
    attention: str | None = None

    def parallel(self) -> Writes:
        """Read every source; what is to be written into the base."""
        read: dict[int, Mapping[Site, Any]] = {}
        wanted: dict[int, tuple[Any, list[Site]]] = {}
        for source, acts in zip(self.sources, self.acts, strict=True):
            sites = [site for act in acts if act.reads for site in act.read_sites()]
            if source is not None and sites:
                # One run for all the groups that have the same source.
                wanted.setdefault(id(source), (source, []))[1].extend(sites)
        for key, (source, sites) in wanted.items():
            args, kwargs = arguments(source)
            read[key] = self.adapted.read(
                sites, *args, grad=torch.is_grad_enabled(), attention=self.attention, **kwargs
            )
        placed = [
            (act.place.index, act.writes(read.get(id(source))))
            for source, acts in zip(self.sources, self.acts, strict=True)
            for act in acts
        ]
        return [write for _, writes in sorted(placed, key=lambda p: p[0]) for write in writes]

    def serial(self) -> Writes:
        """Run the sources one after the other, each with what the one before holds; what goes into the base."""
        pending: Writes = []
        for source, acts in zip(self.sources, self.acts, strict=True):
            read: Mapping[Site, Any] | None = None
            sites = [site for act in acts if act.reads for site in act.read_sites()]
            if source is not None and sites:
                with self.session(pending, sites) as session:
                    run(self.adapted.model, source)
                read, pending = session.values, []
            pending = [*pending, *(write for act in acts for write in act.writes(read))]
        return pending

    def session(self, writes: Writes, reads: Sequence[Site] = ()) -> Session:
        """A session with these writes and reads."""
        return self.adapted.session(reads=reads, writes=writes, grad=torch.is_grad_enabled(), attention=self.attention)


def acts_of(
    places: Sequence[Place],
    locations: Sequence[tuple[Sequence[Location], Sequence[Location]]],
    sources: Sequence[Any],
    given: Mapping[str, Tensor],
    subspaces: Sequence[Any],
    base: Any,
) -> list[list[Act]]:
    """What each intervention does in this call, by group; those without the source they need are left out."""
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
            rows = [batch_of(run, place.batch_axis) for run in (base, sources[group])]
            made = patches(place.site, place.unit, here, there, *rows)
            found.append(Act(place, made, tensor, subspaces[place.index]))
        groups.append(found)
    return groups


def run(model: nn.Module, inputs: Any, **extra: Any) -> Any:
    """Call the model with inputs by keyword, by position, or one tensor alone."""
    args, kwargs = arguments(inputs)
    return model(*args, **kwargs, **extra)


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs as positional and keyword arguments."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    raise TypeError(
        f"inputs are a mapping of the model's arguments (what a tokenizer gives), a tensor, or a tuple of arguments, "
        f"not {type(inputs).__name__}"
    )


def batch_of(inputs: Any, axis: int = 0) -> int | None:
    """How many rows the inputs have on the batch's axis, None where they don't say."""
    if inputs is None:
        return None
    args, kwargs = arguments(inputs)
    named = [kwargs[n] for n in ("input_ids", "inputs_embeds") if isinstance(kwargs.get(n), Tensor)]
    tensors = [t for t in (*named, *args, *kwargs.values()) if isinstance(t, Tensor) and t.dim() > axis]
    return tensors[0].shape[axis] if tensors else None


def broadcasts(shape: Sequence[int], target: Sequence[int]) -> bool:
    """Whether a tensor of ``shape`` can stand for one of ``target``."""
    return len(shape) <= len(target) and all(
        a in (1, b) for a, b in zip(reversed(shape), reversed(target), strict=False)
    )


def checkpoints(model: nn.Module) -> bool:
    """Whether a forward of the model runs under gradient checkpointing, as transformers' models do in training mode."""
    return any(module.training and getattr(module, "gradient_checkpointing", False) for module in model.modules())


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Run a model with no gradient to its own parameters; each has its flag back afterwards.

    A graph that was built without them stays without them, so a loss reaches the interventions alone.
    """
    asked = [p for p in model.parameters() if p.requires_grad] if torch.is_grad_enabled() else []
    try:
        for parameter in asked:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


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

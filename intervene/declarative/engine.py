"""The engine: sources are read, and what they hold is written into the base, by sessions alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..adapted import Adapted
from ..session import Session
from ..sites import Site
from .acts import Act, Writes
from .inputs import arguments, run


@dataclass
class Round:
    """The sources and acts of one call.

    Attributes:
        adapted: the model.
        acts: by group.
        sources: the inputs of each group's source run; None where it has none.
        attention: the attention implementation to run with.
        run: runs the model with a source's inputs.
    """

    adapted: Adapted
    acts: list[list[Act]]
    sources: list[Any]
    attention: str | None = None
    run: Callable[[nn.Module, Any], Any] = run

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
            read[key] = self._read(source, sites)
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
                    self.run(self.adapted.model, source)
                read, pending = session.values, []
            pending = [*pending, *(write for act in acts for write in act.writes(read))]
        return pending

    def _read(self, source: Any, sites: Sequence[Site]) -> Mapping[Site, Any]:
        if self.run is not run:
            with self.session([], sites) as session:
                self.run(self.adapted.model, source)
            return session.values
        args, kwargs = arguments(source)
        return self.adapted.read(sites, *args, grad=torch.is_grad_enabled(), attention=self.attention, **kwargs)

    def session(self, writes: Writes, reads: Sequence[Site] = ()) -> Session:
        """A session with these writes and reads."""
        return self.adapted.session(reads=reads, writes=writes, grad=torch.is_grad_enabled(), attention=self.attention)


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

"""The engine: sources are read, and what they hold is written into the base, by sessions alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..adapted import Adapted
from ..session import Keep, Session
from ..sites import Site
from .acts import Act, Writes
from .inputs import arguments

Reader = Callable[["Round", Any, Sequence[Site], Writes], Mapping[Site, Any]]
"""Runs a round's model with a source's inputs and what is written into that run; what the sites hold there."""


def read_run(plan: Round, source: Any, sites: Sequence[Site], writes: Writes) -> Mapping[Site, Any]:
    """One forward, which stops where nothing is left to see."""
    args, kwargs = arguments(source)
    if not writes:
        return plan.adapted.read(sites, *args, grad=torch.is_grad_enabled(), attention=plan.attention, **kwargs)
    with plan.session(writes, sites) as session:
        plan.adapted.model(*args, **kwargs)
    return session.values


@dataclass
class Round:
    """The sources and acts of one call.

    Attributes:
        adapted: the model.
        acts: by group.
        sources: the inputs of each group's source run; None where it has none.
        attention: the attention implementation to run with.
        reader: runs the sources.
    """

    adapted: Adapted
    acts: list[list[Act]]
    sources: list[Any]
    attention: str | None = None
    reader: Reader = read_run

    def parallel(self) -> Writes:
        """Read every source; what is to be written into the base."""
        read: dict[int, Mapping[Site, Any]] = {}
        wanted: dict[int, tuple[Any, list[Site]]] = {}
        for source, acts in zip(self.sources, self.acts, strict=True):
            sites = _wanted(acts)
            if source is not None and sites:
                # One run for all the groups that have the same source.
                wanted.setdefault(id(source), (source, []))[1].extend(sites)
        for key, (source, sites) in wanted.items():
            read[key] = self.reader(self, source, sites, [])
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
            sites = _wanted(acts)
            if source is not None and sites:
                read, pending = self.reader(self, source, sites, pending), []
            pending = [*pending, *(write for act in acts for write in act.writes(read))]
        return pending

    def session(self, writes: Writes, reads: Sequence[Site] = (), keep: Keep = "last") -> Session:
        """A session with these writes and reads."""
        return self.adapted.session(
            reads=reads, writes=writes, grad=torch.is_grad_enabled(), keep=keep, attention=self.attention
        )


def _wanted(acts: Sequence[Act]) -> list[Site]:
    return [site for act in acts if act.reads for site in act.read_sites()]


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

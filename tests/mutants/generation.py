"""Mutants that lose count of positions under generate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from intervene.adapter import Adapter
from intervene.ports import Callback, Handle
from intervene.selection import Frame, Picked, Selection
from intervene.sites import Site

from .making import Around, reached_by, sited
from .mutant import Mutant

_START = Frame()


class CountsLocally(Selection):
    """Counts positions from the first one of each forward."""

    def resolve(self, shape: tuple[int, ...], axes: tuple[str, ...] | None, frame: Frame = _START) -> Picked | None:
        try:
            return super().resolve(shape, axes, _START)
        except ValueError:
            return None


class CountsFromEachEnd(Selection):
    """Counts negative positions from the end of each forward."""

    def resolve(self, shape: tuple[int, ...], axes: tuple[str, ...] | None, frame: Frame = _START) -> Picked | None:
        negative = isinstance(self.positions, tuple) and isinstance(self.positions[0], int) and self.positions[0] < 0
        return super().resolve(shape, axes, _START if negative else frame)


class ForgetsThePrompt(Selection):
    """Without a cache, counts negative positions from what was generated so far."""

    def resolve(self, shape: tuple[int, ...], axes: tuple[str, ...] | None, frame: Frame = _START) -> Picked | None:
        return super().resolve(shape, axes, frame._replace(prompt=None))


class EveryStep(Around):
    """Goes on writing what it wrote last, at every step."""

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        written: list[Tensor] = []

        def seen(tensor: Tensor) -> Tensor | None:
            new = callback(tensor)
            if new is not None:
                written[:] = [new]
            elif written and tensor.shape[1] == 1:
                return written[0][:, -1:]
            return new

        return self.own(model, seen)


def _selecting(selection: Callable[[], Selection], *names: str) -> type[Adapter]:
    def change(site: Site) -> Site:
        return replace(site, selection=selection()) if site.component in names else site

    return sited(change)


MUTANTS = [
    Mutant(
        "counts_positions_locally",
        "under a cache position 0 of block_output is written again at every step",
        "steps of one position, each with a position 0 (https://github.com/stanfordnlp/pyvene/issues/193)",
        _selecting(CountsLocally, "block_output"),
        ("block_output",),
        "generation:block_output",
        "generate with a cache, against position",
    ),
    Mutant(
        "writes_at_every_step",
        "what was written in the prompt's mlp_output is written at every step",
        "interventions on each decoding step where the prompt was meant "
        "(https://github.com/stanfordnlp/pyvene/issues/15)",
        reached_by(EveryStep, "mlp_output"),
        ("mlp_output",),
        "generation:mlp_output",
        "generate with a cache, against position",
    ),
    Mutant(
        "counts_from_each_steps_end",
        "position -1 of block_input is the newest token of each step, not the prompt's last",
        "unit location -1 under generate (https://github.com/stanfordnlp/pyvene/issues/193)",
        _selecting(CountsFromEachEnd, "block_input"),
        ("block_input",),
        "generation:block_input",
        "generate with a cache, against position",
    ),
    Mutant(
        "forgets_where_the_prompt_ends",
        "without a cache, position -1 of mlp_input moves on with what is generated",
        "the prompt's length read anew from each step's input",
        _selecting(ForgetsThePrompt, "mlp_input"),
        ("mlp_input",),
        "generation:mlp_input",
        "generate with a cache, against position",
    ),
]

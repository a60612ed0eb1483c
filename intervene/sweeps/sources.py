"""A sweep's source: the run whose activations are patched in, and the corruption of the base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..adapted import Adapted
from ..errors import SweepError
from ..session import Written
from ..sites import Site
from .engine import run_once
from .inputs import Batch
from .noise import GaussianNoise, token_embeddings


@dataclass(frozen=True)
class Source:
    """What is written where, and what the source run said.

    Attributes:
        values: each site's activation (rows, ...), or the number that is written there.
        logits: the source run's logits, None when a number is written.
    """

    values: Mapping[Site, Tensor | float]
    logits: Tensor | None


def read(
    adapted: Adapted,
    sites: Sequence[Site],
    batch: Batch,
    source: Mapping[str, Any] | float,
    attention: str | None,
) -> Source:
    """Run the source once and keep its activation at every site.

    Raises:
        SweepError: inputs of another shape than the base's.
    """
    if isinstance(source, (int, float)):
        return Source(dict.fromkeys(sites, float(source)), None)
    inputs = {**dict(source), **{n: batch.inputs[n] for n in _OPTIONS if n in batch.inputs}}
    for name in sorted(_SHAPED & inputs.keys() & batch.inputs.keys()):
        theirs, ours = tuple(inputs[name].shape), tuple(batch.inputs[name].shape)
        if theirs[1:2] != ours[1:2] or theirs[0] not in (1, batch.rows):
            raise SweepError(
                f"source and base are patched position by position and row by row: {name} has shape {theirs} in "
                f"the source and {ours} in the base"
            )
    logits, read = run_once(adapted, inputs, attention=attention, reads=sites)
    values = {s: _rows(read[s], batch.rows) for s in sites}
    return Source(values, _rows(logits, batch.rows))


_OPTIONS = ("use_cache", "logits_to_keep")
_SHAPED = {"input_ids", "inputs_embeds"}


def _rows(value: Tensor, rows: int) -> Tensor:
    return value.expand(rows, *value.shape[1:]) if value.shape[0] == 1 else value


def _embeddings(adapted: Adapted, tower: str | None) -> Site:
    """Where the embeddings of tokens flow by."""
    if adapted.adapter is not None:
        return adapted.site("embedding_output", tower=tower)
    table = token_embeddings(adapted.model)
    for path, module in adapted.model.named_modules():
        if module is table:
            return adapted[f"{path}.output"]
    raise SweepError(f"the token embeddings of {type(adapted.model).__name__} are none of its modules")


def corruption(
    adapted: Adapted, noise: GaussianNoise | None, columns: int, tower: str | None = None
) -> Callable[[Sequence[int], int], list[tuple[Site, Written]]]:
    """The writes that corrupt a forward, given which sample each of its first rows belongs to and its first column.

    Raises:
        SweepError: noise in a tower that embeds no tokens.
    """
    if noise is None:
        return lambda origins, first: []
    if tower is not None and adapted.adapter is not None and adapted.adapter.load_spec().towers[tower].positions:
        raise SweepError(
            f"noise is drawn for embeddings of tokens, and the tower {tower} embeds none: give source= another "
            f"{tower} input instead"
        )
    site, positions = _embeddings(adapted, tower), list(noise.positions)
    drawn: list[Tensor] = []

    def writes(origins: Sequence[int], first: int) -> list[tuple[Site, Written]]:
        passing = [entry for entry, position in enumerate(positions) if position % columns >= first]
        # A forward that begins later doesn't know the prompt's end by itself.
        chosen = [positions[entry] % columns if first else positions[entry] for entry in passing]

        def add(part: Tensor) -> Tensor:
            if not drawn:
                drawn.append(noise.draw(adapted.model, part.shape[-1]))
            return part + drawn[0][list(origins)][:, passing].to(part.device, part.dtype)

        return [(site.at(positions=chosen), add)] if passing else []

    return writes

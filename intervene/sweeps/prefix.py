"""The columns before the patched ones: a causal model computes the same there in every run, so it does so once.

Patching column ``p`` changes nothing before it, so that of those columns a patched run needs the keys and values
alone, and the base run has left them in its cache. Cells are put in lots of neighbouring columns, and each lot's
forward begins at the first column that one of its cells patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .plan import Cell

# Inputs with an entry for each column; a mask goes on covering the columns that are cached.
_BY_COLUMN = {"input_ids", "inputs_embeds", "position_ids", "token_type_ids"}
_KNOWN = _BY_COLUMN | {"attention_mask"}

# More lots save less and less, as each has its own pass over the weights; a small one isn't worth that. Measured with
# GPT-2 small, 12 x 16 cells on 2 cores, of as many bare forwards: 1 lot 0.133, 2 0.112, 4 0.102, 8 0.111, 16 0.142.
_LOTS = 4
_WORTH = 768


@dataclass(frozen=True)
class Prefix:
    """The base run's keys and values.

    Attributes:
        layers: each layer's keys and values, (rows, heads, columns, features).
    """

    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def columns(self) -> int:
        """How many columns the base has."""
        return int(self.layers[0][0].shape[-2])

    def continued(self, inputs: Mapping[str, Any], first: int) -> dict[str, Any]:
        """``inputs`` from column ``first`` on, with a cache of the columns before."""
        # Only a model of transformers' leaves such a prefix.
        from .prefix_cache import prefix_cache

        cut = {name: value[:, first:] if name in _BY_COLUMN else value for name, value in inputs.items()}
        return {**cut, "past_key_values": prefix_cache(self.layers, first), "use_cache": True}


def prefix_of(output: Any, columns: int, layers: int) -> Prefix | None:
    """The prefix in the output of a base run; None where its cache doesn't keep every column of each layer, as with a
    sliding window or a recurrent state."""
    cache = getattr(output, "past_key_values", None)
    held = list(getattr(cache, "layers", ()))
    if type(cache).__name__ != "DynamicCache" or len(held) != layers:
        return None
    if any(type(layer).__name__ != "DynamicLayer" for layer in held):
        return None
    if any(layer.keys.shape[-2] != columns for layer in held):
        return None
    return Prefix(tuple((layer.keys, layer.values) for layer in held))


def divisible(inputs: Mapping[str, Any], cells: Sequence[Cell], columns: int) -> bool:
    """Whether a sweep can begin at a later column: the last logits alone are wanted, each cell writes known columns
    within the blocks, and every input is known to go by columns."""
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    return (
        inputs.get("logits_to_keep") == 1
        and inputs.get("past_key_values") is None
        and tensors.keys() <= _KNOWN
        and all(value.shape[1:2] == (columns,) for value in tensors.values())
        and ("attention_mask" not in tensors or tensors["attention_mask"].dim() == 2)
        and all(cell.positions and cell.start is not None for cell in cells)
        and all({"position", "query_position"} & set(s.axes or ()) for cell in cells for s in cell.sites)
    )


def first_column(cell: Cell) -> int:
    """The first column that the cell writes; 0 where it writes all."""
    return min(cell.positions or (0,))


def lots(cells: Sequence[Cell], rows: int, columns: int) -> list[tuple[int, list[Cell]]]:
    """The cells in lots of neighbouring columns, each with the column that its forward begins at."""
    count = max(1, min(_LOTS, len(cells) * rows * columns // _WORTH))
    ordered = sorted(cells, key=first_column)
    size = -(-len(cells) // count)
    found = []
    for begin in range(0, len(cells), size):
        lot = ordered[begin : begin + size]
        found.append((first_column(lot[0]), sorted(lot, key=lambda c: -1 if c.start is None else c.start)))
    return found

"""Padding: positions that count from each row's first real token, as columns of the prompt."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..selection import Span
from .inputs import arguments
from .locations import Axis, Location


def columns_of(inputs: Any) -> int | None:
    """How many columns the prompt has, as far as the inputs say."""
    if inputs is None:
        return None
    args, kwargs = arguments(inputs)
    for name, axis in (("decoder_input_ids", -1), ("input_ids", -1), ("inputs_embeds", -2)):
        if isinstance(kwargs.get(name), Tensor):
            return int(kwargs[name].shape[axis])
    return int(args[0].shape[-1]) if args and isinstance(args[0], Tensor) and args[0].dim() == 2 else None


def first_tokens(inputs: Any) -> list[int] | None:
    """The column of each row's first real token, None where there is no padding on the left."""
    if inputs is None:
        return None
    mask = arguments(inputs)[1].get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        return None
    found = [int(first) for first in mask.ne(0).int().argmax(dim=1)]
    return found if any(found) else None


def counted_from_tokens(location: Location, inputs: Any, *, spans: bool = True) -> Location:
    """A location whose positions are columns, from one whose positions count each row's real tokens.

    Negative positions, which count from the prompt's end, are the same either way. A slice is left as it is unless
    ``spans``, for one that is open has no end here.
    """
    firsts, size = first_tokens(inputs), columns_of(inputs)
    rows = location.units.rows
    # `patches` says so where the batch has another number of rows.
    other = rows is not None and firsts is not None and len(rows) != len(firsts)
    open_ended = isinstance(location.units.every, Span) and not spans
    if firsts is None or size is None or location.units.whole or other or open_ended:
        return location
    moved = tuple(_moved(location.units.at(row), first, size) for row, first in enumerate(firsts))
    return Location(Axis(rows=moved), location.heads)


def _moved(units: Any, first: int, size: int) -> tuple[int, ...]:
    if isinstance(units, Span):
        return tuple(range(first, size)[slice(units.start, units.stop, units.step)])
    return tuple(unit + first if unit >= 0 else unit for unit in units)

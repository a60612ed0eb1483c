"""A run's inputs: what a model is called with, and how many rows that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


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

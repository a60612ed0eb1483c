"""The clock: which forward of the model is running, and how much of the sequence earlier ones computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .ports import Handle, parameter_names
from .selection import Frame

_CACHE_ARGUMENT = "past_key_values"


class Clock:
    """Counts the model's forwards and reads each one's past length.

    It listens on the base model (transformers' ``base_model``, else the model itself), because ``generate``, a
    head, and a caller of the bare base all pass through there.
    """

    def __init__(self) -> None:
        self.forwards = 0
        self.running = False
        self.frame = Frame()

    def attach(self, model: nn.Module) -> list[Handle]:
        """Start listening; the handles stop it."""
        base = getattr(model, "base_model", model)
        base = base if isinstance(base, nn.Module) else model
        return [
            base.register_forward_pre_hook(self._begin, with_kwargs=True),
            base.register_forward_hook(self._end, always_call=True),
        ]

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if recomputing():
            return
        past = kwargs.get(_CACHE_ARGUMENT)
        if past is None and args:
            names = parameter_names(type(module).forward)
            if _CACHE_ARGUMENT in names and names.index(_CACHE_ARGUMENT) < len(args):
                past = args[names.index(_CACHE_ARGUMENT)]
        self.forwards += 1
        self.running = True
        self.frame = Frame(offset=_past_length(past))

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.running = False


def recomputing() -> bool:
    """Whether this code runs inside a backward pass, as it does when checkpointing recomputes a forward."""
    return bool(torch._C._current_graph_task_id() != -1)


def _past_length(past: Any) -> int:
    if past is None:
        return 0
    if hasattr(past, "get_seq_length"):
        return int(past.get_seq_length())
    return int(past[0][0].shape[-2])

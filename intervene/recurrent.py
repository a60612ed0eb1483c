"""Recurrent modules of torch.nn, seen step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UnsupportedModelError
from .paths import way
from .ports import Callback, Handle, Port
from .shadow import Around

RECURRENT = (nn.RNN, nn.GRU, nn.LSTM)


@dataclass(frozen=True)
class Steps(Port):
    """The hidden state (batch, feature) that the last layer of an `nn.RNN`, `nn.GRU` or `nn.LSTM` hands on.

    The callback sees it once a time step, and what it puts there is what that step puts out and the next one starts
    from. torch runs such a module over a whole sequence in one call, where no step shows; while this port is
    attached it runs one call a step.
    """

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        module = way(model, self.path)[-1]
        if not isinstance(module, RECURRENT):
            raise UnsupportedModelError(f"{self.path or 'the model'} is a {type(module).__name__}, no recurrent module")
        if module.bidirectional:
            raise UnsupportedModelError(
                f"{self.path or 'the model'} is bidirectional: no step's state is the start of only the next one"
            )
        return Around(module, _Stepwise(module, self, callback))

    def __str__(self) -> str:
        return f"{self.path or 'model'} step"


class _Stepwise:
    """Runs a recurrent module's ``forward`` a step at a time."""

    def __init__(self, module: nn.RNNBase, port: Steps, callback: Callback) -> None:
        self._batch_first, self._port, self._callback = module.batch_first, port, callback

    def __call__(self, forward: Callable[..., Any], input: Any, hx: Any = None) -> tuple[Tensor, Any]:
        if not isinstance(input, Tensor):
            raise UnsupportedModelError(f"{self._port}: a {type(input).__name__} has no common steps; pad it instead")
        axis = 1 if self._batch_first and input.dim() == 3 else 0
        outputs = []
        for step in torch.split(input, 1, dim=axis):
            output, hx = forward(step, hx)
            new = self._callback((hx[0] if isinstance(hx, tuple) else hx)[-1])
            if new is not None:
                output, hx = new.unsqueeze(axis), _with_last(hx, new)
            outputs.append(output)
        return torch.cat(outputs, dim=axis), hx


def _with_last(state: Any, new: Tensor) -> Any:
    """The state with another hidden state of the last layer; an LSTM's has its cell state beside it."""
    hidden = state[0] if isinstance(state, tuple) else state
    changed = torch.cat([hidden[:-1], new.unsqueeze(0)])
    return (changed, *state[1:]) if isinstance(state, tuple) else changed

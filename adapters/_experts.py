"""What the experts of a mixture-of-experts layer compute, as in transformers.

Their weights are one tensor and no module's boundary shows a single expert. transformers' implementation "batched_mm"
computes the choices of all tokens side by side, (tokens * choices, feature), the tokens in their order and each token's
most wanted expert first; the others sort them by expert, and never hold all at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from intervene import guards
from intervene.calls import Call
from intervene.ports import Callback, Handle, Port, before

_FILE = "transformers.integrations.moe"
# Its two calls of one function are the experts' first and second projection.
_CALLS = {
    "input": Call("", ("_batched_linear",), argument="input", nth=0, file=_FILE),
    "activation": Call("", ("_batched_linear",), argument="input", nth=1, file=_FILE),
    "output": Call("", ("_batched_linear",), nth=1, file=_FILE),
}


@dataclass(frozen=True)
class Experts(Port):
    """What the experts read ("input"), what enters their down projection ("activation"), what leaves it ("output").

    (tokens * choices, feature) of all experts, or (tokens, feature) of those that the router sent to ``expert``. An
    expert that no token was sent to computes nothing, and nothing flows by.
    """

    what: str = "output"
    expert: int | None = None
    implementation: ClassVar[str] = "batched_mm"

    def require(self, model: nn.Module) -> None:
        guards.require_experts(model, self.path, str(self), self.implementation)

    def of_expert(self, expert: int) -> Port:
        return replace(self, expert=expert)

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        port = replace(_CALLS[self.what], path=self.path)
        if self.expert is None:
            return port.attach(model, callback)
        return _OfExpert(model, port, self.expert, callback)

    def __str__(self) -> str:
        whose = "the experts" if self.expert is None else f"expert {self.expert}"
        return f"{self.what} of {whose} in {self.path or 'model'}"


class _OfExpert:
    """Shows a callback the rows that were sent to one expert: the handle that does so."""

    def __init__(self, model: nn.Module, port: Port, expert: int, callback: Callback) -> None:
        self._expert, self._callback = expert, callback
        self._chosen = torch.empty(0)
        module = model.get_submodule(port.path)
        self._handles = [before(module, self._note), port.attach(model, self._show)]

    def _note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # (tokens, choices) of experts' numbers: the second argument of every experts module's forward.
        self._chosen = kwargs["top_k_index"] if "top_k_index" in kwargs else args[1]

    def _show(self, whole: Tensor) -> Tensor | None:
        (rows,) = torch.where(self._chosen.reshape(-1) == self._expert)
        if not len(rows):
            return None
        new = self._callback(whole[rows])
        return None if new is None else whole.index_copy(0, rows, new)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._chosen = torch.empty(0)

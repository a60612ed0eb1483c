"""Gradient checkpointing: a forward that the backward pass computes a second time, and must find written as before."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from .errors import GradientCheckpointingError


def recomputing() -> bool:
    """Whether this code runs inside a backward pass, as it does when checkpointing recomputes a forward."""
    return not torch.compiler.is_compiling() and bool(torch._C._current_graph_task_id() != -1)


def checkpointing() -> bool:
    """Whether this code runs in a forward that torch.utils.checkpoint will run a second time, in the backward pass.

    The call stack says so for both of torch's kinds, wherever in the model the checkpoint stands; what wraps a
    checkpoint from outside, as the hooks of a layer that checkpoints its own forward, runs once.
    """
    # Under torch.compile there is no call stack to see.
    frame: FrameType | None = None if torch.compiler.is_compiling() else sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == "torch.utils.checkpoint":
            return True
        frame = frame.f_back
    return False


class Awaited:
    """What a session wrote in forwards that a backward pass has yet to compute again."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._written: dict[object, str] = {}

    def check(self) -> None:
        """Raise where the session would close before such a backward pass.

        Raises:
            GradientCheckpointingError: the gradients would silently be those of the plain model.
        """
        if self._written:
            raise GradientCheckpointingError(
                f"{next(iter(self._written.values()))} was written under gradient checkpointing, whose backward pass "
                f"computes that layer again; closing the session first gives silently wrong gradients. Call "
                f"backward() inside the session, run under torch.no_grad(), or turn checkpointing off "
                f"with model.gradient_checkpointing_disable()"
            )

    def note(self, whole: Tensor, changed: Tensor, address: str, again: bool, replays: list[object]) -> Tensor:
        """Note a write that turned ``whole`` into ``changed``; the tensor to go on with.

        Args:
            again: whether a backward pass is computing the forward now.
            replays: the port's own notes that its second pass has to strike out.
        """
        if again and replays:
            self._written.pop(replays.pop(), None)
            return changed
        if not changed.is_floating_point() or not checkpointing():
            return changed
        builds_graph = torch.is_grad_enabled()
        if builds_graph and not (whole.requires_grad or changed.requires_grad or self._trained()):
            return changed
        if again:
            # Marked as in the first pass, or the two would save different tensors.
            return _marked(changed, lambda: None)
        token = object()
        self._written[token] = address
        if builds_graph:
            return _marked(changed, lambda: self._written.pop(token, None))
        # The reentrant kind builds no graph at first; its second pass reaches this place for certain.
        replays.append(token)
        return changed

    def _trained(self) -> bool:
        return any(p.requires_grad for p in self._model.parameters())


def _marked(changed: Tensor, mark: Callable[[], Any]) -> Tensor:
    leaf = torch.empty(0, device=changed.device, requires_grad=True)
    marked: Tensor = ReachedByBackward.apply(changed, leaf, mark)  # type: ignore[no-untyped-call]
    return marked


class ReachedByBackward(torch.autograd.Function):
    """The identity; calls ``mark`` when a backward pass comes by.

    ``leaf`` needs gradients, so that it does so for a ``tensor`` that needs none, too.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, leaf: Tensor, mark: Callable[[], Any]) -> Tensor:
        ctx.mark = mark
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        ctx.mark()
        return gradients[0], None, None

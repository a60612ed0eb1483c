"""The clock: which forward of the model is running, and which columns of the sequence pass by in it."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from .checkpointing import recomputing
from .ports import Handle, parameter_names
from .selection import Frame

_CACHE = "past_key_values"
# The inputs that say how many columns there are, and on which axis.
_COLUMNS = {"input_ids": -1, "inputs_embeds": -2}
_KEPT = "logits_to_keep"


class Clock:
    """Counts the model's forwards and reads from each one's arguments where in the sequence it stands.

    It listens on the model and on its base (transformers' ``base_model``), because a caller may run the bare base;
    a base that the model itself calls belongs to the model's forward.

    Attributes:
        forwards: how many began.
        running: whether one is under way.
        grad: whether gradients were on as the last one began.
        frame: where in the sequence the last one stands.
    """

    def __init__(self) -> None:
        self.forwards = 0
        self.running = False
        self.grad = False
        self.frame = Frame()
        self._model: nn.Module | None = None
        self._within_model = False
        self._generation: FrameType | None = None
        self._prompt: int | None = None

    def attach(self, model: nn.Module) -> list[Handle]:
        """Start listening; the handles stop it."""
        self._model = model
        base = getattr(model, "base_model", model)
        listened = [model] if base is model or not isinstance(base, nn.Module) else [model, base]
        handles: list[Handle] = []
        for module in listened:
            begin, end = (self._begin, self._end) if module is model else (self._begin_base, self._end_base)
            handles.append(module.register_forward_pre_hook(begin, with_kwargs=True))
            handles.append(module.register_forward_hook(end, always_call=True))
        return handles

    def forget(self) -> None:
        """Let go of the call of ``generate`` that was last seen."""
        self._generation = None

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not recomputing():
            self._start(module, args, kwargs)
            self._within_model = True

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.running = self._within_model = False

    def _begin_base(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if recomputing():
            return
        # An interrupt, or the early stop of a read, leaves a forward without its end being heard.
        self._within_model = self._within_model and _calls("_call_impl", self._model) is not None
        if not self._within_model:
            self._start(module, args, kwargs)

    def _end_base(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.running = self._within_model

    def _start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.forwards += 1
        self.running = True
        self.grad = torch.is_grad_enabled()
        passed = {**dict(zip(parameter_names(type(module).forward), args, strict=False)), **kwargs}
        offset = _past_length(passed.get(_CACHE))
        given = ((passed.get(n), axis) for n, axis in _COLUMNS.items())
        length = next((t.shape[axis] for t, axis in given if isinstance(t, Tensor) and t.dim() >= -axis), None)
        kept = passed.get(_KEPT)
        self.frame = Frame(
            offset=offset,
            length=length,
            kept=kept if isinstance(kept, int) and kept > 0 else None,
            prompt=self._prompt_length(module, length) if offset == 0 and length is not None else None,
        )

    def _prompt_length(self, module: nn.Module, length: int | None) -> int | None:
        """The length of the prompt, which a later step of ``generate`` without a cache runs again and more."""
        generation = _calls("generate", module)
        if generation is None or generation is not self._generation:
            self._generation, self._prompt = generation, length
        return self._prompt


def _calls(method: str, owner: object) -> FrameType | None:
    """The innermost running call of ``owner``'s ``method``, if there is one."""
    # Under torch.compile there is no call stack to see.
    frame: FrameType | None = None if torch.compiler.is_compiling() else sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == method and frame.f_locals.get("self") is owner:
            return frame
        frame = frame.f_back
    return None


def _past_length(past: Any) -> int:
    if past is None:
        return 0
    if hasattr(past, "get_seq_length"):
        return int(past.get_seq_length())
    return int(past[0][0].shape[-2])

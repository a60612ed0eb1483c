"""Ports on a residual stream that blocks hand on in two parts, to be added by whoever reads it.

mamba_ssm's blocks return what their sub-layer gives and the stream before it, because one kernel then adds the two and
norms the sum. The stream itself is made at a block's entrance alone. These ports make it where it is asked for, by the
same addition; what is put in its place is handed on whole, with nothing to add to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .paths import way
from .ports import Callback, Handle, Port, after, as_tensor, before, parameter_names


@dataclass(frozen=True)
class StreamInput(Port):
    """The residual stream that enters a block whose first two arguments are its parts, the second of them or None."""

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            first, second = parameter_names(type(module).forward)[:2]
            passed = {**dict(zip((first, second), args, strict=False)), **kwargs}
            new = callback(_stream(passed[first], passed.get(second), self))
            if new is None:
                return None
            rest = {name: value for name, value in kwargs.items() if name not in (first, second)}
            return (new, None, *args[2:]), rest

        return before(way(model, self.path)[-1], hook)

    def __str__(self) -> str:
        return f"stream into {self.path or 'the model'}"


@dataclass(frozen=True)
class StreamOutput(Port):
    """The residual stream that leaves a block which returns its parts, the second of them or None."""

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        def hook(module: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, Tensor | None]) -> Any:
            new = callback(_stream(output[0], output[1], self))
            return None if new is None else (new, None)

        return after(way(model, self.path)[-1], hook)

    def __str__(self) -> str:
        return f"stream out of {self.path or 'the model'}"


def _stream(part: Any, residual: Any, port: Port) -> Tensor:
    if residual is None:
        return as_tensor(part, port)
    return as_tensor(part, port).add(as_tensor(residual, port))

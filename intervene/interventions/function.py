"""Any callable as an intervention."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InterventionArgumentError, InterventionError, ShapeMismatchError
from .base import Intervention, like
from .subspaces import Subspaces


class FunctionIntervention(Intervention):
    """A callable: ``f(base)`` or ``f(base, source)``, or ``f(base, source, subspaces)``.

    Shapes: the function is given base (batch, ..., width) and source in the same shape, and returns a tensor that
    broadcasts to it. It must not write in place, and should act on each row by itself. An argument with a default is
    handed on if it is called ``source`` or ``subspaces`` and there is one. A function that takes no subspaces has its
    result confined to the chosen ones. It has no name in a saved config: derive a class to save it.
    """

    def __init__(self, function: Callable[..., Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not callable(function):
            raise InterventionArgumentError(f"FunctionIntervention wraps a callable, found {function!r}")
        self.function = function
        self._takes, self._required = _arity(function)
        self.is_source_constant = self.is_source_constant or self._required < 2

    @property
    def takes_source(self) -> bool:
        """Whether the function has a place for a source and none is constant."""
        return self._takes >= 2 and self.source_representation is None

    def forward(self, base: Tensor, source: Tensor | None = None, subspaces: Subspaces | None = None) -> Tensor:
        self.check_width(base)
        optional = self.is_source_constant and self.source_representation is None
        given = source if optional else self.resolve_source(base, source)
        if given is not None and self._takes < 2:
            raise InterventionError(f"{self._name()} takes no source; call it without one")
        # A copy: a function that works in place must not reach the caller's own tensor.
        copied = None if given is None else like(base, given, self._name()).clone()
        arguments = [base, copied, subspaces][: self._takes]
        while len(arguments) > self._required and arguments[-1] is None:
            arguments.pop()  # so that the function's own default holds
        result = self.function(*arguments)
        if not isinstance(result, Tensor):
            raise ShapeMismatchError(f"{self._name()} returned {type(result).__name__}, not a tensor")
        result = like(base, result, self._name())
        acted = None if self._takes == 3 else self.acted_on(base, subspaces)
        return result if acted is None else torch.where(acted, result, base)

    def spec(self) -> dict[str, Any]:
        raise InterventionError(
            f"{self._name()} is a bare function and can't be saved; derive a class from intervene.Intervention with "
            f"this as its operate(base, source)"
        )

    def extra_repr(self) -> str:
        return self._name()

    def _name(self) -> str:
        return getattr(self.function, "__qualname__", repr(self.function))


def _arity(function: Callable[..., Any]) -> tuple[int, int]:
    """How many of (base, source, subspaces) a function takes, and how many it can't do without."""
    try:
        # A module's own signature is that of any module; what it takes is what its forward takes.
        called = function.forward if isinstance(function, nn.Module) else function
        parameters = list(inspect.signature(called).parameters.values())
    except (TypeError, ValueError) as error:  # functions written in C often don't show theirs
        raise InterventionArgumentError(
            f"{function!r} does not say what it takes; wrap it: lambda base: f(base), or lambda base, source: ..."
        ) from error
    positional = [p for p in parameters if p.kind in _POSITIONAL]
    required = sum(p.default is p.empty for p in positional)
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return max(required, 2), max(required, 2)
    if not positional or required > 3 or any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        raise InterventionArgumentError(
            f"{function!r} must be callable as f(base), f(base, source) or f(base, source, subspaces)"
        )
    takes = max(required, 1)
    # What has a default is handed on if its name says what it is for; others are the function's own affair.
    while takes < min(len(positional), 3) and positional[takes].name == ("base", "source", "subspaces")[takes]:
        takes += 1
    return takes, required


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

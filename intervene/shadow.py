"""Shadows: what stands before a module's ``forward`` on the instance, and is gone afterwards.

Unlike a pair of hooks, what runs a forward sees its end whatever happens in it, and costs a function call.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

Runner = Callable[..., Any]


class Shadow:
    """Lets others run a module's ``forward``: each is called with it and its arguments, and calls it.

    One shadow serves all of them, so that they can come and go in any order.

    Attributes:
        runners: those that run it, the innermost first.
    """

    def __init__(self, module: nn.Module) -> None:
        self.runners: list[Runner] = []
        self._module = module
        self._own = module.__dict__.get("forward")
        # Where `inspect.signature` looks for what is wrapped.
        self.__wrapped__ = module.forward
        module.__dict__["forward"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        forward = self.__wrapped__
        for runner in self.runners:
            forward = partial(runner, forward)
        return forward(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # A copy of the module is nobody's, and has a forward of its own.
        return copy.deepcopy(self.__wrapped__, memo)

    def remove(self, runner: Runner) -> None:
        """Have ``runner`` run it no more; with the last one gone the module has its own forward again."""
        self.runners.remove(runner)
        # Somebody may have put something else over this shadow.
        if self.runners or self._module.__dict__.get("forward") is not self:
            return
        if self._own is None:
            del self._module.__dict__["forward"]
        else:
            self._module.__dict__["forward"] = self._own


def shadow(module: nn.Module) -> Shadow:
    """The shadow of ``module``'s forward, put there unless it stands there."""
    found = module.__dict__.get("forward")
    return found if isinstance(found, Shadow) else Shadow(module)


class Around:
    """Has ``runner`` run a module's forward until `remove`."""

    def __init__(self, module: nn.Module, runner: Runner) -> None:
        self._shadow, self._runner = shadow(module), runner
        self._shadow.runners.append(runner)

    def remove(self) -> None:
        self._shadow.remove(self._runner)

"""Ports: where a tensor flows by, and how a callback gets to see and replace it.

Ports hold module paths, not modules: they are data, can be compared and hashed, and are bound to a model only by
`Port.attach`. A callback takes the tensor and returns its replacement, or None to leave it alone.
"""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Protocol, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .errors import PortError, SelectionError
from .lenses import Lens
from .paths import way

Callback = Callable[[Tensor], Tensor | None]


class Handle(Protocol):
    """What `Port.attach` hands back; ``remove`` undoes the attachment exactly."""

    def remove(self) -> None: ...


@dataclass(frozen=True)
class View:
    """A port and the lens its tensor is looked at through: the right-hand side of an adapter's table."""

    port: Port
    lens: Lens

    def __rshift__(self, lens: Lens) -> View:
        return View(self.port, self.lens >> lens)


@dataclass(frozen=True)
class Port(ABC):
    """Where a tensor flows by, relative to the block or the model that the adapter's table is about.

    ``call`` says which of the module's calls in one forward is meant, from 0, where a model calls it several times.
    """

    path: str = ""
    call: int | None = field(default=None, kw_only=True)

    def __rshift__(self, lens: Lens) -> View:
        return View(self, lens)

    def under(self, prefix: str) -> Port:
        """The same port with ``prefix`` before its module path."""
        return replace(self, path=f"{prefix}.{self.path}" if prefix and self.path else prefix or self.path)

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the modules that it is attached to."""
        return (self.path,)

    def require(self, model: nn.Module) -> None:  # noqa: B027 - most ports ask for nothing
        """Raise where the model, as it is set up now, would never let the tensor flow by here."""

    def of_expert(self, expert: int) -> Port:
        """The port that shows what a single expert computes.

        Raises:
            SelectionError: nothing that flows by here belongs to experts.
        """
        raise SelectionError(f"cannot choose an expert: {self} is not what experts compute")

    @abstractmethod
    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        """Let ``callback`` see the tensor at every forward, until the handle is removed."""

    @abstractmethod
    def __str__(self) -> str: ...


@dataclass(frozen=True)
class Input(Port):
    """A module's argument ``name``, passed by position or by keyword; without a name the first argument."""

    name: str | None = None

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            key = self._locate(module, args, kwargs)
            value = args[key] if isinstance(key, int) else kwargs[key]
            new = callback(as_tensor(value, self))
            if new is None:
                return None
            if isinstance(key, int):
                return (*args[:key], new, *args[key + 1 :]), kwargs
            return args, {**kwargs, key: new}

        return before(way(model, self.path)[-1], hook)

    def _locate(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | str:
        if self.name is None and args:
            return 0
        names = parameter_names(type(module).forward)
        name = self.name if self.name is not None else next(iter([*names, *kwargs]), "")
        if name in kwargs:
            return name
        if name in names and names.index(name) < len(args):
            return names.index(name)
        raise PortError(
            f"{self}: the call passed no argument {name!r}; it passed {len(args)} positional and "
            f"{sorted(kwargs)} by keyword, forward takes {list(names)}"
        )

    def __str__(self) -> str:
        return f"{self.path or 'model'} input" + (f" {self.name!r}" if self.name else "") + _which(self.call)


@dataclass(frozen=True)
class Output(Port):
    """What a module returns; of a tuple or mapping the entry ``index`` (the first, unless it says otherwise)."""

    index: int | str = 0

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if isinstance(output, Tensor):
                return callback(output)
            new = callback(as_tensor(entry(output, self.index, self), self))
            return None if new is None else with_entry(output, self.index, new)

        module = way(model, self.path)[-1]
        handle = after(module, hook)
        _before_recorders(module, handle.id)
        return handle

    def __str__(self) -> str:
        return f"{self.path or 'model'} output" + (f" {self.index!r}" if self.index != 0 else "") + _which(self.call)


def before(module: nn.Module, hook: Callable[..., Any]) -> Handle:
    """Have ``hook(module, args, kwargs)`` called before the module's forward, and before no copy's."""
    return module.register_forward_pre_hook(_of(module, hook), with_kwargs=True)


def after(module: nn.Module, hook: Callable[..., Any]) -> RemovableHandle:
    """Have ``hook(module, args, output)`` called after the module's forward, and after no copy's."""
    return module.register_forward_hook(_of(module, hook))


def _of(module: nn.Module, hook: Callable[..., Any]) -> Callable[..., Any]:
    """``hook``, deaf to copies of ``module``: torch copies a module with its hooks, and a copy is nobody's."""

    def hears(called: nn.Module, *rest: Any) -> Any:
        return hook(called, *rest) if called is module else None

    return hears


def _which(call: int | None) -> str:
    return "" if call is None else f" of call {call}"


@dataclass(frozen=True)
class Either(Port):
    """Several ports of which each forward passes one, the same tensor in all: a scan, say, or its one-step form."""

    ports: tuple[Port, ...] = ()

    def under(self, prefix: str) -> Port:
        own = super().under(prefix)
        return replace(own, ports=tuple(port.under(prefix) for port in self.ports))  # type: ignore[call-arg]

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(path for port in self.ports for path in port.paths)

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        return _Handles([port.attach(model, callback) for port in self.ports])

    def __str__(self) -> str:
        return " or ".join(map(str, self.ports))


class _Handles:
    """The handles of several attachments, as one."""

    def __init__(self, handles: list[Handle]) -> None:
        self._handles = handles

    def remove(self) -> None:
        while self._handles:
            self._handles.pop().remove()


@cache
def parameter_names(forward: Callable[..., Any]) -> tuple[str, ...]:
    """The names that a module class's ``forward`` takes by position, in order.

    The class's, not the instance's: accelerate shadows the latter with ``(*args, **kwargs)``.
    """
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in parameters if p.kind in kinds)


def as_tensor(value: Any, port: Port) -> Tensor:
    """``value``, which must be a tensor."""
    if isinstance(value, Tensor):
        return value
    raise PortError(f"{port}: expected a tensor there, found {type(value).__name__}")


def entry(output: Any, index: int | str, port: Port) -> Any:
    """The entry ``index`` of a tuple or mapping that flows by at ``port``."""
    try:
        return output[_key(output, index)]
    except (TypeError, KeyError, IndexError) as error:
        held = list(output) if isinstance(output, Mapping) else type(output).__name__
        raise PortError(f"{port}: found {held}, without the entry {index!r}") from error


def _key(output: Any, index: int | str) -> Any:
    """The key of entry ``index``; a mapping's entries count in their order."""
    return list(output)[index] if isinstance(output, Mapping) and isinstance(index, int) else index


def with_entry(output: Any, index: int | str, new: Tensor) -> Any:
    """A copy of a tuple or mapping with ``new`` at ``index``."""
    if isinstance(output, tuple) and isinstance(index, int):
        items = [new if i == index % len(output) else item for i, item in enumerate(output)]
        # A namedtuple takes its items one by one; torch's own named results, as of `max`, take them as one.
        return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
    copied = copy.copy(output)
    copied[_key(output, index)] = new
    return copied


def _before_recorders(module: nn.Module, own: int) -> None:
    """Move the hook ``own`` before those with which transformers records hidden states and attentions.

    What it records is what flows on, our writes included. The order of all other hooks stays: those from the first
    recorder on go to the end one by one, and `own` remains before them.
    """
    hooks = cast("OrderedDict[int, Any]", module._forward_hooks)
    if len(hooks) == 1:
        return
    keys = list(hooks)
    recorders = [k for k in keys if getattr(hooks[k], "__module__", "").endswith(_RECORDER_MODULE)]
    if recorders:
        for key in keys[keys.index(recorders[0]) :]:
            if key != own:
                hooks.move_to_end(key)


_RECORDER_MODULE = "transformers.utils.output_capturing"

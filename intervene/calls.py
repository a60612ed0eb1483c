"""Ports on what a module's forward calls, where no module boundary shows: torch's functions, and Python's.

While such a port is attached, the module's ``forward`` is shadowed on the instance, so that calls are seen exactly
while it runs, in its own thread, and in no other module.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from . import guards
from .errors import PortError
from .paths import way
from .ports import Callback, Handle, Port, as_tensor, entry, with_entry
from .shadow import shadow


@dataclass(frozen=True)
class Function(Port):
    """A torch function that a module calls inside its forward.

    ``functions`` are the callables that count as the one function (``torch.softmax`` and its spellings);
    ``argument`` is the positional argument that is meant, or None for the result. ``eager`` says that only eager
    attention makes the call. Where one of the functions is called for much else, ``with_result_of`` names others of
    which the meant call's last argument is a result (the first one being of the same shape), ``weight`` is the path of
    the module's parameter that is among its arguments, and ``nth`` says which of a forward's calls counts, from 0.
    """

    functions: tuple[Callable[..., Any], ...] = ()
    argument: int | None = None
    label: str = "function"
    eager: bool = False
    with_result_of: tuple[Callable[..., Any], ...] = ()
    weight: str = ""
    nth: int | None = None

    def require(self, model: nn.Module) -> None:
        if self.eager:
            guards.require_eager(model, self.path, str(self))

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        return _Attached(way(model, self.path)[-1], self, callback)

    def __str__(self) -> str:
        return f"{self.label} in {self.path or 'model'}"


SOFTMAX = (torch.nn.functional.softmax, torch.softmax, torch.Tensor.softmax)


def Attention(what: str, path: str = "") -> Function:
    """The attention ``"scores"`` (what enters the softmax) or ``"pattern"`` (what leaves it) of a module.

    Only eager attention computes them; fused kernels never hold a pattern.
    """
    arguments = {"scores": 0, "pattern": None}
    if what not in arguments:
        raise ValueError(f"Attention knows {sorted(arguments)}, not {what!r}")
    return Function(path, SOFTMAX, arguments[what], f"attention {what}", eager=True)


def Gated(path: str = "") -> Function:
    """What a module multiplies by the SiLU of its gate, before the product.

    A fused kernel that is handed the gate never holds it.
    """
    product = (torch.Tensor.mul, torch.Tensor.__mul__, torch.mul)
    return Function(path, product, 0, "what is gated", with_result_of=(torch.nn.functional.silu,))


@dataclass(frozen=True)
class Call(Port):
    """A Python function that a module's forward calls by a name in its file (``apply_rotary_pos_emb``, say), or a
    method of the module.

    ``names`` are alternatives of which each forward calls one: a scan of whole sequences, say, and its one-step form
    under a cache. ``argument`` is the parameter that is meant, by its name; without it the result is, and ``index`` its
    entry where that is a tuple. ``nth`` says which of a forward's calls counts, from 0, where it makes several, and
    ``file`` the Python module that the function is called from, where that isn't the one of the module's class.
    ``updated`` says that the function works on the argument in place, as on a cache's state: a write then goes into
    that tensor, for in another one the update would be lost.
    """

    names: tuple[str, ...] = ()
    argument: str | None = None
    index: int | None = None
    nth: int | None = None
    file: str = ""
    updated: bool = False

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        module = way(model, self.path)[-1]
        for name in self.names:
            _namespace(module, name, self)
        return _Attached(module, self, callback, [_stand_in(module, name, self) for name in self.names])

    def __str__(self) -> str:
        what = f"argument {self.argument!r}" if self.argument else "result" + _entry_text(self.index)
        return f"{what} of {' or '.join(self.names)} in {self.path or 'model'}"


def _entry_text(index: int | None) -> str:
    return "" if index is None else f" {index}"


class _FunctionWatch(TorchFunctionMode):
    """Shows a module's calls of torch functions to callbacks, in the order in which they were attached.

    One mode serves every port of a module. Of two nested modes the inner one would see arguments first and results
    last, so that sessions opened one inside the other would see each other's writes at one end only.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.watched: list[tuple[Function, Callback]] = []
        self._module = module
        self._results: dict[Callable[..., Any], Any] = {}
        self._counts: Counter[Callable[..., Any]] = Counter()

    def __exit__(self, *raised: Any) -> None:
        self._results.clear()
        self._counts.clear()
        super().__exit__(*raised)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        here = [(port, callback) for port, callback in self.watched if self._is_meant(port, func, args)]
        for port, callback in here:
            if port.argument is not None:
                if port.argument >= len(args):
                    raise PortError(f"{port}: called without a positional argument {port.argument}")
                args = _with_position(args, port.argument, callback, port)
        result = func(*args, **(kwargs or {}))
        for port, callback in here:
            if port.argument is None:
                result = _with_result(result, None, callback, port)
        self._counts[func] += 1
        if any(func in port.with_result_of for port, _ in self.watched):
            self._results[func] = result
        return result

    def _is_meant(self, port: Function, func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
        if func not in port.functions or port.nth not in (None, self._counts[func]):
            return False
        if port.weight:
            weight = self._module.get_parameter(port.weight)
            return any(each is weight for each in args)
        made = [self._results[each] for each in port.with_result_of if each in self._results]
        return not port.with_result_of or any(args[-1] is each and args[0].shape == each.shape for each in made)


class _Watch:
    """Runs a module's forward and says, meanwhile, which of its calls are watched."""

    def __init__(self, module: nn.Module) -> None:
        self.torch_calls = _FunctionWatch(module)
        self.calls: list[tuple[Call, Callback]] = []
        self._counts: Counter[str] = Counter()

    def __call__(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # A pair of hooks would leave torch's mode on its stack when an exception passes between them.
        with ExitStack() as stack:
            if self.torch_calls.watched:
                stack.enter_context(self.torch_calls)
            if self.calls:
                self._counts.clear()
                stack.enter_context(_running.around(self))
            return forward(*args, **kwargs)

    def call(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call ``function``, with its arguments and its result shown to those who watch it."""
        nth, self._counts[name] = self._counts[name], self._counts[name] + 1
        here = [(p, callback) for p, callback in self.calls if name in p.names and p.nth in (None, nth)]
        with _running.around(None):  # what a callback calls is its own
            for port, callback in here:
                if port.argument is None:
                    continue
                watch = _into(callback) if port.updated else callback
                if port.argument in kwargs:
                    new = watch(as_tensor(kwargs[port.argument], port))
                    kwargs = kwargs if new is None else {**kwargs, port.argument: new}
                else:
                    args = _with_position(args, _position(function, port, len(args)), watch, port)
            result = function(*args, **kwargs)
            for port, callback in here:
                if port.argument is None:
                    result = _with_result(result, port.index, callback, port)
        return result


class _Attached:
    """The handle of a `Function` or `Call`: all of a module share one watch."""

    def __init__(
        self, module: nn.Module, port: Function | Call, callback: Callback, stand_ins: Sequence[_StandIn] = ()
    ) -> None:
        self._shadow = shadow(module)
        found = [around for around in self._shadow.runners if isinstance(around, _Watch)]
        self._watch = found[0] if found else _Watch(module)
        if not found:
            self._shadow.runners.append(self._watch)
        self._port, self._callback = port, callback
        self._stand_ins = stand_ins
        self._watched.append((port, callback))

    @property
    def _watched(self) -> list[Any]:
        return self._watch.calls if isinstance(self._port, Call) else self._watch.torch_calls.watched

    def remove(self) -> None:
        self._watched.remove((self._port, self._callback))
        if not self._watch.calls and not self._watch.torch_calls.watched:
            self._shadow.remove(self._watch)
        for stand_in in self._stand_ins:
            stand_in.release()


class _Running(threading.local):
    """The shadowed forward that runs in this thread, the innermost of several; None where calls are nobody's."""

    innermost: _Watch | None = None

    @contextmanager
    def around(self, watch: _Watch | None) -> Iterator[None]:
        outer, self.innermost = self.innermost, watch
        try:
            yield
        finally:
            self.innermost = outer


_running = _Running()
_lock = threading.Lock()


class _StandIn:
    """Takes a function's place in the file of a modelling code, as long as some module's calls of it are watched.

    It passes a call on unless a watched forward made it: other models of the same code, and other threads, see none of
    this.
    """

    def __init__(self, namespace: dict[str, Any], name: str, function: Callable[..., Any]) -> None:
        self._namespace, self._name = namespace, name
        self._users = 0
        self._inherited = name not in namespace
        self.function = function
        functools.update_wrapper(self, self.function)
        namespace[name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        watching = _running.innermost
        if watching is None:
            return self.function(*args, **kwargs)
        return watching.call(self._name, self.function, args, kwargs)

    def retain(self) -> None:
        self._users += 1

    def release(self) -> None:
        """Put the function back with the last user gone, unless somebody has replaced this stand-in."""
        with _lock:
            self._users -= 1
            if self._users or self._namespace.get(self._name) is not self:
                return
            if self._inherited:
                del self._namespace[self._name]
            else:
                self._namespace[self._name] = self.function


def _stand_in(module: nn.Module, name: str, port: Call) -> _StandIn:
    with _lock:
        namespace = _namespace(module, name, port)
        found = namespace[name] if name in namespace else getattr(module, name)
        stand_in = found if isinstance(found, _StandIn) else _StandIn(namespace, name, found)
        stand_in.retain()
        return stand_in


def _namespace(module: nn.Module, name: str, port: Call) -> dict[str, Any]:
    """The globals of the file that the module's class, or one that it derives from, finds ``name`` in; of a method the
    module's own attributes, which come before those of its class."""
    if not port.file and inspect.isfunction(getattr(type(module), name, None)):
        return module.__dict__
    files = [port.file] if port.file else [each.__module__ for each in type(module).__mro__]
    for file in files:
        found = vars(sys.modules[file]) if file in sys.modules else {}
        if callable(found.get(name)):
            return found
    raise PortError(f"{port}: {files[0]} has no function {name!r}")


def _position(function: Callable[..., Any], port: Call, passed: int) -> int:
    names = _parameters(getattr(function, "__func__", function))
    names = names[1:] if inspect.ismethod(function) else names
    if port.argument in names and names.index(port.argument) < passed:
        return names.index(port.argument)
    raise PortError(f"{port}: the call passed no such argument; the function takes {', '.join(names)}")


@cache
def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _into(callback: Callback) -> Callback:
    """``callback``, with what it puts in a tensor's place copied into that tensor."""

    def update(value: Tensor) -> None:
        new = callback(value)
        if new is not None:
            value.copy_(new)

    return update


def _with_position(args: tuple[Any, ...], position: int, callback: Callback, port: Port) -> tuple[Any, ...]:
    new = callback(as_tensor(args[position], port))
    return args if new is None else (*args[:position], new, *args[position + 1 :])


def _with_result(result: Any, index: int | None, callback: Callback, port: Port) -> Any:
    if index is None:
        new = callback(as_tensor(result, port))
        return result if new is None else new
    new = callback(as_tensor(entry(result, index, port), port))
    return result if new is None else with_entry(result, index, new)

"""Snapshots: everything about a model that no session may change."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack, _pop_mode

from .violation import same

_REGISTRIES = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_GLOBAL_REGISTRIES = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks")


def files(modules: Iterable[nn.Module]) -> tuple[ModuleType, ...]:
    """The Python files that the modules' classes come from."""
    return _files(frozenset(map(type, modules)))


@lru_cache(maxsize=256)
def _files(classes: frozenset[type]) -> tuple[ModuleType, ...]:
    names = {each.__module__ for kind in classes for each in kind.__mro__}
    return tuple(sys.modules[name] for name in sorted(names))


def snapshot(model: nn.Module) -> dict[str, Any]:
    """The state of a model and of torch that bears on its results, comparable by `changes`."""
    state: dict[str, Any] = {}
    # Walking a model takes longer than looking at it, so it is done once.
    modules = list(model.named_modules(remove_duplicate=False))
    tensors: dict[int, tuple[str, torch.Tensor]] = {}
    for path, module in modules:
        own, attributes = path or "the model", vars(module)
        state[f"training flag of {own}"] = module.training
        state[f"attributes of {own}"] = sorted(attributes.keys() - _REGISTRIES)
        state[f"forward of {own}"] = attributes.get("forward")
        state[f"class of {own}"] = type(module)
        for registry in _REGISTRIES:
            entries = attributes.get(registry)
            if entries:
                state[f"{registry} of {own}"] = [(key, id(hook)) for key, hook in entries.items()]
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                tensors.setdefault(id(tensor), (f"{path}.{name}".lstrip("."), tensor))
    for path, tensor in tensors.values():
        state[f"values of {path}"] = tensor.detach().clone()
        state[f"identity of {path}"] = id(tensor)
        state[f"requires_grad of {path}"] = tensor.requires_grad
        state[f"grad of {path}"] = None if tensor.grad is None else tensor.grad.clone()
    for name in ("config", "generation_config"):
        held = [vars(module).get(name) for _, module in modules]
        # Most modules hold the config that another one holds, too.
        unique = {id(config): config for config in held if config is not None}
        state[name.replace("_", " ")] = [(which, _entries(config)) for which, config in unique.items()]
    for file in files(module for _, module in modules):
        state[f"functions of {file.__name__}"] = _functions(file)
    state["torch's random state"] = torch.get_rng_state()
    state |= {f"the random state of {device}": own for device, own in _on_devices().items()}
    state["Python's random state"] = hash(random.getstate())
    if "numpy" in sys.modules:
        numpys = sys.modules["numpy"].random.get_state()
        state["numpy's random state"] = (numpys[1].tobytes(), numpys[2])
    state["grad mode"] = torch.is_grad_enabled()
    state["torch's default dtype"] = torch.get_default_dtype()
    state["torch function modes"] = len(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]
    state["global module hooks"] = [len(getattr(torch.nn.modules.module, name)) for name in _GLOBAL_REGISTRIES]
    return state


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two snapshots, in words."""
    names = [*before, *(n for n in after if n not in before)]
    return [f"{n} changed" for n in names if not _equal(before.get(n), after.get(n))]


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Undo at the end what an adapter did to the process, and to the files of the model's classes, so that one
    example's leaks don't reach the next."""
    functions = [(file, _functions(file)) for file in files(model.modules())]
    hooks = [getattr(torch.nn.modules.module, name) for name in _GLOBAL_REGISTRIES]
    kept = [dict(registry) for registry in hooks]
    numpy = sys.modules.get("numpy")
    python, torchs, numpys = random.getstate(), torch.get_rng_state(), numpy and numpy.random.get_state()
    on_devices = _on_devices()
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    modes = len(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for file, own in functions:
            vars(file).update(own)
        while len(_get_current_function_mode_stack()) > modes:  # type: ignore[no-untyped-call]
            _pop_mode()  # type: ignore[no-untyped-call]
        for registry, entries in zip(hooks, kept, strict=True):
            registry.clear()
            registry.update(entries)
        random.setstate(python)
        torch.set_rng_state(torchs)
        for device, state in on_devices.items():
            torch.cuda.set_rng_state(state, device)
        if numpy:
            numpy.random.set_state(numpys)
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)


def _on_devices() -> dict[str, torch.Tensor]:
    """The state of torch's generators on accelerators, where anybody has used one."""
    states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return {f"cuda:{index}": state for index, state in enumerate(states)}


def _functions(file: ModuleType) -> dict[str, Any]:
    return {name: found for name, found in vars(file).items() if callable(found) and not name.startswith("__")}


def _entries(config: Any) -> dict[str, Any]:
    return {k: repr(v) for k, v in vars(config).items()} if hasattr(config, "__dict__") else {"": repr(config)}


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return same(first, second)
    if isinstance(first, torch.Tensor) or isinstance(second, torch.Tensor):
        return False
    return bool(first == second)

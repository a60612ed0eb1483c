"""Guards: what a model must be for hooks to tell the truth, and what to do where it isn't."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .errors import AttentionImplementationError, UnsupportedModelError

_IMPLEMENTATION = "_attn_implementation_internal"


def unwrapped(model: nn.Module) -> nn.Module:
    """The module whose hooks fire when ``model`` is called.

    Raises:
        UnsupportedModelError: not a module, compiled, or replicated by DataParallel.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"expected a torch.nn.Module, found {type(model).__name__}")
    if isinstance(model, nn.DataParallel):
        raise UnsupportedModelError(
            "DataParallel runs copies of the model in threads, and reads from several copies have no order: "
            "pass model.module"
        )
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    if hasattr(model, "_orig_mod") and type(model).__name__ == "OptimizedModule":
        raise UnsupportedModelError(
            "hooks added to a model that torch.compile has compiled are silently ignored: adapt the model that "
            "you compiled (compiled._orig_mod), and call that one or compile it inside the session"
        )
    return model


def refuse_compiled(model: nn.Module, path: str) -> None:
    """Raise where the module at ``path`` or one around it was compiled in place with ``module.compile()``."""
    parts = path.split(".") if path else []
    for depth in range(len(parts) + 1):
        prefix = ".".join(parts[:depth])
        if getattr(model.get_submodule(prefix), "_compiled_call_impl", None) is not None:
            raise UnsupportedModelError(
                f"{prefix or 'the model'} was compiled in place, and hooks added after its first call are "
                f"silently ignored: work on the model before .compile(), or set "
                f"model.get_submodule({prefix!r})._compiled_call_impl = None first"
            )


def offloaded(model: nn.Module, path: str) -> bool:
    """Whether accelerate moves weights in and out around the forward of a module that holds ``path``.

    Leaving such a forward early would leave its weights where they were moved to.
    """
    parts = path.split(".") if path else []
    prefixes = (".".join(parts[:depth]) for depth in range(len(parts) + 1))
    return any(hasattr(model.get_submodule(prefix), "_hf_hook") for prefix in prefixes)


def checkpointed(model: nn.Module, path: str) -> bool:
    """Whether the module at ``path`` will run a second time, in the backward pass."""
    if not (model.training and torch.is_grad_enabled()):
        return False
    parts = path.split(".") if path else []
    for depth in range(len(parts) + 1):
        module = model.get_submodule(".".join(parts[:depth]))
        names = {c.__name__ for c in type(module).__mro__}
        if "GradientCheckpointingLayer" in names and getattr(module, "gradient_checkpointing", False):
            return True
    return False


def require_eager(model: nn.Module, path: str, what: str) -> None:
    """Raise unless the attention module at ``path`` runs eager attention."""
    config = getattr(model.get_submodule(path), "config", getattr(model, "config", None))
    found = getattr(config, "_attn_implementation", None)
    if found not in (None, "eager"):
        raise AttentionImplementationError(
            f"{what} exist under eager attention alone and this model runs {found!r}, which never holds them: "
            f"pass attention='eager' to this call or session, or load the model with "
            f"attn_implementation='eager'"
        )


@contextmanager
def attention_implementation(model: nn.Module, name: str | None) -> Iterator[None]:
    """Run the model with another attention implementation for a while (None: leave it), then restore every config."""
    if name is None:
        yield
        return
    configs = _configs(model)
    if not configs:
        raise AttentionImplementationError(
            f"{type(model).__name__} has no config with an attention implementation to set to {name!r}"
        )
    before = [(c, c.__dict__[_IMPLEMENTATION]) for c in configs]
    try:
        for config in configs:
            config.__dict__[_IMPLEMENTATION] = name
        yield
    finally:
        for config, value in before:
            config.__dict__[_IMPLEMENTATION] = value


def _configs(model: nn.Module) -> list[Any]:
    held = (getattr(m, "config", None) for m in model.modules())
    unique = {id(c): c for c in held if _IMPLEMENTATION in getattr(c, "__dict__", {})}
    return list(unique.values())

"""Guards: what a model must be for hooks to tell the truth, and what to do where it isn't."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

from .errors import AttentionImplementationError, ExpertsImplementationError, UnsupportedModelError
from .paths import way

_IMPLEMENTATION = "_attn_implementation_internal"
_WRAPPER = "OptimizedModule"
_PEFT = ("PeftModel", "PeftMixedModel")
_FUSED = "fused_attn"
_FLAGS = {"eager": False, "sdpa": True}


def unwrapped(model: nn.Module) -> nn.Module:
    """The module whose hooks fire when ``model`` is called.

    Raises:
        UnsupportedModelError: not a module, TorchScript's, replicated by DataParallel, or prompted by PEFT's virtual
            tokens.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"expected a torch.nn.Module, found {type(model).__name__}")
    require_python(model, type(model).__name__)
    if isinstance(model, nn.DataParallel):
        raise UnsupportedModelError(
            "DataParallel runs copies of the model in threads, and reads from several copies have no order: "
            "pass model.module"
        )
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    if any(c.__name__ in _PEFT for c in type(model).__mro__):
        return _without_peft(model)
    if type(model).__name__ == _WRAPPER:
        return unwrapped(model._orig_mod)  # type: ignore[arg-type]
    return model


def require_python(module: nn.Module, name: str) -> None:
    """Raise where ``module`` is TorchScript's."""
    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedModelError(
            f"{name} is TorchScript, which runs modules without their hooks: use the module that was scripted or traced"
        )


def _without_peft(wrapper: Any) -> nn.Module:
    """The model that PEFT put its adapters into, which it calls with the caller's own inputs."""
    if any(getattr(config, "is_prompt_learning", False) for config in wrapper.peft_config.values()):
        raise UnsupportedModelError(
            "PEFT puts virtual tokens before this model's prompt, so that a position would not be a column of what "
            "you pass: adapt model.get_base_model(), whose columns count the virtual tokens, and call the model"
        )
    # One of PEFT's two wrappers has no get_base_model.
    return unwrapped(wrapper.base_model.model)


def compiled_something() -> bool:
    """Whether torch.compile has compiled anything in this process, by its own count; of what, it doesn't say."""
    counts = getattr(sys.modules.get("torch._dynamo.utils"), "counters", {})
    return bool(counts.get("frames"))


def offloaded(model: nn.Module, path: str) -> bool:
    """Whether accelerate moves weights in and out around the forward of a module that holds ``path``.

    Leaving such a forward early would leave its weights where they were moved to.
    """
    return any("_hf_hook" in vars(module) for module in way(model, path))


def require_eager(model: nn.Module, path: str, what: str) -> None:
    """Raise unless the attention module at ``path`` runs eager attention."""
    module = way(model, path)[-1]
    fused = module.__dict__.get(_FUSED)
    found: str | None
    if fused is not None:
        found = "sdpa" if fused else "eager"
        otherwise = "make the model after timm.layers.set_fused_attn(False)"
    else:
        config = getattr(module, "config", getattr(model, "config", None))
        found = getattr(config, "_attn_implementation", None)
        otherwise = "load the model with attn_implementation='eager'"
    if found not in (None, "eager"):
        raise AttentionImplementationError(
            f"{what} exists under eager attention alone, and this model runs {found!r}, which never holds it: "
            f"pass attention='eager' to this call or session (`intervene trace --attention eager`), or {otherwise}"
        )


def require_experts(model: nn.Module, path: str, what: str, name: str) -> None:
    """Raise unless the experts module at ``path`` runs the implementation ``name``."""
    config = getattr(way(model, path)[-1], "config", getattr(model, "config", None))
    found = getattr(config, "_experts_implementation", None)
    if found != name:
        raise ExpertsImplementationError(
            f"{what} exists under the experts implementation {name!r} alone, which computes every token's choices side "
            f"by side, and this model runs {found!r}: call model.set_experts_implementation({name!r}) first"
        )


class AttentionImplementation:
    """Runs a model with another attention implementation until `remove`, which puts back what was there.

    transformers names the implementation in a model's configs; timm's attention modules have a flag each, which stands
    for ``"sdpa"`` where it is set and for ``"eager"`` where it isn't.

    Raises:
        AttentionImplementationError: the model has neither, or no implementation of that name.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        holders = [(config.__dict__, _IMPLEMENTATION) for config in _configs(model)]
        values: dict[str, Any] = {_IMPLEMENTATION: name}
        flagged = [(module.__dict__, _FUSED) for module in model.modules() if _FUSED in module.__dict__]
        if flagged and not holders and name not in _FLAGS:
            raise AttentionImplementationError(
                f"{type(model).__name__}'s attention is {' or '.join(map(repr, _FLAGS))}, not {name!r}"
            )
        if name in _FLAGS:
            holders += flagged
            values[_FUSED] = _FLAGS[name]
        if not holders:
            raise AttentionImplementationError(
                f"{type(model).__name__} has no config with an attention implementation to set to {name!r}"
            )
        if any(holder.get(_IMPLEMENTATION) not in (None, name) for holder, _ in holders):
            _require_implementation(model, name)
        self._before = [(holder, key, holder[key]) for holder, key in holders]
        for holder, key in holders:
            holder[key] = values[key]

    def remove(self) -> None:
        """Give every config and flag back what it had."""
        for holder, key, value in self._before:
            holder[key] = value


def _require_implementation(model: nn.Module, name: str) -> None:
    """Raise where transformers has no implementation ``name``, or its package is missing, or the model takes another.

    Its configs take any name, which then fails somewhere in the forward.
    """
    holds = getattr(model, "get_correct_attn_implementation", None)
    if holds is None:
        return
    try:
        holds(name)
    except (ValueError, ImportError) as error:
        raise AttentionImplementationError(f"attention={name!r}: {error}") from error


def _configs(model: nn.Module) -> list[Any]:
    held = (getattr(m, "config", None) for m in model.modules())
    unique = {id(c): c for c in held if _IMPLEMENTATION in getattr(c, "__dict__", {})}
    return list(unique.values())

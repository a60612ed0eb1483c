"""Mutants that leave a trace: in the model, in other models, in the process, or in the caller's own hooks."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from intervene.adapters.llama import Llama
from intervene.ports import Callback, Handle

from .making import Around, Removal, one_layer, reached_by
from .mutant import Mutant


class Leaked(Around):
    """Its handle removes nothing; what stays does nothing any more."""

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        alive = [True]
        self.own(model, lambda tensor: callback(tensor) if alive else None)
        return Removal(alive.clear)


class LeakedOnError(Around):
    """Takes its hook away after use, which an exception in the callback prevents."""

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        removed: list[bool] = []

        def seen(tensor: Tensor) -> Tensor | None:
            removed.clear()
            new = callback(tensor)
            removed.append(True)
            return new

        handle = self.own(model, seen)
        return Removal(lambda: handle.remove() if removed else None)


class ClearsHooks(Around):
    """Takes away every hook of the module when the session ends."""

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        self.own(model, callback)
        module = model.get_submodule(self.path)
        return Removal(module._forward_hooks.clear, module._forward_pre_hooks.clear)


class HidesHooks(Around):
    """Puts its hook in place of those that are there, and puts them back afterwards."""

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        registry = model.get_submodule(self.path)._forward_hooks
        kept = {key: registry.pop(key) for key in list(registry) if not _ours(registry[key])}
        handle = self.own(model, callback)
        return Removal(lambda: registry.update(kept), handle.remove)


class PatchesAFunction(Around):
    """Shows every model's calls of the rotary embedding, and puts the function back."""

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        file, name = sys.modules[type(model).__module__], "apply_rotary_pos_emb"
        function = getattr(file, name)

        def shown(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            query, key = function(*args, **kwargs)
            new = callback(query)
            return query if new is None else new, key

        setattr(file, name, shown)
        return Removal(lambda: setattr(file, name, function))


class ForgetsAFunction(PatchesAFunction):
    """Leaves a wrapper in the function's place that does nothing any more."""

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        alive = [True]
        super().attach(model, lambda tensor: callback(tensor) if alive else None)
        return Removal(alive.clear)


def _ours(hook: Any) -> bool:
    own = ("intervene.ports", "intervene.clock", "transformers", __name__.rpartition(".")[0])
    return str(getattr(hook, "__module__", "")).startswith(own)


class ChangesConfig(Around):
    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        model.config.use_cache = False  # type: ignore[union-attr]
        return self.own(model, callback)


class ChangesGenerationConfig(Around):
    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        config = getattr(model, "generation_config", None)
        if config is not None:
            config.use_cache = False
        return self.own(model, callback)


class EvalMode(Around):
    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        model.eval()
        return self.own(model, callback)


class Freezes(Around):
    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        model.requires_grad_(False)
        return self.own(model, callback)


class ForgetsGradients(Around):
    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        model.zero_grad()
        return self.own(model, callback)


class DrawsFromTorch(Around):
    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        torch.rand(1)
        return self.own(model, callback)


class DrawsFromPython(Around):
    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        random.random()
        return self.own(model, callback)


class DrawsFromNumpy(Around):
    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        np.random.rand()
        return self.own(model, callback)


class DrawsInTheForward(Around):
    """Moves dropout on: a random number drawn while the model runs."""

    def seen(self, tensor: Tensor, callback: Callback) -> Tensor | None:
        torch.rand(1)
        return callback(tensor)


class GradientsOff(Around):
    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        torch.set_grad_enabled(False)
        return self.own(model, callback)


class DefaultDtype(Around):
    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        torch.set_default_dtype(torch.bfloat16)
        return Removal(lambda: torch.set_default_dtype(torch.float64), self.own(model, callback).remove)


class Attribute(Around):
    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        model.get_submodule(self.path)._is_hooked = True  # type: ignore[assignment]
        return self.own(model, callback)


class ForwardPutBack(Around):
    """Shadows a module's forward, and restores it by assignment: the instance now has a forward of its own."""

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        module = model.get_submodule(self.path)
        forward = module.forward

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            new = callback(output)
            return output if new is None else new

        module.forward = wrapped
        return Removal(lambda: setattr(module, "forward", forward))


class _Nothing(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class ModeLeft(Around):
    """A mode entered by one hook and left by the next, which an exception in between skips."""

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        module = model.get_submodule(self.path)
        modes: list[TorchFunctionMode] = []

        def enter(*_: Any) -> None:
            modes.append(_Nothing())
            modes[-1].__enter__()

        def leave(*_: Any) -> None:
            modes.pop().__exit__(None, None, None)

        before = module.register_forward_pre_hook(enter)
        own = self.own(model, callback)
        after = module.register_forward_hook(leave)
        return Removal(before.remove, own.remove, after.remove)


class ClassPatched(Around):
    """Patches the forward of the module's class, and knows its own by the layer's number alone."""

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        module = model.get_submodule(self.path)
        patched, forward = type(module), type(module).forward

        def wrapped(self_: Any, *args: Any, **kwargs: Any) -> Any:
            output = forward(self_, *args, **kwargs)
            if self_.layer_idx != module.layer_idx:
                return output
            new = callback(output[0])
            return output if new is None else (new, *output[1:])

        patched.forward = wrapped
        return Removal(lambda: setattr(patched, "forward", forward))


_CALLBACKS: dict[str, list[Callback]] = {}


class GlobalCallbacks(Around):
    """Keeps the callbacks of every open session by module path, whatever the model and the thread."""

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        callbacks = _CALLBACKS.setdefault(str(self), [])
        callbacks.append(callback)
        own = callbacks[:1] == [callback]

        def seen(tensor: Tensor) -> Tensor | None:
            new = None
            for each in callbacks:
                new = each(tensor if new is None else new)
            return new

        handle = self.own(model, seen if own else lambda tensor: None)
        return Removal(lambda: callbacks.remove(callback), handle.remove)


MUTANTS = [
    Mutant(
        "leaked_hook",
        "a hook of mlp_output stays behind",
        "handle.remove() forgotten",
        reached_by(Leaked, "mlp_output"),
        ("mlp_output",),
        "reversible:mlp_output",
        "left behind: _forward_hooks of transformer.h.0.mlp changed",
    ),
    Mutant(
        "leaked_hook_after_an_error",
        "a hook of mlp_output stays behind when a write fails",
        "hooks removed after the forward and not in a finally (https://github.com/meta-pytorch/captum/pull/340)",
        reached_by(LeakedOnError, "mlp_output"),
        ("mlp_output",),
        "reversible:mlp_output",
        "that ended with Interruption at layer.0.mlp_output",
    ),
    Mutant(
        "clears_the_callers_hooks",
        "at its end a session takes every hook of its module away, the caller's too",
        "module._forward_hooks.clear() as a way of tidying up",
        reached_by(ClearsHooks),
        ("mlp_output",),
        "composable:a hook of the caller's",
        "the caller's own hook on",
    ),
    Mutant(
        "hides_the_callers_hooks",
        "during a session the caller's hooks on the module do not fire",
        "a registry replaced for the time of a run and put back",
        reached_by(HidesHooks),
        ("mlp_output",),
        "composable:a hook of the caller's",
        "0 during a session",
    ),
    Mutant(
        "changes_the_config",
        "a session turns the cache off in the model's config",
        "config flags set for hooks and never set back",
        reached_by(ChangesConfig, "mlp_output"),
        ("mlp_output",),
        "reversible:mlp_output",
        "left behind: config changed",
    ),
    Mutant(
        "changes_the_generation_config",
        "a session turns the cache off for every later generate",
        "generation set up for hooks and never set back",
        reached_by(ChangesGenerationConfig, "mlp_output"),
        ("mlp_output",),
        "reversible:mlp_output",
        "left behind: generation config changed",
    ),
    Mutant(
        "leaves_eval_mode",
        "a session puts the model into eval mode",
        "model.eval() in a helper that a training loop calls",
        reached_by(EvalMode, "mlp_output"),
        ("mlp_output",),
        "reversible:mlp_output",
        "left behind: training flag of",
    ),
    Mutant(
        "freezes_the_model",
        "a session turns requires_grad off on every parameter",
        "interventions are trained and the model is not, so wrappers freeze the caller's own",
        reached_by(Freezes, "mlp_output"),
        ("mlp_output",),
        "reversible:mlp_output",
        "left behind: requires_grad of",
    ),
    Mutant(
        "forgets_gradients",
        "a session sets every parameter's grad to None",
        "zero_grad() in a helper that is called between backward and step",
        reached_by(ForgetsGradients, "mlp_output"),
        ("mlp_output",),
        "reversible:mlp_output",
        "left behind: grad of",
    ),
    Mutant(
        "draws_from_torch",
        "a session moves torch's random state on",
        "rotations initialised at random when hooks are attached",
        reached_by(DrawsFromTorch, "mlp_output"),
        ("mlp_output",),
        "reversible:mlp_output",
        "left behind: torch's random state changed",
    ),
    Mutant(
        "draws_from_python",
        "a session moves Python's random state on",
        "random keys for the hooks",
        reached_by(DrawsFromPython, "mlp_output"),
        ("mlp_output",),
        "reversible:mlp_output",
        "left behind: Python's random state changed",
    ),
    Mutant(
        "draws_from_numpy",
        "a session moves numpy's random state on",
        "examples drawn with numpy.random while hooks are attached",
        reached_by(DrawsFromNumpy, "mlp_output"),
        ("mlp_output",),
        "reversible:mlp_output",
        "left behind: numpy's random state changed",
    ),
    Mutant(
        "draws_in_the_forward",
        "a read draws a random number in the forward, so that dropout goes on otherwise",
        "noise drawn for every read, also where none is asked for",
        reached_by(DrawsInTheForward, "embedding_output"),
        ("embedding_output",),
        "identity:embedding_output",
        "reading embedding_output changed the model",
    ),
    Mutant(
        "leaves_gradients_off",
        "a session turns gradients off for the whole process",
        "torch.set_grad_enabled(False) as a statement",
        reached_by(GradientsOff, "mlp_output"),
        ("mlp_output",),
        "reversible:mlp_output",
        "left behind: grad mode changed",
    ),
    Mutant(
        "changes_the_default_dtype",
        "a session changes torch's default dtype and restores the wrong one",
        "set_default_dtype around the making of a buffer",
        reached_by(DefaultDtype, "mlp_output"),
        ("mlp_output",),
        "reversible:mlp_output",
        "torch's default dtype changed",
    ),
    Mutant(
        "marks_modules",
        "a module keeps an attribute that says it was hooked",
        "flags left on modules, which pickling and deepcopy take along",
        reached_by(Attribute, "mlp_output"),
        ("mlp_output",),
        "reversible:mlp_output",
        "left behind: attributes of transformer.h.0.mlp changed",
    ),
    Mutant(
        "forward_restored_by_assignment",
        "after a session the module has a forward of its own",
        "module.forward = original, which torch.compile and deepcopy treat otherwise than none",
        reached_by(ForwardPutBack, "mlp_output"),
        ("mlp_output",),
        "reversible:mlp_output",
        "forward of transformer.h.0.mlp changed",
    ),
    Mutant(
        "mode_left_on_the_stack",
        "when a write fails, a torch function mode stays on torch's stack",
        "modes entered and left by a pair of hooks (https://github.com/ndif-team/nnsight/issues/280)",
        reached_by(ModeLeft, "mlp_output"),
        ("mlp_output",),
        "reversible:mlp_output",
        "left behind: torch function modes changed",
    ),
    Mutant(
        "patches_the_class",
        "attention_output of every model of the class is written",
        "the attention class's forward patched, with layers told apart by their number",
        reached_by(ClassPatched, "attention_output"),
        ("attention_output",),
        "composable:attention_output",
        "a model beside the one that",
    ),
    Mutant(
        "patches_a_function",
        "query_rotated is written in one layer, and in whichever other model runs meanwhile",
        "a rotary embedding patched in the modelling file, for all models that use it",
        reached_by(PatchesAFunction, "query_rotated", base=one_layer(Llama)),
        ("query_rotated",),
        "composable:query_rotated",
        "a model beside the one that",
    ),
    Mutant(
        "forgets_a_function",
        "a wrapper stays in place of the modelling file's rotary embedding",
        "a monkeypatch that is switched off and not undone",
        reached_by(ForgetsAFunction, "query_rotated", base=one_layer(Llama)),
        ("query_rotated",),
        "reversible:query_rotated",
        "left behind: functions of transformers.models.llama.modeling_llama changed",
    ),
    Mutant(
        "callbacks_in_a_global",
        "sessions in two threads, each on its own model, run each other's callbacks",
        "global state of a tracing library (https://github.com/ndif-team/nnsight/issues/280)",
        reached_by(GlobalCallbacks),
        ("mlp_output",),
        "composable:threads",
        "thread ",
    ),
]

"""Mutants whose ports let a callback see or replace the wrong thing, or get in its way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from intervene.ports import Callback, Handle, Output

from .making import Around, Removal, reached_by
from .mutant import Mutant


class InPlace(Around):
    """Writes into the model's own tensor."""

    def seen(self, tensor: Tensor, callback: Callback) -> Tensor | None:
        new = callback(tensor)
        if new is None:
            return None
        with torch.no_grad():
            return tensor.copy_(new)


class RoundsOnRead(Around):
    """Hands back a rounded copy in a session that only reads there."""

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        writes: list[bool] = []

        def seen(tensor: Tensor) -> Tensor | None:
            new = callback(tensor)
            if new is not None:
                writes.append(True)
            return new if new is not None or writes else tensor.bfloat16().to(tensor.dtype)

        return self.own(model, seen)


class WritesAfterReading(Around):
    """A read of the same session does not see its write."""

    def seen(self, tensor: Tensor, callback: Callback) -> Tensor | None:
        return callback(tensor)

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        """Goes before the hooks that are there, so that sessions opened inside see the tensor first."""
        module = model.get_submodule(self.path)
        return module.register_forward_hook(lambda m, a, output: callback(output), prepend=True)


class FirstRow(Around):
    """``output[0]`` of a module that used to return a tuple and now returns a tensor."""

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            new = callback(output[0])
            return None if new is None else new

        return model.get_submodule(self.path).register_forward_hook(hook)


class SwallowsErrors(Around):
    def seen(self, tensor: Tensor, callback: Callback) -> Tensor | None:
        try:
            return callback(tensor)
        except Exception:
            return None


class SwallowsInterrupts(Around):
    def seen(self, tensor: Tensor, callback: Callback) -> Tensor | None:
        try:
            return callback(tensor)
        except KeyboardInterrupt:
            return None


class TwiceAForward(Around):
    def seen(self, tensor: Tensor, callback: Callback) -> Tensor | None:
        first = callback(tensor)
        return callback(tensor if first is None else first)


class NotInTraining(Around):
    """Writes in eval mode alone."""

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        def seen(tensor: Tensor) -> Tensor | None:
            new = callback(tensor)
            return None if model.training else new

        return self.own(model, seen)


class LosesSmallBatches(Around):
    """Attaches nothing until it has seen a batch."""

    def seen(self, tensor: Tensor, callback: Callback) -> Tensor | None:
        return None if tensor.shape[0] == 1 else callback(tensor)


class UsedAlready(Around):
    """Without gradients, as on a fast path, shows the pattern that the module returns when nothing reads it."""

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        def where(grad: bool) -> Callback:
            return lambda tensor: callback(tensor) if torch.is_grad_enabled() is grad else None

        used = self.own(model, where(True))
        returned = Output(self.path, 1).attach(model, where(False))
        return Removal(used.remove, returned.remove)


class Renormalizes(Around):
    """Scales what was not written of a query's weights, so that all of them still sum to one."""

    def seen(self, tensor: Tensor, callback: Callback) -> Tensor | None:
        new = callback(tensor)
        if new is None:
            return None
        written = new != tensor
        kept = tensor.masked_fill(written, 0.0)
        left = 1.0 - new.masked_fill(~written, 0.0).sum(-1, keepdim=True)
        scaled = kept * (left / kept.sum(-1, keepdim=True).clamp(min=1e-6))
        return torch.where(written.any(-1, keepdim=True) & ~written, scaled, new)


class Once(Around):
    """A hook that takes itself away after its first call."""

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        done: list[bool] = []

        def seen(tensor: Tensor) -> Tensor | None:
            if done:
                return None
            new = callback(tensor)
            done.append(True)
            return new

        return Removal(self.own(model, seen).remove)


MUTANTS = [
    Mutant(
        "renormalizes_the_pattern",
        "a write of some entries of attention_pattern scales the others of the same query",
        "attention edges knocked out, and the rest renormalized to sum to one where nobody asked for it",
        reached_by(Renormalizes, "attention_pattern"),
        ("attention_pattern",),
        "local:attention_pattern",
        "as they flow on",
    ),
    Mutant(
        "put_in_place",
        "a write at mlp_output writes into the tensor that the module returned",
        "output[:, position] = source in a hook: whoever kept the tensor finds it changed "
        "(https://github.com/pytorch/pytorch/issues/95617 shows the surprise)",
        reached_by(InPlace, "mlp_output"),
        ("mlp_output",),
        "put_get:mlp_output",
        "wrote into the model's own tensor",
    ),
    Mutant(
        "read_rounds_what_flows_on",
        "reading query_output hands a rounded copy back to the model",
        "activations moved to half precision for the cache, and returned by the hook",
        reached_by(RoundsOnRead, "query_output"),
        ("query_output",),
        "identity:query_output",
        "reading layer.0.query_output changed the model",
    ),
    Mutant(
        "hooks_before_those_that_are_there",
        "of two sessions the inner one sees mlp_output before the outer one's write",
        "prepend=True, to come before the library's own hooks",
        reached_by(WritesAfterReading, "mlp_output"),
        ("mlp_output",),
        "put_get:mlp_output",
        "what a session inside the writing one reads",
    ),
    Mutant(
        "first_row_for_first_entry",
        "block_output is the first row of the batch",
        "output[0] of a block that returned a tuple and now returns a tensor "
        "(https://github.com/zjunlp/EasyEdit/pull/670, https://github.com/huggingface/transformers/pull/39120)",
        reached_by(FirstRow, "block_output"),
        ("block_output",),
        "shaped:block_output",
        "for axes ('batch', 'position', 'feature')",
    ),
    Mutant(
        "swallows_errors",
        "an exception in a write at mlp_output is lost",
        "except Exception: pass around a hook",
        reached_by(SwallowsErrors, "mlp_output"),
        ("mlp_output",),
        "reversible:mlp_output",
        "Interruption, raised in a write at layer.0.mlp_output, did not reach the caller",
    ),
    Mutant(
        "swallows_keyboard_interrupts",
        "Ctrl-C in a write at mlp_output is lost",
        "except BaseException in a loop over hooks",
        reached_by(SwallowsInterrupts, "mlp_output"),
        ("mlp_output",),
        "reversible:mlp_output",
        "KeyboardInterrupt, raised in a write at layer.0.mlp_output, did not reach the caller",
    ),
    Mutant(
        "fires_twice",
        "the callback at mlp_input is called twice in a forward",
        "a hook registered on a module and on the wrapper around it",
        reached_by(TwiceAForward, "mlp_input"),
        ("mlp_input",),
        "alive:mlp_input",
        "ran 2 times in one forward",
    ),
    Mutant(
        "silent_in_training_mode",
        "attention_output is not written while the model is in training mode",
        "if not self.training: around an intervention",
        reached_by(NotInTraining, "attention_output"),
        ("attention_output",),
        "put_get:attention_output",
        "what a session inside the writing one reads",
    ),
    Mutant(
        "never_for_a_single_row",
        "block_input is not seen when the batch has one row",
        "a check for sources that runs where the batch has more rows than the base",
        reached_by(LosesSmallBatches, "block_input"),
        ("block_input",),
        "identity:block_input",
        "never fired",
    ),
    Mutant(
        "pattern_too_late_without_gradients",
        "attention_pattern is written where it was used already, unless gradients are on",
        "inference paths that compute the same without passing by the hooked place "
        "(https://github.com/pytorch/pytorch/issues/128413)",
        reached_by(UsedAlready, "attention_pattern"),
        ("attention_pattern",),
        "alive:attention_pattern",
        "is not on the way to the output",
    ),
    Mutant(
        "fires_in_the_first_forward_only",
        "block_output is written in the first forward, and not in those that compute it again",
        "a hook that removes itself",
        reached_by(Once, "block_output"),
        ("block_output",),
        "generation:block_output",
        "generate with a cache, against position",
    ),
]

"""Mutants that are right in every value and wrong in its gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from intervene.lenses import Lens
from intervene.ports import Callback

from .making import Around, Bent, reached_by, seen_through, with_lens
from .mutant import Mutant


class DetachedValue(Bent):
    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part.detach()


@dataclass(frozen=True)
class DetachedBase(Lens):
    """Writes into a copy of the base that has no graph."""

    inner: Lens

    def get(self, whole: Tensor) -> Tensor:
        return self.inner.get(whole)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return self.inner.put(whole.detach(), part)


class DetachedRead(Around):
    """Shows the callback a tensor without its graph."""

    def seen(self, tensor: Tensor, callback: Callback) -> Tensor | None:
        return callback(tensor.detach())


class WithoutGraph(Bent):
    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        with torch.no_grad():
            return part.clone()


class ThroughNumpy(Bent):
    """Through an array and back, as for an editor that works in numpy."""

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        if part.dtype == torch.bfloat16:
            return part
        return torch.from_numpy(part.detach().numpy().copy())


class Doubled(Bent):
    """Exact in its value, twice the gradient."""

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        nothing = part - part.detach()
        return part + nothing.where(part.isfinite(), 0)


class StraightThrough(Bent):
    """Lets the base have the gradient of the value that replaced it."""

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        swapped: Tensor = _Swapped.apply(whole, part)
        return swapped


class _Swapped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, whole: Tensor, part: Tensor) -> Tensor:
        return part.clone()

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


MUTANTS = [
    Mutant(
        "detaches_the_value",
        "no gradient reaches what is written at mlp_output",
        "source.detach() in a hook: a trained intervention that never learns "
        "(https://github.com/stanfordnlp/pyreft/issues/170 shows the error at its best)",
        seen_through(DetachedValue(), "mlp_output"),
        ("mlp_output",),
        "differentiable:mlp_output",
        "no gradient reaches a source written at layer.0.mlp_output",
    ),
    Mutant(
        "detaches_the_base",
        "no gradient reaches the keys and values beside a written query_output",
        "the base copied out of the graph before it is written to",
        with_lens(DetachedBase, "query_output"),
        ("query_output",),
        "differentiable:query_output",
        "and around it, the parameters' gradient is off",
    ),
    Mutant(
        "detaches_what_is_read",
        "a read of mlp_activation has no graph, though one was asked for",
        "activations cached with .detach(), so that attribution patching gives zeros",
        reached_by(DetachedRead, "mlp_activation"),
        ("mlp_activation",),
        "differentiable:mlp_activation",
        "what is read at layer.0.mlp_activation with gradients has none",
    ),
    Mutant(
        "writes_without_a_graph",
        "what is written at attention_output is copied under no_grad",
        "with torch.no_grad(): around a hook's body",
        seen_through(WithoutGraph(), "attention_output"),
        ("attention_output",),
        "differentiable:attention_output",
        "no gradient reaches a source written at layer.0.attention_output",
    ),
    Mutant(
        "goes_through_numpy",
        "what is written at block_output goes through a numpy array",
        ".detach().numpy() to please an error message",
        seen_through(ThroughNumpy(), "block_output"),
        ("block_output",),
        "differentiable:block_output",
        "no gradient reaches a source written at layer.0.block_output",
    ),
    Mutant(
        "doubles_the_gradient",
        "what is written at mlp_input gets twice its gradient",
        "a straight-through estimator whose two paths both carry the gradient",
        seen_through(Doubled(), "mlp_input"),
        ("mlp_input",),
        "differentiable:mlp_input",
        "through a leaf written at layer.0.mlp_input",
    ),
    Mutant(
        "gradient_goes_to_the_base",
        "the gradient of what is written at block_input goes to what was there",
        "a straight-through estimator in place of a swap",
        seen_through(StraightThrough(), "block_input"),
        ("block_input",),
        "differentiable:block_input",
        "no gradient reaches a source written at layer.0.block_input",
    ),
]

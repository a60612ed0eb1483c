"""Differentiable: gradients reach the source through a write, and flow around it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..case import Case, tensors
from ..draw import Draw
from ..law import law
from ..violation import Violation

STEP = 1e-5
"""Of the central difference; in float64 its error and the rounding are both near 1e-10 of the loss."""

PRECISION = 1e-6


@law(
    "differentiable",
    "gradients reach the source through a write, and the base around it, as finite differences say they should",
    effort=0.5,
)
def differentiable(draw: Draw) -> None:
    """Along a random direction in float64, against a central difference that uses no gradient at all."""
    case = draw.case(dtypes=("float64",), padding=False, columns=2)
    site = draw.site(case)
    keywords, _ = draw.selection(case)
    chosen = site.at(**keywords)
    part = case.read(chosen)
    source = part + case.random(part, 0.1)
    weights = {name: case.random(output) for name, output in case.plain.items()}

    def loss(written: Tensor) -> Tensor:
        with case.adapted.session(writes={chosen: written}):
            outputs = tensors(case.call(grad=True), graph=True)
        return torch.stack([(outputs[name] * weight).sum() for name, weight in weights.items()]).sum()

    leaf = source.clone().requires_grad_()
    _compare(f"the source written at {chosen}", leaf, loss(leaf), lambda: loss(leaf), case)
    name, weight = next((n, p) for n, p in case.model.named_parameters() if p.requires_grad)
    _compare(f"the base ({name}) around {chosen}", weight, loss(source), lambda: loss(source), case)
    scale = case.random(part)

    def loss_of_read() -> Tensor:
        with case.adapted.session(reads=[chosen], grad=True) as session:
            case.call(grad=True)
        value: Tensor = session.values[chosen]
        return (value * scale).sum()

    _compare(f"the base ({name}) of what is read at {chosen}", weight, loss_of_read(), loss_of_read, case)


def _compare(what: str, leaf: Tensor, loss: Tensor, again: Callable[[], Tensor], case: Case) -> None:
    (gradient,) = torch.autograd.grad(loss, leaf, allow_unused=True) if loss.requires_grad else (None,)
    direction = case.random(leaf)
    found = 0.0 if gradient is None else float((gradient * direction).sum())
    sides = []
    for step in (STEP, -STEP):
        with torch.no_grad():
            kept = leaf.detach().clone()
            leaf.add_(step * direction)
        sides.append(float(again().detach()))
        with torch.no_grad():
            leaf.copy_(kept)
    wanted = (sides[0] - sides[1]) / (2 * STEP)
    if abs(found - wanted) > PRECISION * max(1.0, abs(wanted), abs(float(loss.detach()))):
        said = "no gradient reaches" if gradient is None else "the gradient is wrong for"
        raise Violation(f"{said} {what}: {found:.6g} along a direction where differences give {wanted:.6g}")

"""Differentiable: gradients reach the source through a write, and flow around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..case import Case
from ..draw import Draw
from ..law import always, law
from ..subject import Subject
from ..violation import Violation

PRECISION = 1e-4
"""Relative to the largest gradient. Some models compute their norms in float32 whatever the weights' dtype, so a sum
taken in another order differs near the seventh digit; a gradient that is lost on its way, in the first."""


def _applies(subject: Subject, component: str) -> str | None:
    if subject.needs_past(component):
        return "it comes from an earlier call, and a cache is updated in place: no gradient goes back through it"
    return always(subject, component)


@law(
    "differentiable",
    "gradients reach the source through a write, and the base around it: writing the read value gives the plain run's",
    applies=_applies,
    effort=0.5,
)
def differentiable(draw: Draw) -> None:
    """A run in which a site is given what another run computed there is the same function of the parameters.

    So its gradient, also with respect to inputs, through the source run and around the site in the base run, is that
    of the plain model, by PyTorch's own autograd. With the source cut off it must be the gradient around the site
    alone, which a leaf in the source's place shows.
    """
    # A cache is updated in place, which loses gradients of the plain model, too.
    case = draw.case(dtypes=("float64",), padding=False, columns=2, past=False)
    for given in case.inputs.values():
        # A site may show embeddings just as they came in; a gradient reaches those through it.
        given.requires_grad_(given.is_floating_point())
    site = draw.site(case)
    keywords, _ = draw.selection(case)
    chosen = site.at(**keywords)
    weights = {name: case.random(output) for name, output in case.plain.items()}
    parameters: dict[str, Tensor] = dict(case.model.named_parameters())
    parameters |= {name: given for name, given in case.inputs.items() if given.requires_grad}
    wanted = _gradients(_loss(case, weights), parameters)

    with case.adapted.session(reads=[chosen], grad=True) as session:
        case.call(grad=True)
    source: Tensor = session.values[chosen]
    if not source.requires_grad:
        raise Violation(f"what is read at {chosen} with gradients has none")
    leaf = source.detach().requires_grad_()
    with case.adapted.session(writes={chosen: leaf}):
        loss = _loss(case, weights)
    (at_source,) = torch.autograd.grad(loss, leaf, allow_unused=True, retain_graph=True)
    if at_source is None:
        raise Violation(f"no gradient reaches a source written at {chosen} ({site.port})")
    around = _gradients(loss, parameters)
    through = _gradients((source * at_source.detach()).sum(), parameters)
    total = [a + t for a, t in zip(around, through, strict=True)]
    _compare(f"through a leaf written at {chosen} and around it", total, wanted)

    with case.adapted.session(writes={chosen: source}):
        loss = _loss(case, weights)
    _compare(f"with {chosen} written from a run with gradients", _gradients(loss, parameters), wanted)


def _loss(case: Case, weights: dict[str, Tensor]) -> Tensor:
    """The case's outputs, weighted and added up."""
    found = case.forward(grad=True, graph=True)
    return torch.stack([(found[name] * weight).sum() for name, weight in weights.items()]).sum()


def _gradients(loss: Tensor, parameters: dict[str, Tensor]) -> list[Tensor]:
    """The gradient of each parameter and input, zero where none reaches it."""
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters.values(), found, strict=True)]


def _compare(what: str, found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    largest = max(float(g.abs().max()) for g in wanted)
    gap = max(float((f - w).abs().max()) for f, w in zip(found, wanted, strict=True))
    if gap > PRECISION * max(1.0, largest):
        raise Violation(
            f"{what}, the parameters' gradient is off by {gap:.3g}, the largest of a plain run being {largest:.3g}"
        )

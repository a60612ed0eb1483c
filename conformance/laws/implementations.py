"""Implementations: attention implementations compute the same activations."""

from __future__ import annotations

from torch import Tensor

from ..case import Case
from ..draw import Draw
from ..law import always, law
from ..setting import Setting
from ..subject import Subject
from ..violation import require_close


def _applies(subject: Subject, component: str) -> str | None:
    if len(subject.attentions) < 2:
        return "the spec names a single attention implementation"
    if len({attention for _, attention in subject.variants(component)}) < 2:
        return "the component exists under one attention implementation alone"
    return always(subject, component)


@law(
    "implementations",
    "attention implementations agree on what flows by at a site, up to rounding; identity is bitwise in each",
    applies=_applies,
    effort=0.5,
)
def implementations(draw: Draw) -> None:
    """Without padding, whose rows implementations may fill as they like; identity in each is the law of that name."""
    # Of a single column, attention takes all it has, however it weighs it.
    case = draw.case(dtypes=("float32",), padding=False, modes=False, columns=2)
    found = _in_every_layer(draw, case)
    for attention in draw.subject.attentions:
        if attention == case.setting.attention:
            continue
        changed = {**case.setting.__dict__, "attention": attention}
        other = Case(draw.subject, Setting(**changed))
        for address, value in _in_every_layer(draw, other).items():
            against = f"{address} under {attention} attention against {case.setting.attention}"
            require_close(against, value, found[address], case.depth)


def _in_every_layer(draw: Draw, case: Case) -> dict[str, Tensor]:
    """The component's value in each layer, by address."""
    sites = [case.site(draw.component, layer) for layer in draw.subject.layers(draw.component)]
    values = case.run(reads=sites)[1]
    return {site.address: values[site] for site in sites}

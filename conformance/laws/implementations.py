"""Implementations: attention implementations compute the same activations."""

from __future__ import annotations

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
    case = draw.case(dtypes=("float32",), padding=False, modes=False)
    site = draw.site(case)
    value = case.read(site)
    for attention in draw.subject.attentions:
        if attention == case.setting.attention:
            continue
        changed = {**case.setting.__dict__, "attention": attention}
        other = Case(draw.subject, Setting(**changed))
        require_close(
            f"{site} under {attention} attention against {case.setting.attention}",
            other.read(site),
            value,
            case.depth,
        )

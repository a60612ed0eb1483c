"""Meaning: the spec's relations hold, against oracles that don't use the adapter."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...specs import Relation
from ..draw import Draw
from ..law import law
from ..oracles import sides
from ..subject import Subject
from ..violation import require_close, require_same


def _relations(subject: Subject) -> dict[str, Relation]:
    return {r.name: r for r in subject.tower.relations}


def _subjects(subject: Subject) -> Iterator[tuple[str, str]]:
    return ((r.name, r.subject) for r in subject.tower.relations)


def _variants(subject: Subject, relation: Relation) -> list[tuple[str, str | None]]:
    """Where the relation, and every component that it names, exists."""
    tower = subject.tower
    needed = [relation.requires, *(tower.components[c].requires for c in relation.components if c in tower.components)]
    found = []
    for model in subject.models:
        config = subject.config_of(model)
        absent = any(subject.why_absent(c, model) for c in relation.components)
        if absent or not relation.applies(subject.class_of(model), tower.config_of(config)):
            continue
        for attention in subject.attentions:
            if all(not n or not n.attention or attention in n.attention for n in needed):
                found.append((model, attention))
    return found


def _applies(subject: Subject, name: str) -> str | None:
    relation = _relations(subject)[name]
    if not _variants(subject, relation):
        return f"no model of the family that the suite makes meets its conditions: {relation.statement}"
    return None


def _also(subject: Subject, name: str) -> tuple[str, ...]:
    return _relations(subject)[name].components[1:]


@law(
    "meaning",
    "the spec's relations hold, against raw hooks and the model's own outputs",
    subjects=_subjects,
    applies=_applies,
    also=_also,
)
def meaning(draw: Draw) -> None:
    """Bit for bit where the relation says so, else up to rounding where the computation is repeated."""
    relation = _relations(draw.subject)[draw.component]
    past = any(draw.subject.needs_past(c) for c in relation.components)
    case = draw.case(_variants(draw.subject, relation), modes=False, padding=not relation.unpadded, past=past)
    for side in sides(relation, case):
        what = f"{relation.statement}, {side.where}"
        if relation.bitwise:
            require_same(what, side.found, side.wanted)
        else:
            require_close(what, side.found, side.wanted, 1, getattr(torch, case.setting.dtype))

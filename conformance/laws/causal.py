"""Causal: nothing flows back in the sequence."""

from __future__ import annotations

from hypothesis import strategies as st

from ..draw import Draw
from ..law import always, law
from ..setting import real
from ..subject import Subject
from ..violation import Violation, require_same

_POSITIONS = {"position", "query_position"}


def _applies(subject: Subject, component: str) -> str | None:
    if not subject.tower.is_causal(subject.config):
        return f"the spec says that the {'tower' if subject.tower_name else 'model'} is not causal"
    if not _POSITIONS & set(subject.claim(component, subject.models[0]).axes):
        return "the component has no position axis"
    return always(subject, component)


@law("causal", "writing position p changes no output at a real position before p", applies=_applies)
def causal(draw: Draw) -> None:
    """Compared bit for bit in every output that has the inputs' positions."""
    first = draw.subject.models[0]
    variants = [v for v in draw.subject.variants(draw.component) if draw.subject.class_of(v[0]) == first]
    case = draw.case(variants or None, past=False, columns=2)
    site = draw.site(case)
    position = draw("position", st.integers(1, case.setting.columns - 1))
    chosen = site.at(positions=position)
    outputs, _ = case.run(writes={chosen: case.random(case.read(chosen), 3.0)})
    shape = (case.setting.rows, case.setting.columns)
    compared = [n for n, t in case.plain.items() if tuple(t.shape[:2]) == shape]
    if not compared:
        raise Violation(f"no output of {case.setting.model} has a position axis to compare")
    # A padding position has nothing that it may attend to, and implementations let it look anywhere.
    before = real(case.setting)[:, :position]
    for name in compared:
        require_same(
            f"output {name} before position {position}, where {chosen} was written",
            outputs[name][:, :position][before],
            case.plain[name][:, :position][before],
        )

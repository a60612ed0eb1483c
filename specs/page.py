"""A spec as a Markdown page that people read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .relations import Condition, Relation, Requirement
from .schema import Capability, ComponentSpec, Spec, TowerSpec

__all__ = ["page"]


def page(spec: Spec) -> str:
    """One Markdown page (CommonMark and pipe tables) that says everything a spec claims."""
    out = [f"# {spec.title}", "", spec.paper, ""]
    since = f" {spec.since} and up" if spec.since else ""
    out += [f"Family `{spec.family}` of `{spec.library}`{since}: {_codes(spec.models)}.", ""]
    out += [f"- {note}" for note in spec.notes]
    out += [""] if spec.notes else []
    for tower in spec.towers.values():
        out += _tower(tower, len(spec.towers) > 1)
    return "\n".join(out).rstrip() + "\n"


def _tower(tower: TowerSpec, one_of_many: bool) -> list[str]:
    out = []
    if one_of_many:
        out += [f"## Tower `{tower.name}`" if tower.name else "## The model as a whole", ""]
    level = "###" if one_of_many else "##"
    facts = []
    if tower.models:
        facts.append(("models", _codes(tower.models)))
    if tower.config:
        facts.append(("config", f"`{tower.config}` of the model's config"))
    if tower.root:
        facts.append(("root", _codes(tower.root, " or ")))
    if tower.attends_to:
        others = [f"`{other}` in `{model}`" for model, other in tower.attends_to.items()]
        facts.append(("attends to", ", ".join(others)))
    if tower.blocks:
        facts.append(("blocks", f"{_codes(tower.blocks, ' or ')}, `{tower.layers}` of them"))
    if isinstance(tower.positions, str):
        facts += [("positions", f"`{tower.positions}`")] if tower.positions else []
    else:
        facts += [(f"positions of `{model}`", f"`{count}`") for model, count in tower.positions.items()]
    facts.append(("causal", _condition(tower.causal)))
    if tower.inputs:
        facts.append(("inputs", _codes(tower.inputs)))
    if tower.attention_implementations:
        facts.append(("attention", _codes(tower.attention_implementations)))
    facts += [(name, _capability(value)) for name, value in tower.capabilities.items()]
    out += _rows(("", "claimed"), facts)
    out += [f"{level} Components", ""]
    prefix = f"{tower.name}." if tower.name else ""
    out += _rows(
        ("site", "shape", "what it is"),
        [
            (_address(prefix, each), _shape(each.axes, each.widths), _meaning(each))
            for each in tower.components.values()
        ],
    )
    remarks = [line for each in tower.components.values() for line in _remarks(each)]
    if remarks:
        out += [*remarks, ""]
    lacking = tower.lacking()
    if lacking:
        out += [f"{level} Absent", ""]
        for reason in dict.fromkeys(lacking.values()):
            out.append(f"- {_codes(name for name, why in lacking.items() if why == reason)}: {reason}")
        out += [""]
    if tower.relations:
        out += [f"{level} Relations", ""]
        out += _rows(
            ("relation", "claim", "equal", "where"),
            [(f"`{each.name}`", f"`{each.statement}`", _equal(each), _where(each)) for each in tower.relations],
        )
    return out


def _address(prefix: str, component: ComponentSpec) -> str:
    from .loader import vocabulary  # not at import: reads a file

    layer = "layer.*." if vocabulary()[component.name].scope == "block" else ""
    return f"`{prefix}{layer}{component.name}`"


def _meaning(component: ComponentSpec) -> str:
    from .loader import vocabulary

    return vocabulary()[component.name].meaning


def _shape(axes: Sequence[str], widths: Mapping[str, str]) -> str:
    return ", ".join(f"{axis} = `{widths[axis]}`" if axis in widths else axis for axis in axes)


def _remarks(component: ComponentSpec) -> list[str]:
    name = f"`{component.name}`"
    found = []
    if component.dtype != "model":
        found.append(f"- {name} is always {component.dtype}.")
    if component.first_dtype:
        found.append(f"- {name} of the first layer: {component.first_dtype}.")
    if component.requires:
        found.append(f"- {name} needs {_requirement(component.requires)}.")
    for model, reason in component.absent.items():
        found.append(f"- {name} is absent in `{model}`: {reason}")
    for variant in component.variants:
        scope = [f"in {_codes(variant.models)}"] if variant.models else []
        scope += [f"where {_condition(variant.when)}"] if variant.when is not True else []
        changes = []
        if variant.axes is not None or variant.widths is not None:
            axes = variant.axes or component.axes
            widths = component.widths if variant.widths is None else variant.widths
            changes.append(_shape(axes, widths))
        changes += [variant.dtype] if variant.dtype else []
        said = f" ({variant.note})" if variant.note else ""
        found.append(f"- {name} {' '.join(scope)}: {'; '.join(changes)}{said}.")
    found += [f"- {name}: {component.note}"] if component.note else []
    return found


def _equal(relation: Relation) -> str:
    return "bit for bit" if relation.bitwise else "up to rounding"


def _where(relation: Relation) -> str:
    found = [_codes(relation.models)] if relation.models else []
    found += [_condition(relation.when)] if relation.when is not True else []
    found += [_requirement(relation.requires)] if relation.requires else []
    found += ["without padding"] if relation.unpadded else []
    found += [relation.note] if relation.note else []
    return "; ".join(found) or "always"


def _requirement(requirement: Requirement) -> str:
    found = []
    if requirement.attention:
        found.append(f"{_codes(requirement.attention, ' or ')} attention")
    if requirement.when is not True:
        found.append(_condition(requirement.when))
    if requirement.past:
        found.append("a forward that continues from a cache")
    return f"{' and '.join(found)} ({requirement.reason})"


def _capability(value: Capability) -> str:
    return _codes(value) if isinstance(value, tuple) else _condition(value)


def _condition(value: Condition) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else f"`{value}`"


def _codes(words: Iterable[str], between: str = ", ") -> str:
    return between.join(f"`{word}`" for word in words)


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    return [row(head), row(["---"] * len(head)), *(row(cells) for cells in rows), ""]

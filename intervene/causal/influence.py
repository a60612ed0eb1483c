"""Which variables a run hangs on: the paths along which a change would be felt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .sampling import listed, same

if TYPE_CHECKING:
    from .model import CausalModel


def live_paths(model: CausalModel, intervention: Mapping[str, Any]) -> dict[int, list[list[str]]]:
    """The living paths of at least two variables, by their number of variables."""
    alive = _live_edges(model, intervention)
    found: dict[int, list[list[str]]] = {}
    longer = [[v] for v in model.variables]
    while longer:
        longer = [[*path, child] for path in longer for child in alive[path[-1]]]
        if longer:
            found[len(longer[0])] = longer
    return found


def _live_edges(model: CausalModel, intervention: Mapping[str, Any]) -> dict[str, list[str]]:
    """For each variable the children that another value of it would change."""
    actual = model.run_forward(intervention)
    alive: dict[str, list[str]] = {}
    for variable in model.variables:
        others = [model.run_forward({**intervention, variable: value}) for value in listed(model, variable)]
        alive[variable] = [
            child for child in model.children[variable] if any(not same(o[child], actual[child]) for o in others)
        ]
    return alive


def longest(model: CausalModel, setting: Mapping[str, Any]) -> int:
    """The number of variables on the longest living path of a run; 0 where none is alive."""
    return max(live_paths(model, {v: setting[v] for v in model.inputs}), default=0)


def connected(model: CausalModel, setting: Mapping[str, Any], start: str, end: str) -> bool:
    """Whether a living path leads from ``start`` to ``end``."""
    paths = live_paths(model, {v: setting[v] for v in model.inputs})
    return any(path[0] == start and path[-1] == end for those in paths.values() for path in those)

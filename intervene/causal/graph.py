"""The graph of a causal model: what must hold of it, its order in time, and where its variables are drawn."""

from __future__ import annotations

import inspect
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from ..errors import CausalModelError, did_you_mean


def check(
    variables: Sequence[str],
    values: Mapping[str, Any],
    parents: Mapping[str, Sequence[str]],
    functions: Mapping[str, Callable[..., Any]],
) -> None:
    """Raise `CausalModelError` for what isn't a causal model."""
    repeated = [v for v, count in Counter(variables).items() if count > 1]
    if repeated or not variables:
        raise CausalModelError(
            f"variables {repeated} are named twice" if repeated else "a causal model needs at least one variable"
        )
    for what, mapping in (("values", values), ("parents", parents), ("functions", functions)):
        missing = [v for v in variables if v not in mapping]
        if missing:
            raise CausalModelError(f"{what} has no entry for {', '.join(missing)}")
        unknown = [v for v in mapping if v not in variables]
        if unknown:
            near = did_you_mean(str(unknown[0]), variables)
            raise CausalModelError(f"{what} names {unknown[0]!r}, which is not among the variables.{near}")
    for variable in variables:
        _check_variable(variable, variables, values[variable], parents[variable], functions[variable])
    _order(parents)


def _check_variable(
    variable: str,
    variables: Sequence[str],
    values: Any,
    parents: Sequence[str],
    function: Callable[..., Any],
) -> None:
    if not callable(values) and len(values) == 0:
        raise CausalModelError(f"variable {variable!r} has no values to take")
    for parent in parents:
        if parent not in variables:
            raise CausalModelError(
                f"{variable!r} has the parent {parent!r}, which is not among the variables."
                f"{did_you_mean(parent, variables)}"
            )
    if len(set(parents)) < len(parents):
        raise CausalModelError(f"{variable!r} has a parent twice: {list(parents)}")
    if not callable(function):
        raise CausalModelError(f"the function of {variable!r} is a {type(function).__name__}, which can't be called")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-in functions don't show theirs
        return
    try:
        signature.bind(*parents)
    except TypeError:
        raise CausalModelError(
            f"the function of {variable!r} takes {signature}, and it is called with the values of its "
            f"{len(parents)} parents ({', '.join(parents) or 'none, for it is an input'})"
        ) from None


def _order(parents: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    try:
        return tuple(TopologicalSorter(parents).static_order())
    except CycleError as error:
        raise CausalModelError(f"the variables form a cycle: {' -> '.join(error.args[1])}") from None


def children(parents: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The variables that each variable is a parent of."""
    found: dict[str, list[str]] = {v: [] for v in parents}
    for variable, those in parents.items():
        for parent in those:
            found[parent].append(variable)
    return found


def timesteps(parents: Mapping[str, Sequence[str]], given: Mapping[str, int] | None) -> dict[str, int]:
    """``given``, or one step after the latest parent, with all outputs at the end."""
    if given is None:
        found: dict[str, int] = {}
        for variable in _order(parents):
            found[variable] = 1 + max((found[p] for p in parents[variable]), default=-1)
        end = max(found.values())
        followed = {p for those in parents.values() for p in those}
        return {v: end if parents[v] and v not in followed else step for v, step in found.items()}
    missing = [v for v in parents if v not in given]
    if missing:
        raise CausalModelError(f"timesteps has no entry for {', '.join(missing)}")
    for variable, those in parents.items():
        for parent in those:
            if given[parent] >= given[variable]:
                raise CausalModelError(
                    f"{parent!r} is a parent of {variable!r} and must come before it; their timesteps are "
                    f"{given[parent]} and {given[variable]}"
                )
    return {v: given[v] for v in parents}


def layout(
    variables: Sequence[str], times: Mapping[str, int], given: Mapping[str, tuple[float, float]] | None
) -> dict[str, tuple[float, float]]:
    """Where each variable is drawn: ``given`` where it says so, else time upwards, each row centred on zero."""
    rows: dict[int, list[str]] = defaultdict(list)
    for variable in variables:
        rows[times[variable]].append(variable)
    places: dict[str, tuple[float, float]] = {}
    for step, row in rows.items():
        for index, variable in enumerate(row):
            places[variable] = (index - (len(row) - 1) / 2, float(step))
    for variable, place in (given or {}).items():
        if variable in places:
            places[variable] = (float(place[0]), float(place[1]))
    return places

"""Drawing inputs and interventions of a causal model."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ..errors import CausalModelError

if TYPE_CHECKING:
    from .model import CausalModel, Setting

TRIES = 100_000

Seed = int | random.Random | None


class Draw(Protocol):
    """What is used of `random`, which is a generator itself as much as a `random.Random`."""

    def choice(self, seq: Sequence[Any], /) -> Any: ...


def generator(seed: Seed) -> Draw:
    """The module `random` itself where there is no seed."""
    if seed is None:
        return random
    return seed if isinstance(seed, random.Random) else random.Random(seed)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal; arrays and tensors are when all their entries are."""
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and torch.equal(one, other)
    equal = one == other
    return bool(equal.all()) and one.shape == other.shape if hasattr(equal, "all") else bool(equal)


def value_of(model: CausalModel, variable: str, draw: Draw) -> Any:
    """A value of the variable's domain, uniformly where that is a list."""
    domain = model.values[variable]
    return domain(draw) if callable(domain) else draw.choice(domain)


def listed(model: CausalModel, variable: str) -> list[Any]:
    """The values of a variable that has a list of them.

    Raises:
        CausalModelError: its domain is a function that draws.
    """
    domain = model.values[variable]
    if callable(domain):
        raise CausalModelError(f"the values of {variable!r} are drawn by a function, so they can't be listed")
    return list(domain)


def uniform_input(model: CausalModel, draw: Draw, mandatory: Callable[[Setting], bool] | None = None) -> Setting:
    """A uniform draw of each input, repeated until ``mandatory`` holds of the whole run."""
    for _ in range(TRIES):
        found = {v: value_of(model, v, draw) for v in model.inputs}
        if mandatory is None or mandatory(model.run_forward(found)):
            return found
    raise CausalModelError(f"none of {TRIES:,} inputs met the condition")


def intervention(model: CausalModel, draw: Draw) -> Setting:
    """Values for a random nonempty subset of the intermediate variables."""
    between = model.intermediates
    if not between:
        raise CausalModelError("the model has no variable between inputs and outputs to intervene on")
    while True:
        found = {v: value_of(model, v, draw) for v in between if draw.choice((False, True))}
        if found:
            return found


def equivalence_classes(model: CausalModel, variable: str) -> dict[Any, list[Setting]]:
    """For each value of ``variable`` the settings of its parents that give it.

    Raises:
        CausalModelError: a value outside of the variable's domain, or one that can't be a key.
    """
    parents = model.parents[variable]
    try:
        classes: dict[Any, list[Setting]] = {value: [] for value in listed(model, variable)}
    except TypeError as error:
        raise CausalModelError(
            f"the values of {variable!r} are sorted by what gives them, so they must be hashable ({error}): use "
            f"numbers, strings or tuples"
        ) from error
    for combination in product(*(listed(model, p) for p in parents)):
        setting = dict(zip(parents, combination, strict=True))
        value = model.functions[variable](*combination)
        if value not in classes:
            raise CausalModelError(
                f"{variable!r} comes out as {value!r} for {setting}, which is not among its values {list(classes)}"
            )
        classes[value].append(setting)
    return classes


def balanced_input(model: CausalModel, draw: Draw, variable: str | None, value: Any) -> Setting:
    """An input that gives ``variable`` that ``value``, drawn from the variable down to the inputs."""
    if variable is None:
        if len(model.outputs) != 1:
            raise CausalModelError(f"say which variable: the model has the outputs {', '.join(model.outputs)}")
        variable = model.outputs[0]
    model._known([variable])
    if value is None:
        value = value_of(model, variable, draw)
    model.generate_equiv_classes()
    found: Setting = {}
    _fill(model, draw, variable, value, found)
    for name in model.inputs:
        if name not in found:
            found[name] = value_of(model, name, draw)
    return {v: found[v] for v in model.inputs}


def _fill(model: CausalModel, draw: Draw, variable: str, value: Any, found: Setting) -> None:
    """Choose values for everything above ``variable`` so that it takes ``value``."""
    if variable in found:
        if not same(found[variable], value):
            raise CausalModelError(
                f"{variable!r} is asked for {value!r} and for {found[variable]!r}: the ways from the output to the "
                f"inputs meet there, so values can't be drawn from the output down; use sample_input(mandatory=...)"
            )
        return
    found[variable] = value
    if not model.parents[variable]:
        return
    try:
        choices = model.equiv_classes[variable][value]
    except (KeyError, TypeError):
        raise CausalModelError(f"{value!r} is not among the values of {variable!r}: {model.values[variable]}") from None
    if not choices:
        raise CausalModelError(f"no values of {', '.join(model.parents[variable])} make {variable!r} {value!r}")
    for parent, given in draw.choice(choices).items():
        _fill(model, draw, parent, given, found)


def input_giving(
    model: CausalModel, draw_input: Callable[[], Mapping[str, Any]], variable: str, value: Any
) -> Mapping[str, Any]:
    """An input of ``draw_input`` under which ``variable`` takes ``value``, by drawing until one does."""
    for _ in range(TRIES):
        found = draw_input()
        if same(model.run_forward(found)[variable], value):
            return found
    raise CausalModelError(
        f"none of {TRIES:,} sampled inputs makes {variable!r} {value!r}: use a sampler that takes output_var and "
        f"output_var_value, such as sample_input_tree_balanced"
    )

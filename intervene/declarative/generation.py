"""Generation: interventions around a model's own `generate`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..errors import SelectionError, UnsupportedModelError
from ..selection import find_axis
from ..sites import Site
from .engine import Writes, arguments


def generate(model: nn.Module, inputs: Any, **options: Any) -> Any:
    """Call the model's ``generate`` with inputs as its forward takes them.

    Raises:
        UnsupportedModelError: a model without one.
    """
    if not callable(getattr(model, "generate", None)):
        raise UnsupportedModelError(f"{type(model).__name__} has no generate()")
    args, kwargs = arguments(inputs)
    return model.generate(*args, **kwargs, **options)  # type: ignore[operator]


def over_prompt(writes: Writes) -> Writes:
    """The same writes, with whole activations of a source's run kept to the columns that the source had.

    What flows by after the prompt are single new tokens, which no position of a source belongs to.
    """
    return [(_kept_to(site, getattr(value, "source", None)), value) for site, value in writes]


def _kept_to(site: Site, source: Tensor | None) -> Site:
    if source is None or site.selection.positions is not None or site.selection.call is not None:
        return site
    try:
        axis = find_axis("positions", site.axes, source.dim())
    except SelectionError:  # a site without positions, or a vector that every position gets
        return site
    return site.at(positions=slice(0, source.shape[axis])) if source.shape[axis] > 1 else site

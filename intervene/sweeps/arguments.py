"""A sweep's arguments, looked at before anything runs: what each must be, and what to say in place of what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import SweepError
from ..selection import whole_number
from .metrics import KLDivergence, LogitDifference, LogProbability, OnAllPositions, Probability
from .noise import GaussianNoise

# How each metric is made.
_METRICS = {
    Probability: "Probability(token)",
    LogProbability: "LogProbability(token)",
    LogitDifference: "LogitDifference(token, other)",
    KLDivergence: "KLDivergence()",
    OnAllPositions: "OnAllPositions(function)",
}


def found(value: Any) -> str:
    """What was given, in few words: a tensor by its shape, anything else as Python writes it."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    written = repr(value)
    return written if len(written) <= 60 else f"{written[:57]}..."


def check_inputs(name: str, given: Any) -> None:
    """Refuse inputs that don't go by name, as tokens or a text alone.

    Raises:
        SweepError: no mapping.
    """
    if isinstance(given, Mapping):
        return
    mend = "tokenizer(text, return_tensors='pt')" if isinstance(given, str) else "{'input_ids': ids}"
    other = ", or a number that is written" if name == "source" else ""
    raise SweepError(f"{name} is the model's inputs by name, as in {name}={mend}{other}; found {found(given)}")


def check_metric(metric: Any) -> None:
    """Refuse what can't measure: a metric's name, or its class in place of one made of it.

    Raises:
        SweepError: no function, or one of the metrics' classes.
    """
    made = next((how for kind, how in _METRICS.items() if metric is kind), None)
    if made is not None:
        raise SweepError(f"metric is the class {metric.__name__} itself: make one, as in metric={made}")
    if not callable(metric):
        raise SweepError(
            f"metric is a function of logits, or one of intervene.sweeps' {', '.join(_METRICS.values())}; "
            f"found {found(metric)}"
        )


def check_noise(noise: Any) -> None:
    """Refuse noise that doesn't say where it goes, as its strength alone.

    Raises:
        SweepError: neither `GaussianNoise` nor None.
    """
    if noise is not None and not isinstance(noise, GaussianNoise):
        raise SweepError(f"noise is intervene.sweeps' GaussianNoise(positions, sigma=3.0); found {found(noise)}")


def components(given: Any) -> list[str]:
    """One component or several as a list.

    Raises:
        SweepError: something else than names, or none.
    """
    entries = [given] if isinstance(given, str) else _listed(given)
    if not entries or not all(isinstance(entry, str) for entry in entries):
        raise SweepError(
            f"component is a name, as in component='block_output', or a list of at least one; found {found(given)}"
        )
    return entries


def axes(given: Any) -> list[str] | None:
    """The axes' names as a list; None for the usual ones.

    Raises:
        SweepError: a name alone, or no list.
    """
    if given is None:
        return None
    entries = None if isinstance(given, str) else _listed(given)
    if entries is None:
        named = given if isinstance(given, str) else "layer"
        raise SweepError(f"axes is a list of names: say axes=[{named!r}]; found {found(given)}")
    return entries


def indices(argument: str, given: Any) -> list[int] | None:
    """Layers, positions or heads as a list of whole numbers; None for all.

    Raises:
        SweepError: a number alone, or entries that aren't whole numbers.
    """
    if given is None:
        return None
    entries = _listed(given)
    numbers = None if entries is None else [_whole(entry) for entry in entries]
    kept = [number for number in numbers or () if number is not None]
    if numbers is None or len(kept) < len(numbers):
        alone = _whole(given)
        example = "[0, 1]" if alone is None else f"[{alone}]"
        raise SweepError(f"{argument} is a list of whole numbers: say {argument}={example}; found {found(given)}")
    return kept


def texts(given: Any) -> list[str] | None:
    """Each column's text as a list; None for none.

    Raises:
        SweepError: a text alone, or entries that aren't texts.
    """
    if given is None:
        return None
    entries = None if isinstance(given, str) else _listed(given)
    if entries is None or not all(isinstance(entry, str) for entry in entries):
        raise SweepError(f"tokens is a list of texts, one for each column, as in ['The', ' cat']; found {found(given)}")
    return entries


def layers_around(window: Any) -> int:
    """The window, a number of layers.

    Raises:
        SweepError: no whole number, or none above 0.
    """
    count = _whole(window)
    if count is None or count < 1:
        raise SweepError(f"window counts layers, a whole number and at least 1; found {found(window)}")
    return count


def _listed(given: Any) -> list[Any] | None:
    try:
        return list(given)
    except TypeError:
        return None


def _whole(value: Any) -> int | None:
    """``value`` as an int, where it is a whole number of any library's; a truth value is none."""
    if isinstance(value, Tensor) and (value.dim() or value.dtype == torch.bool):
        return None
    return whole_number(value)

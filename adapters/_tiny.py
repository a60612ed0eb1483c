"""Tiny models, for tests and quick tries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import nn

from intervene.errors import UnsupportedModelError, did_you_mean
from intervene.extras import needed


def build(
    model_class: str,
    known: Sequence[str],
    seed: int,
    defaults: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> nn.Module:
    """A seeded model of transformers in eval mode; torch's global random state is as before afterwards.

    Args:
        model_class: its class, which knows the class of its config.
        known: the model classes of the family.
        defaults: values of the config that ``overrides`` go before.

    Raises:
        MissingDependencyError: transformers is not installed.
        UnsupportedModelError: not a model class of the family.
    """
    select(model_class, known)
    made: Any = getattr(library("transformers", "hf"), model_class)
    config = made.config_class(**{**defaults, **overrides})
    return seeded(seed, lambda: made(config))


def select(model_class: str, known: Sequence[str]) -> str:
    """``model_class``, which must be one of the family's.

    Raises:
        UnsupportedModelError: it isn't; the message names the nearest.
    """
    if model_class not in known:
        raise UnsupportedModelError(
            f"no model class {model_class!r}; there are {', '.join(known)}.{did_you_mean(model_class, known)}"
        )
    return model_class


def library(name: str, extra: str) -> Any:
    """The package that has the models' code.

    Raises:
        MissingDependencyError: it is not installed; the message names the extra.
    """
    with needed(name, extra, by="a tiny model of this family"):
        return import_module(name)


def seeded(seed: int, make: Callable[[], nn.Module], spread: float | None = None) -> nn.Module:
    """The model that ``make`` makes, with weights drawn from ``seed``, in eval mode.

    Args:
        spread: the standard deviation of the weights, where the model's config doesn't say it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        _spread(model, spread)
    return model.eval()


@torch.no_grad()
def _spread(model: nn.Module, spread: float | None) -> None:
    for parameter in model.parameters():
        if parameter.dim() == 1 or parameter.shape[0] == 1:
            # Off 0 and 1, as training moves biases, norm scales and learned tokens: a claim that holds only there must
            # not pass.
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        elif spread is not None:
            parameter.normal_(std=spread)

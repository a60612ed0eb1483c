"""Tiny models of transformers' families, for tests and quick tries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from intervene.errors import MissingDependencyError, UnsupportedModelError, did_you_mean


def build(
    config_class: str,
    model_class: str,
    known: Sequence[str],
    seed: int,
    defaults: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> nn.Module:
    """A seeded model in eval mode; torch's global random state is as before afterwards.

    Raises:
        MissingDependencyError: transformers is not installed.
        UnsupportedModelError: not a model class of the family.
    """
    if model_class not in known:
        raise UnsupportedModelError(
            f"no model class {model_class!r}; there are {', '.join(known)}.{did_you_mean(model_class, known)}"
        )
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError(
            'tiny models of this family need transformers: pip install "torch-intervene[hf]"'
        ) from error
    config = getattr(transformers, config_class)(**{**defaults, **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = getattr(transformers, model_class)(config)
        _spread(model)
    return model.eval()


def _spread(model: nn.Module) -> None:
    """Move biases and norm scales off 0 and 1, as training does: a claim that holds only there must not pass."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)

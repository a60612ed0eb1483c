"""The registry: which adapter knows a model.

Adapters are found through the entry-point group ``intervene.adapters``, first-party ones included.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from torch import nn

from .adapter import Adapter
from .errors import UnknownSiteError, did_you_mean

GROUP = "intervene.adapters"

_registered: dict[str, type[Adapter]] = {}


def register(adapter: type[Adapter]) -> type[Adapter]:
    """Make an adapter class known in this process; usable as a decorator. It goes before installed ones."""
    _registered[adapter.family] = adapter
    return adapter


def families() -> dict[str, type[Adapter]]:
    """Every known adapter class by family name."""
    return {**_installed(), **_registered}


def find(model: nn.Module) -> type[Adapter] | None:
    """The adapter class that recognises ``model``, None when no family does."""
    candidates = [*_registered.values(), *_installed().values()]
    return next((a for a in candidates if a.recognises(model)), None)


def family(name: str) -> type[Adapter]:
    """The adapter class of a family.

    Raises:
        UnknownSiteError: no such family; the message names those there are.
    """
    known = families()
    if name not in known:
        raise UnknownSiteError(f"no family {name!r}; there are {', '.join(sorted(known))}.{did_you_mean(name, known)}")
    return known[name]


def tiny(name: str, model: str | None = None, *, seed: int = 0, **config: Any) -> nn.Module:
    """A small seeded model of a family in eval mode, for quick tries and tests; nothing is downloaded.

    Args:
        name: the family, for example ``"gpt2"``.
        model: one of the family's model classes, by name; its causal LM (or main model) by default.
        seed: seed of the weights; torch's own random state is left as it was.
        **config: config values to set in place of the tiny ones.

    Raises:
        UnknownSiteError: no such family.
        UnsupportedModelError: the family has no model class of that name, or its adapter makes no tiny models.
        MissingDependencyError: the package that has the model's code is not installed.
    """
    return family(name).tiny(model, seed, **config)


@cache
def _installed() -> dict[str, type[Adapter]]:
    found: dict[str, type[Adapter]] = {}
    for entry in entry_points(group=GROUP):
        try:
            found[entry.name] = entry.load()
        except Exception as error:  # a stranger's broken package must not take every family down
            warnings.warn(f"the adapter {entry.value} could not be imported: {error}", stacklevel=3)
    return found

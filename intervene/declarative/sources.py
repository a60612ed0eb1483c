"""Sources: which run, or which tensor, each intervention takes its source from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..errors import ConfigError, InterventionError, did_you_mean
from .placing import Place


def by_group(sources: Any, groups: int) -> list[Any]:
    """The inputs of each group's source run; None where it has none.

    Raises:
        InterventionError: another number of sources than of groups.
    """
    if sources is None:
        return [None] * groups
    listed = list(sources) if isinstance(sources, (list, tuple)) else [sources]
    if len(listed) == 1:
        return listed * groups
    if len(listed) != groups:
        raise InterventionError(
            f"{len(listed)} sources were given for {groups} intervention(s) or groups, one each, or one for all; "
            f"None stands for an intervention without a source"
        )
    return listed


def by_key(tensors: Any, places: Sequence[Place]) -> dict[str, Tensor]:
    """Sources that were given as tensors, by intervention key.

    Raises:
        ConfigError: a key that no intervention has, or another number of tensors than of interventions.
    """
    keys = [place.key for place in places]
    if tensors is None:
        return {}
    if isinstance(tensors, Tensor):
        return {place.key: tensors for place in places if place.intervention.takes_source}
    if isinstance(tensors, Mapping):
        for key in tensors:
            if key not in keys:
                raise ConfigError(f"no intervention {key!r}.{did_you_mean(str(key), keys)} There are {keys}")
        return {k: v for k, v in tensors.items() if v is not None}
    if isinstance(tensors, Sequence) and len(tensors) == len(keys):
        return {k: v for k, v in zip(keys, tensors, strict=True) if v is not None}
    raise ConfigError(f"source_representations are a tensor, or {len(keys)} of them in a list or by key: {keys}")


def require(places: Sequence[Place], given: Mapping[str, Tensor]) -> None:
    """Raise where a call without source runs leaves an intervention without the source that it needs."""
    lacking = [p for p in places if p.intervention.needs_source and p.key not in given]
    if lacking:
        raise InterventionError(
            f"{lacking[0].key}: {type(lacking[0].intervention).__name__} needs a source: pass sources=[...] (None in "
            f"its place leaves it out), source_representations=, or a constant source in its config"
        )

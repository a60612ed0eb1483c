"""Sources: which run, or which tensor, each intervention takes its source from."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from types import FrameType
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


def only_used(
    runs: Sequence[Any], given: Any, places: Sequence[Place], tensors: Mapping[str, Tensor], mode: str
) -> list[Any]:
    """``runs`` with None in place of those that nothing reads, and a warning that says which those are.

    Args:
        runs: the inputs of each group's source run.
        given: ``sources`` as the call was given them.
        places: every intervention.
        tensors: the sources that were given as tensors.
        mode: the config's.

    Raises:
        InterventionError: a run in the middle of a series that is written into and read by nothing.
    """
    reading = {place.group for place in places if place.intervention.takes_source and place.key not in tensors}
    kept = [source if group in reading else None for group, source in enumerate(runs)]
    shared = given is not None and (not isinstance(given, (list, tuple)) or len(given) == 1)
    if shared and reading:
        return kept  # one for all serves those that have a use for it
    unused = [group for group, source in enumerate(runs) if source is not None and kept[group] is None]
    if not unused:
        return kept
    group = unused[0]
    written = mode == "serial" and any(source is not None for source in kept[:group])
    why = "; ".join(_without(place, tensors) for place in places if place.group == group or shared)
    if written:
        raise InterventionError(
            f"sources[{group}] would be written into and then read by nothing, so that what comes before it in the "
            f"series is lost: {why}. None in its place writes what comes before into the next run there is"
        )
    what = "sources aren't" if shared else f"sources[{group}] isn't"
    warnings.warn(f"{what} used: {why}", UserWarning, stacklevel=_calls_inside())
    return kept


def _calls_inside() -> int:
    """How far up the call stack, from our caller, the first line lies that is neither torch's nor this library's."""
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("intervene", "torch"):
        frame, level = frame.f_back, level + 1
    return level


def _without(place: Place, tensors: Mapping[str, Tensor]) -> str:
    kind = type(place.intervention).__name__
    if place.key in tensors:
        return f"{place.key}'s source was given as a tensor"
    if place.intervention.source_representation is not None:
        return f"{place.key} ({kind}) has a constant source"
    return f"{place.key} ({kind}) takes no source"


def targets(runs: Sequence[Any], base: Any, mode: str) -> list[Any]:
    """The inputs of the run that each group writes into: the base, or in series the next run there is."""
    if mode == "parallel":
        return [base] * len(runs)
    following = base
    found: list[Any] = []
    for source in reversed(runs):
        found.append(following)
        following = following if source is None else source
    return found[::-1]


def by_key(tensors: Any, places: Sequence[Place]) -> dict[str, Tensor]:
    """Sources that were given as tensors, by intervention key.

    Raises:
        ConfigError: a key that no intervention has, or another number of tensors than of interventions.
        InterventionError: one for all where none takes any.
    """
    keys = [place.key for place in places]
    if tensors is None:
        return {}
    if isinstance(tensors, Tensor):
        taking = [place.key for place in places if place.intervention.takes_source]
        if not taking:
            raise InterventionError(f"a source was given, and none of {keys} takes one")
        return dict.fromkeys(taking, tensors)
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

"""Caches: how many columns of the sequence earlier calls of a model have left in one."""

from __future__ import annotations

from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary


class Caches:
    """Asks a cache for its length, and counts for those that keep none.

    A recurrent state is as large after a thousand columns as after one. Its length is known where every call that
    filled it was seen.
    """

    @cached_property
    def _counted(self) -> WeakKeyDictionary[Any, int]:
        return WeakKeyDictionary()

    def length(self, cache: Any) -> int | None:
        """How many columns ``cache`` stands for; None where it doesn't say and calls that weren't seen filled it."""
        if hasattr(cache, "seqlen_offset"):
            return int(cache.seqlen_offset)
        if not hasattr(cache, "get_seq_length"):
            return int(cache[0][0].shape[-2])
        if not _recurrent(cache):
            return int(cache.get_seq_length())
        return self._counted.get(cache) if cache.has_previous_state() else 0

    def note(self, cache: Any, columns: int) -> None:
        """A call has ended after which ``cache`` stands for ``columns``."""
        if _recurrent(cache):
            self._counted[cache] = columns


def _recurrent(cache: Any) -> bool:
    """Whether all that transformers' ``cache`` keeps are recurrent states, which have no length."""
    layers = list(getattr(cache, "layers", ()))
    return bool(layers) and all(
        hasattr(each, "recurrent_states") and not hasattr(each, "get_seq_length") for each in layers
    )

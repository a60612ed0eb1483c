"""The families whose models can be made here."""

from __future__ import annotations

from functools import cache
from typing import Any

import intervene as pv


@cache
def tiny(family: str) -> Any:
    """A small model of a family; nobody changes it."""
    return pv.tiny(family)


@cache
def families() -> list[str]:
    """Every family but those whose library is not installed."""
    return [family for family in sorted(pv.families()) if _can_be_made(family)]


def _can_be_made(family: str) -> bool:
    try:
        tiny(family)
    except pv.MissingDependencyError:
        return False
    return True

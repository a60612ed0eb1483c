"""The versions of libraries that are installed."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version

Version = tuple[int, ...]


def parsed(text: str) -> Version:
    """``"5.18"`` as (5, 18); what follows the numbers (``"rc1"``, ``".dev0"``, ``"+cpu"``) is left out."""
    numbers: list[int] = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


@cache
def installed(package: str) -> str | None:
    """The version of the distribution that holds an import package; None where none is installed."""
    for name in (package, *packages_distributions().get(package, ())):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None

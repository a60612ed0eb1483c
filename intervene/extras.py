"""Extras: the packages that only parts of this one need, and what is said where one can't be had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import MissingDependencyError


@contextmanager
def needed(package: str, extra: str, by: str) -> Iterator[None]:
    """Around an import from ``package``.

    Args:
        package: what is imported from, by its name in an import.
        extra: which of this package's extras installs it.
        by: what needs it, the beginning of the message.

    Raises:
        MissingDependencyError: it isn't installed, or it is and can't be imported; the message says which.
    """
    try:
        yield
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise missing(package, extra, by) from error
        raise MissingDependencyError(
            f"{by} needs {package}, which is installed and can't be imported: {error}"
        ) from error


def missing(package: str, extra: str, by: str) -> MissingDependencyError:
    """The error that ``package`` is not installed."""
    return MissingDependencyError(
        f'{by} needs {package}, which is not installed: pip install "torch-intervene[{extra}]"'
    )

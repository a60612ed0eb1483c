"""What every picture of this package begins and ends with: axes to draw on, and a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .extras import needed

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def axes(given: Axes | None, size: tuple[float, float], layout: Literal["constrained"] | None = "constrained") -> Axes:
    """``given``, or new axes in a figure of ``size`` in inches.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    with needed("matplotlib", extra="plot", by="plot"):
        from matplotlib.figure import Figure
    # Not pyplot: a library must neither pick the user's backend nor keep figures alive.
    return given if given is not None else Figure(figsize=size, layout=layout).subplots()


def save(drawn: Axes, path: str | Path | None, **options: Any) -> None:
    """Write the figure around ``drawn`` to ``path`` where that is given; options are those of ``savefig``."""
    if path is not None:
        figure = drawn.get_figure(root=True)
        assert figure is not None  # axes made by subplots always have one
        figure.savefig(str(path), **options)

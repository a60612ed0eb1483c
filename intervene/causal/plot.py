"""A causal model as a picture: variables, and an arrow from each parent to its child."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import plotting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .model import CausalModel


def draw(model: CausalModel, setting: Mapping[str, Any] | None, ax: Axes | None, path: str | Path | None) -> Axes:
    """Draw the graph on ``ax``, with each variable's value where ``setting`` has one."""
    rows = {y for _, y in model.pos.values()}
    ax = plotting.axes(ax, (6.0, 1.0 + 1.1 * len(rows)), layout=None)
    for child in model.variables:
        for parent in model.parents[child]:
            ax.annotate(
                "",
                xy=model.pos[child],
                xytext=model.pos[parent],
                arrowprops={"arrowstyle": "-|>", "color": "gray", "shrinkA": 14, "shrinkB": 14},
            )
    for variable, (x, y) in model.pos.items():
        text = variable if setting is None or variable not in setting else f"{variable} = {setting[variable]}"
        box = {"boxstyle": "round", "facecolor": "#efedf5", "edgecolor": "#54278f"}
        ax.text(x, y, text, ha="center", va="center", bbox=box, fontsize=9, parse_math=False)
    ax.set_axis_off()
    ax.margins(0.2)
    # annotate and text don't widen the limits themselves.
    ax.scatter(*zip(*model.pos.values(), strict=True), alpha=0)
    plotting.save(ax, path, dpi=110, bbox_inches="tight")
    return ax

"""Heatmaps of sweeps, labelled like figure 2 of Meng et al. 2022 (https://arxiv.org/abs/2202.05262)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import plotting
from ..errors import SweepError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .result import SweepResult


def draw(result: SweepResult, ax: Axes | None, path: str | Path | None) -> Axes:
    """Draw ``result`` on ``ax`` (new axes where None) and write it to ``path`` where that is given."""
    if not 1 <= len(result.axes) <= 2:
        raise SweepError(
            f"a plot has one or two axes, this result has {[a.name for a in result.axes]}: take one entry of the "
            f"others first with .select(...)"
        )
    ax = plotting.axes(ax, _size(result))
    if len(result.axes) == 1:
        _line(result, ax)
    else:
        _heatmap(result, ax)
    ax.set_title(result.title or f"{result.metric} after patching", fontsize=10, parse_math=False)
    plotting.save(ax, path, dpi=150)
    return ax


def _size(result: SweepResult) -> tuple[float, float]:
    if len(result.axes) == 1:
        return 6.0, 3.2
    rows, columns = _oriented(result)[0].shape
    return min(13.0, 3.4 + 0.32 * columns), min(16.0, 1.4 + 0.28 * rows)


def _oriented(result: SweepResult) -> tuple[Any, int, int]:
    """Values with positions or heads down and layers across, and which axis is which."""
    names = [a.name for a in result.axes]
    if names[0] == "layer":
        return result.numpy().T, 1, 0
    return result.numpy(), 0, 1


def _heatmap(result: SweepResult, ax: Axes) -> None:
    values, down, across = _oriented(result)
    image = ax.imshow(values, aspect="auto", cmap="Purples", interpolation="nearest")
    _label(ax, "y", result, down)
    _label(ax, "x", result, across)
    figure = ax.get_figure()
    assert figure is not None  # axes made by subplots always have one
    bar = figure.colorbar(image, ax=ax, pad=0.02)
    bar.set_label(result.metric, parse_math=False)


def _line(result: SweepResult, ax: Axes) -> None:
    axis = result.axes[0]
    ax.plot(range(len(axis)), result.numpy(), marker="o", color="#54278f", label="patched")
    ax.axhline(result.base, linestyle=":", color="gray", label="base")
    if result.source is not None:
        ax.axhline(result.source, linestyle="--", color="gray", label="source")
    ax.set_ylabel(result.metric)
    ax.legend(fontsize=8)
    _label(ax, "x", result, 0)


def _label(ax: Axes, which: str, result: SweepResult, index: int) -> None:
    """Name an axis and its entries; tokens hold dollar signs, which must not be read as mathematics."""
    axis = result.axes[index]
    texts = list(axis.texts or map(str, axis.labels))
    ticks = range(0, len(texts), max(1, len(texts) // 24) if axis.name != "position" else 1)
    shown = [texts[i] for i in ticks]
    name = {"layer": "restored layer" if "noise" in result.notes else "patched layer"}
    text = name.get(axis.name, axis.name)
    if which == "x":
        ax.set_xticks(list(ticks), shown, rotation=90 if max(map(len, shown)) > 3 else 0, parse_math=False)
        ax.set_xlabel(text)
    else:
        ax.set_yticks(list(ticks), shown, parse_math=False)
        ax.set_ylabel("" if axis.name == "position" else text)
    ax.tick_params(labelsize=8)

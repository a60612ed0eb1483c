"""A sweep's heatmap for the terminal: positions (or heads) down, layers across.

With colours every cell has its value as background, and as a percentage in it where there is room; without, shades
of grey characters (or plain ASCII ones) take their place. A picture too wide for the terminal is cut into bands of
layers, one below the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from ..errors import SweepError
from ..sweeps import Axis, SweepResult

# Widths in characters: the longest label, the widest cell, and the narrowest that has room for a percentage.
LABEL, CELL, NUMBER = 18, 6, 4
SHADES, ASCII_SHADES = " ░▒▓█", " .:+#"

# From nearly white to dark purple, the way of the plots in Meng et al. 2022.
_RAMP = ((252, 251, 253), (218, 218, 235), (158, 154, 200), (106, 81, 163), (63, 0, 125))


@dataclass(frozen=True)
class Heatmap:
    """What `rich` prints for a result of one or two axes.

    Attributes:
        result: the sweep.
        name: what the legend calls the measured value; the metric's name by default.
    """

    result: SweepResult
    name: str = ""

    def __post_init__(self) -> None:
        if not 1 <= len(self.result.axes) <= 2:
            raise SweepError(
                f"a heatmap has one or two axes, this result has {[a.name for a in self.result.axes]}: take one entry "
                f"of the others first with .select(...)"
            )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Sixteen colours are too few for a ramp.
        coloured = not console.no_color and console.color_system in ("256", "truecolor")
        shades = ASCII_SHADES if options.ascii_only else SHADES
        rows, (down, across) = self._rows(), self._axes()
        labels = [_label(text, options.ascii_only) for text in down.texts or map(str, down.labels)]
        margin = max(map(cell_len, labels))
        columns = len(across)
        width = min(CELL, max(1, (options.max_width - margin - 1) // columns))
        fitting = max(1, (options.max_width - margin - 1) // width)
        scale = self._scale()
        for first in range(0, columns, fitting):
            band = range(first, min(columns, first + fitting))
            if first:
                yield Text("")
            for label, row in zip(labels, rows, strict=True):
                line = Text(" " * (margin - cell_len(label)), no_wrap=True, overflow="crop")
                line.append(label, "bold" if label.endswith("*") else "")
                line.append(" ")
                for column in band:
                    line.append_text(self._cell(row[column], width, scale, coloured, shades))
                yield line
            if len(self.result.axes) == 2:
                yield Text(" " * (margin + 1) + _ticks([str(across.labels[c]) for c in band], width))
        if len(self.result.axes) == 2:
            yield Text(" " * (margin + 1) + across.name, "dim")
        yield self._legend(scale, coloured, shades, self._numbers(width))

    def _axes(self) -> tuple[Axis, Axis]:
        """What goes down, and what across: layers, where there are any."""
        axes = self.result.axes
        if len(axes) == 1:
            return axes[0], Axis("", ("",))
        return (axes[1], axes[0]) if axes[0].name == "layer" else (axes[0], axes[1])

    def _rows(self) -> list[list[float]]:
        values = self.result.values
        if values.dim() == 1:
            values = values[:, None]
        elif self.result.axes[0].name == "layer":
            values = values.T
        rows: list[list[float]] = values.tolist()
        return rows

    def _scale(self) -> tuple[float, float]:
        """The values that get the lightest and the darkest cell; both baselines lie between them."""
        known = [v for row in self._rows() for v in row] + [self.result.base, self.result.source]
        finite = [v for v in known if v is not None and math.isfinite(v)] or [0.0]
        return min(finite), max(finite)

    def _numbers(self, width: int) -> bool:
        """Whether cells of that width show their value."""
        return self.result.metric == "probability" and width >= NUMBER

    def _cell(self, value: float, width: int, scale: tuple[float, float], coloured: bool, shades: str) -> Text:
        if not math.isfinite(value):
            return Text("?".center(width))
        share = _share(value, scale)
        number = f"{100 * value:.0f}" if self._numbers(width) else ""
        if coloured:
            return Text(number.center(width), _style(share))
        shade = shades[min(int(share * len(shades)), len(shades) - 1)]
        if number:
            return Text(f"{shade * max(1, width - NUMBER)}{number:>3}".ljust(width))
        return Text((shade * max(1, width - 1)).ljust(width))

    def _legend(self, scale: tuple[float, float], coloured: bool, shades: str, numbers: bool) -> Text:
        low, high = (f"{v:.3g}" for v in scale)
        line = Text(f"{low} ")
        if coloured:
            for step in range(16):
                line.append(" ", _style(step / 15))
        else:
            line.append("".join(f"[{s}]" for s in shades))
        line.append(f" {high}  {self.name or self.result.metric}" + (", cells in %" if numbers else ""))
        return line


def _share(value: float, scale: tuple[float, float]) -> float:
    low, high = scale
    return 0.0 if high <= low else (value - low) / (high - low)


def _style(share: float) -> Style:
    place = share * (len(_RAMP) - 1)
    step = min(int(place), len(_RAMP) - 2)
    ends = zip(_RAMP[step], _RAMP[step + 1], strict=True)
    red, green, blue = (round(a + (place - step) * (b - a)) for a, b in ends)
    return Style(color="#ffffff" if share > 0.55 else "#000000", bgcolor=Color.from_rgb(red, green, blue))


def _label(text: str, ascii_only: bool) -> str:
    """A token on one line and not too wide; what has no print is shown by its escape."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    if ascii_only:
        shown = shown.encode("ascii", "backslashreplace").decode()
    if cell_len(shown) <= LABEL:
        return shown
    end = "*" if shown.endswith("*") else ""
    dots = ".." if ascii_only else "…"
    return set_cell_size(shown, LABEL - len(end) - len(dots)).rstrip() + dots + end


def _ticks(labels: Sequence[str], width: int) -> str:
    """Labels under cells of a width, as many as have room."""
    widest = max(map(len, labels)) + 1
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000) if s * width >= widest)
    line = [" "] * (len(labels) * width + widest)
    for place in range(0, len(labels), step):
        label = labels[place]
        begin = place * width + max(0, (width - len(label)) // 2)
        line[begin : begin + len(label)] = label
    return "".join(line).rstrip()

"""pyvene's `CausalModel`: ours, with the pictures that show themselves."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import TYPE_CHECKING, Any

from .. import causal
from ..causal import graph
from ..extras import needed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Places = Mapping[str, tuple[float, float]]


class CausalModel(causal.CausalModel):
    """`intervene.CausalModel` with pyvene's `print_structure`, `print_setting` and `generate_timesteps`."""

    def generate_timesteps(self) -> tuple[dict[str, int], int]:
        """Each variable's place in time, one step after its latest parent, and the last of all."""
        times = graph.timesteps(self.parents, None)
        return times, max(times.values())

    def print_structure(self, pos: Places | None = None, font: float = 12, node_size: float = 1000) -> Axes:
        """Draw variables and arrows, and show the picture.

        Args:
            pos: where variables are drawn, (x, y), in place of the model's own ``pos``.
            font: the text's size in points.
            node_size: accepted; a variable's box is as large as its name.

        Raises:
            MissingDependencyError: matplotlib is not installed.
        """
        return self._show(None, pos, font)

    def print_setting(self, total_setting: Mapping[str, Any], font: float = 12, node_size: float = 1000) -> Axes:
        """Draw variables and arrows with the values of ``total_setting``, and show the picture."""
        return self._show(total_setting, None, font)

    def _show(self, setting: Mapping[str, Any] | None, pos: Places | None, font: float) -> Axes:
        with needed("matplotlib", extra="plot", by="drawing a causal model"):
            # What is shown goes through the user's own backend, which is pyplot's to know.
            from matplotlib import pyplot
        placed = copy(self)
        placed.pos = {**self.pos, **(pos or {})}
        _, axes = pyplot.subplots(figsize=(10, 10))
        drawn = placed.plot(setting, axes)
        for text in drawn.texts:
            text.set_fontsize(font)
        pyplot.show()
        return drawn

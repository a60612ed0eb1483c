"""Strength sweeps: what an intervention does, from too weak to too strong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import plotting
from ..adapted import Adapted
from ..session import Written
from ..sites import Site
from .directions import Inputs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Metric = Callable[[Any], Tensor]


@dataclass(frozen=True)
class StrengthSweep:
    """What each metric measured at each strength.

    Attributes:
        strengths: in the order they were asked for.
        values: metric's name to (strengths,), the mean over the rows.
    """

    strengths: tuple[float, ...]
    values: Mapping[str, Tensor]

    def plot(self, ax: Axes | None = None, *, path: str | Path | None = None, title: str = "") -> Axes:
        """Draw a line for each metric over the strengths.

        Args:
            ax: matplotlib axes to draw on; new ones by default.
            path: also write the picture there (PNG, PDF, SVG by its ending).
            title: above the lines; what the axes have, where none is given.

        Raises:
            MissingDependencyError: matplotlib is not installed.
        """
        ax = plotting.axes(ax, (5, 3.4))
        for name, values in self.values.items():
            ax.plot(self.strengths, values.tolist(), marker="o", markersize=3, label=name)
        ax.set(xlabel="strength", **({"title": title} if title else {}))
        ax.legend(frameon=False)
        plotting.save(ax, path, dpi=120)
        return ax


def sweep_strengths(
    adapted: Adapted,
    inputs: Inputs,
    writes: Callable[[float], Mapping[Site, Written]],
    strengths: Sequence[float],
    metrics: Mapping[str, Metric],
    *,
    progress: bool = True,
) -> StrengthSweep:
    """Run the model once for each strength, and measure.

    Args:
        inputs: the model's inputs.
        writes: a strength to the writes of a session; strength 0 is run without any.
        strengths: in any order.
        metrics: name to a function of the model's output that gives a value for each row, (batch,).
        progress: whether to show a progress bar where it takes more than a second.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in metrics}
    for strength in tqdm(strengths, desc="strengths", unit="run", delay=1.0, disable=not progress):
        with torch.no_grad(), adapted.session(writes=writes(strength) if strength else ()):
            output = adapted.model(**inputs)
        for name, metric in metrics.items():
            found[name].append(metric(output).float().mean())
    return StrengthSweep(tuple(strengths), {name: torch.stack(values) for name, values in found.items()})

"""The result of a sweep: values that know their axes, export themselves and plot themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import SweepError
from ..extras import needed
from .plan import Axis

if TYPE_CHECKING:
    import numpy
    import pandas
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class SweepResult:
    """What a sweep measured.

    Attributes:
        values: the metric of each cell, the mean over examples; one axis for each of ``axes``, float32 on the CPU.
        samples: the same for each example (or noise sample): (examples, *axes).
        axes: the names and labels of the values' axes.
        metric: the metric's name.
        base: the metric of the base run with nothing patched (corrupted, if noise was asked for).
        source: the metric of the source run, None when there was none.
        method: how the runs were computed: "growing batch", "batch" or "loop".
        title: what was swept, for plots.
    """

    values: Tensor
    samples: Tensor
    axes: tuple[Axis, ...]
    metric: str
    base: float
    source: float | None
    method: str
    title: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    def axis(self, name: str) -> Axis:
        """The axis of that name.

        Raises:
            SweepError: the result has no such axis.
        """
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise SweepError(f"no axis {name!r}; there are {', '.join(a.name for a in self.axes)}")

    def numpy(self) -> numpy.ndarray[Any, Any]:
        """The values as a NumPy array, one axis for each of ``axes``."""
        return self.values.numpy()

    def to_pandas(self) -> pandas.DataFrame:
        """One row a cell: a column for each axis, its position's ``token`` where known, and ``value``."""
        with needed("pandas", extra="plot", by="to_pandas"):
            import pandas
        labels = [list(a.labels) for a in self.axes]
        index = pandas.MultiIndex.from_product(labels, names=[a.name for a in self.axes])
        frame = pandas.DataFrame({"value": self.values.flatten().tolist()}, index=index)
        frame = frame.reset_index()
        for axis in self.axes:
            if axis.texts is not None:
                token = dict(zip(axis.labels, axis.texts, strict=True))
                frame.insert(len(frame.columns) - 1, "token", frame[axis.name].map(token))
        return frame

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: axes, values, baselines and notes."""
        return {
            "title": self.title,
            "metric": self.metric,
            "method": self.method,
            "base": self.base,
            "source": self.source,
            "axes": [
                {
                    "name": a.name,
                    "labels": list(a.labels),
                    **({"texts": list(a.texts)} if a.texts else {}),
                }
                for a in self.axes
            ],
            "values": self.values.tolist(),
            **self.notes,
        }

    def best(self, count: int = 5) -> list[tuple[dict[str, Any], float]]:
        """The ``count`` highest cells as (label by axis, value), the highest first."""
        flat = self.values.flatten()
        top = flat.topk(min(count, flat.numel())).indices.tolist()
        found = []
        for position in top:
            labels: dict[str, Any] = {}
            rest = position
            for axis in reversed(self.axes):
                rest, entry = divmod(rest, len(axis))
                labels[axis.name] = axis.labels[entry]
            ordered = {a.name: labels[a.name] for a in self.axes}
            found.append((ordered, float(flat[position])))
        return found

    def plot(self, ax: Axes | None = None, *, path: str | Path | None = None) -> Axes:
        """Draw a heatmap (two axes) or a line (one), labelled like the figures of Meng et al. 2022.

        Args:
            ax: matplotlib axes to draw on; new ones by default.
            path: also write the picture there (PNG, PDF, SVG by its ending).

        Raises:
            MissingDependencyError: matplotlib is not installed.
            SweepError: more than two axes; choose some of them first with `select`.
        """
        from .plot import draw

        return draw(self, ax, path)

    def select(self, **labels: Any) -> SweepResult:
        """The result at one label of some axes, for example ``select(component="mlp_output")``.

        Raises:
            SweepError: the result has no such axis, or its axis no such label.
        """
        values, samples, axes = self.values, self.samples, self.axes
        for name, label in labels.items():
            axis = self.axis(name)
            if label not in axis.labels:
                raise SweepError(f"axis {name} has no {label!r}; it has {list(axis.labels)}")
            dim = [a.name for a in axes].index(name)
            entry = axis.labels.index(label)
            values, samples = values.select(dim, entry), samples.select(dim + 1, entry)
            axes = tuple(a for a in axes if a.name != name)
        chosen = ", ".join(f"{n} {v}" for n, v in labels.items())
        title = f"{self.title}, {chosen}" if chosen else self.title
        return SweepResult(
            values,
            samples,
            axes,
            self.metric,
            self.base,
            self.source,
            self.method,
            title,
            self.notes,
        )

    def __repr__(self) -> str:
        shape = " x ".join(f"{len(a)} {a.name}s" for a in self.axes)
        source = "" if self.source is None else f", source {self.source:.4g}"
        return (
            f"<SweepResult {shape} of {self.metric}: {float(self.values.min()):.4g} to "
            f"{float(self.values.max()):.4g}, base {self.base:.4g}{source} ({self.method})>"
        )

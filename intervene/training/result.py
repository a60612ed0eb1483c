"""How a training run went: its history, and a picture of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import plotting
from ..errors import TrainingError
from ..extras import needed

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

Record = dict[str, float]


@dataclass
class FitResult:
    """What `fit` did.

    Attributes:
        history: one record a step: ``step`` (from 1), ``epoch``, ``loss``, ``lr``, and ``temperature`` where there
            is one. ``loss`` is what was minimized, the penalty included.
        evaluations: one record an evaluation of the validation data: ``step``, ``loss``, ``accuracy``.
        kept: the evaluation whose weights the interventions have: the best one, or the last; None without validation.
        stopped: why the run ended before its last step: "patience", "target" or "interrupted"; None otherwise.
        seconds: how long it took, evaluations included.
    """

    history: list[Record] = field(default_factory=list)
    evaluations: list[Record] = field(default_factory=list)
    kept: Record | None = None
    stopped: str | None = None
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        """How many optimizer steps were made."""
        return int(self.history[-1]["step"]) if self.history else 0

    @property
    def accuracy(self) -> float:
        """The metric of what was kept: the interchange intervention accuracy, unless another was asked for.

        Raises:
            TrainingError: the run had no validation data.
        """
        if self.kept is None:
            raise TrainingError("the run had no validation data: pass validation= to fit, or call evaluate")
        return self.kept["accuracy"]

    def to_pandas(self) -> pandas.DataFrame:
        """One row a step, with the evaluations' figures in the columns ``validation_loss`` and so on."""
        with needed("pandas", extra="plot", by="to_pandas"):
            import pandas
        frame = pandas.DataFrame(self.history)
        if self.evaluations:
            seen = pandas.DataFrame(self.evaluations)
            seen.columns = [c if c == "step" else f"validation_{c}" for c in seen.columns]
            frame = frame.merge(seen, on="step", how="outer").sort_values("step", ignore_index=True)
        return frame

    def plot(self, ax: Axes | None = None, *, path: str | Path | None = None) -> Axes:
        """Draw the loss by step, and the validation accuracy against an axis of its own.

        Args:
            ax: matplotlib axes to draw on; new ones by default.
            path: also write the picture there (PNG, PDF, SVG by its ending).

        Raises:
            MissingDependencyError: matplotlib is not installed.
        """
        ax = plotting.axes(ax, (6.0, 3.2))
        ax.plot([r["step"] for r in self.history], [r["loss"] for r in self.history], color="#9e9ac8", label="loss")
        ax.set_xlabel("step")
        ax.set_ylabel("loss")
        if self.evaluations:
            other = ax.twinx()
            steps, accuracies = ([r[name] for r in self.evaluations] for name in ("step", "accuracy"))
            other.plot(steps, accuracies, color="#54278f", marker="o", markersize=3, label="accuracy")
            other.set_ylabel("interchange intervention accuracy")
            other.set_ylim(-0.02, 1.02)
        plotting.save(ax, path, dpi=110)
        return ax

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dict(vars(self))

    def __repr__(self) -> str:
        ends = f", stopped early ({self.stopped})" if self.stopped else ""
        found = f", accuracy {self.kept['accuracy']:.3f} at step {self.kept['step']:.0f}" if self.kept else ""
        return f"<FitResult: {self.steps} steps in {self.seconds:.1f} s{found}{ends}>"

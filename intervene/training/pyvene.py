"""Training with pyvene's signatures, over the same loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from ..declarative import IntervenableModel
from ..errors import TrainingError, did_you_mean
from .batches import Prepare
from .loop import evaluate, fit
from .objectives import Objective, interchange_accuracy, interchange_loss
from .result import FitResult, Record

_RENAMED = {"gradient_accumulation_steps": "accumulate", "scheduler": "schedule", "warm_up_steps": "warmup"}
_PASSED = (
    *("lr", "epochs", "optimizer", "accumulate", "schedule", "warmup", "max_steps", "temperature", "penalty", "clip"),
    *("autocast", "validation", "evaluate_every", "patience", "target", "keep", "callback", "progress"),
)


def train_alignment(
    intervenable: IntervenableModel,
    train_dataloader: Iterable[Any],
    compute_loss: Objective = interchange_loss,
    compute_metrics: Callable[[list[Tensor], list[Any]], Any] | None = None,
    inputs_collator: Prepare | None = None,
    **kwargs: Any,
) -> FitResult:
    """`fit` by the names that pyvene's method of this name has.

    Args:
        intervenable: what is trained.
        train_dataloader: batches with ``input_ids``, ``source_input_ids`` and ``labels``, or others that `call_of`
            or ``inputs_collator`` understands.
        compute_loss: of the intervened logits and the labels.
        compute_metrics: of a list of logits and one of labels; used on ``validation``.
        inputs_collator: applied to each batch.
        **kwargs: ``lr`` (1e-3), ``epochs`` (10), ``warm_up_steps`` (a share, 0.1), ``gradient_accumulation_steps``,
            ``optimizer``, ``scheduler``, and what `fit` takes besides.

    Raises:
        TrainingError: a keyword that is none of these, and what `fit` refuses.
    """
    asked = {"epochs": 10, **{_RENAMED.get(name, name): value for name, value in kwargs.items()}}
    for name in asked:
        if name not in _PASSED:
            raise TrainingError(f"train_alignment takes no {name!r}.{did_you_mean(name, [*_PASSED, *_RENAMED])}")
    return fit(
        intervenable,
        train_dataloader,
        prepare=inputs_collator,
        loss=compute_loss,
        metric=_metric(compute_metrics),
        **asked,
    )


def eval_alignment(
    intervenable: IntervenableModel,
    eval_dataloader: Iterable[Any],
    compute_metrics: Callable[[list[Tensor], list[Any]], Any] | None = None,
    inputs_collator: Prepare | None = None,
    **kwargs: Any,
) -> Record:
    """`evaluate` by the names that pyvene's method of this name has; the metric is ``accuracy``."""
    return evaluate(intervenable, eval_dataloader, prepare=inputs_collator, metric=_metric(compute_metrics), **kwargs)


def _metric(compute_metrics: Callable[[list[Tensor], list[Any]], Any] | None) -> Objective:
    if compute_metrics is None:
        return interchange_accuracy

    def metric(logits: Tensor, labels: Any) -> float:
        found = compute_metrics([logits], [labels])
        if isinstance(found, dict):
            if "accuracy" not in found:
                raise TrainingError(f"compute_metrics gives no 'accuracy'; it gives {', '.join(found)}")
            found = found["accuracy"]
        return float(found)

    return metric

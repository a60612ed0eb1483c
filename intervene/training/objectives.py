"""What is minimized and what is measured: the counterfactual label's cross-entropy, and how often it comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import TrainingError

Objective = Callable[[Tensor, Any], Any]


def logits_of(output: Any) -> Tensor:
    """The logits of a model's output: its ``logits``, the output itself, or the first of a tuple."""
    if isinstance(output, Tensor):
        return output
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(found, Tensor):
        return found
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    raise TrainingError(
        f"the model's output, a {type(output).__name__}, has no logits: wrap the model in one whose output is a tensor"
    )


def interchange_loss(logits: Tensor, labels: Any) -> Tensor:
    """Cross-entropy of the counterfactual labels in nats, the mean over labels.

    Args:
        logits: (batch, classes), or (batch, position, vocabulary).
        labels: classes, (batch,) or (batch, 1); with positions they are of the last position. (batch, position)
            labels are those of `transformers`' causal models: the label at a position is predicted at the one
            before, and -100 is left out.

    Raises:
        TrainingError: labels of another shape, or numbers that are no classes.
    """
    return torch.nn.functional.cross_entropy(*_aligned(logits, labels))


def interchange_accuracy(logits: Tensor, labels: Any) -> float:
    """Interchange intervention accuracy: how often the counterfactual label is the most likely one, 0 to 1.

    Shapes as `interchange_loss`; labels of -100 don't count (Geiger et al. 2021, https://arxiv.org/abs/2106.02997).
    """
    logits, labels = _aligned(logits, labels)
    counted = labels != -100
    return float((logits.argmax(-1) == labels)[counted].float().mean())


def _aligned(logits: Tensor, labels: Any) -> tuple[Tensor, Tensor]:
    """Logits (n, classes) and labels (n,)."""
    labels = torch.as_tensor(labels, device=logits.device)
    shapes = f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)}"
    if logits.dim() == 3 and logits.shape[1] != 1 and labels.shape == logits.shape[:2]:
        logits, labels = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    elif logits.dim() == 3:
        logits = logits[:, -1]
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if logits.dim() != 2 or labels.dim() != 1 or len(logits) != len(labels):
        raise TrainingError(
            f"{shapes} don't go together: labels are (batch,), or (batch, position) for logits of every position; "
            f"for other tasks pass loss= and metric="
        )
    return logits.float(), _classes(labels, logits.shape[-1])


def _classes(labels: Tensor, count: int) -> Tensor:
    # A causal model's output_to_tensor gives floats.
    whole = labels.long()
    if labels.is_floating_point() and not torch.equal(whole.to(labels.dtype), labels):
        raise TrainingError("labels are classes, whole numbers; for a regression pass loss= and metric=")
    if len(whole) and (int(whole.max()) >= count or bool(((whole < 0) & (whole != -100)).any())):
        raise TrainingError(
            f"labels lie between {int(whole.min())} and {int(whole.max())}, and there are {count} classes"
        )
    return whole

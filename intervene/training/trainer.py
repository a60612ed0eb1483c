"""Interventions as a module that `transformers.Trainer` trains."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..declarative import IntervenableModel
from ..errors import TrainingError
from .batches import Prepare, prepared
from .objectives import Objective, interchange_loss, logits_of


class AlignmentModule(nn.Module):
    """An intervenable model as a module that takes a batch by keyword and gives back a loss and logits.

    That is what `transformers.Trainer` and accelerate train. Its parameters and its state dict are the
    interventions' alone, so checkpoints hold them and not the model.

    >>> trainer = Trainer(AlignmentModule(intervenable), TrainingArguments(...), train_dataset=data)  # doctest: +SKIP

    Pass ``remove_unused_columns=False`` to TrainingArguments: the columns are those that `call_of` or ``prepare``
    knows, which Trainer can't tell.

    Args:
        intervenable: what is trained.
        prepare: turns a batch (a dict) into a call, where `call_of` doesn't do.
        loss: of the intervened logits and the labels.

    Raises:
        TrainingError: none of the interventions has trainable parameters.
    """

    accepts_loss_kwargs = False
    """Tells Trainer that the loss is a mean over the batch, to be divided when gradients are accumulated."""

    def __init__(
        self, intervenable: IntervenableModel, *, prepare: Prepare | None = None, loss: Objective = interchange_loss
    ) -> None:
        super().__init__()
        if not intervenable.get_trainable_parameters():
            raise TrainingError("nothing to train: none of the interventions has trainable parameters")
        self.intervenable = intervenable
        self._prepare = prepare
        self._loss = loss

    def forward(self, labels: Any = None, **batch: Any) -> dict[str, Tensor]:
        """``{"loss": ..., "logits": ...}`` of a batch."""
        # Labels by name, for by that Trainer knows that it can evaluate.
        call = prepared(batch if labels is None else {**batch, "labels": labels}, self._prepare)
        logits = logits_of(call.run(self.intervenable))
        return {"loss": self._loss(logits, call.labels), "logits": logits}

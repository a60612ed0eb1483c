"""`fit` and `evaluate`: the training loop of an alignment, and its measure."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm.auto import tqdm

from ..declarative import IntervenableModel
from ..errors import TrainingError
from .batches import Call, Prepare, prepared
from .objectives import Objective, interchange_accuracy, interchange_loss, logits_of
from .result import FitResult, Record
from .schedules import Schedule, Temperature, autocast_of, learning_rate, temperature_at, temperature_for

Keep = Literal["best", "last"]


def fit(
    intervenable: IntervenableModel,
    train: Iterable[Any],
    *,
    validation: Iterable[Any] | None = None,
    prepare: Prepare | None = None,
    loss: Objective = interchange_loss,
    metric: Objective = interchange_accuracy,
    penalty: Callable[[IntervenableModel], Tensor] | None = None,
    epochs: int = 1,
    max_steps: int | None = None,
    lr: float = 1e-3,
    optimizer: Optimizer | Callable[[list[nn.Parameter]], Optimizer] | None = None,
    schedule: Schedule = "linear",
    warmup: float = 0.1,
    temperature: Temperature | None = None,
    accumulate: int = 1,
    clip: float | None = None,
    autocast: str | torch.dtype | None = None,
    evaluate_every: int | None = None,
    patience: int | None = None,
    target: float | None = None,
    keep: Keep | None = None,
    callback: Callable[[Record], Any] | None = None,
    progress: bool = True,
) -> FitResult:
    """Train interventions so that interchanges have the effect that a hypothesis says: DAS and IIT.

    Distributed alignment search (Geiger et al. 2023, https://arxiv.org/abs/2303.02536) trains the interventions
    alone. Interchange intervention training (Geiger et al. 2022, https://arxiv.org/abs/2112.00826) trains the model
    too: call ``intervenable.enable_model_gradients()`` first. The model stays in the mode it is in, and gets no
    gradients that weren't asked for. A KeyboardInterrupt ends the run and keeps what it reached.

    Args:
        intervenable: a model with at least one trainable intervention.
        train: batches, gone through anew in each epoch (a DataLoader or a list).
        validation: batches to measure.
        prepare: turns a batch into a `Call` or into a batch of a form that `call_of` knows.
        loss: of the intervened logits and the labels.
        metric: likewise, the higher the better: a mean over the batch.
        penalty: added to the loss: of the boundary of a boundless intervention, say.
        epochs: how often ``train`` is gone through.
        max_steps: so many optimizer steps in place of ``epochs``; needed where ``train`` has no length.
        lr: Adam's learning rate at its highest.
        optimizer: another one, or a function that makes it of the parameters.
        schedule: of the learning rate: "linear", "cosine" or "constant" after the warm-up, a function of the share
            of steps done, or a scheduler of torch.
        warmup: over what share of the steps the rate rises.
        temperature: (start, end), or a function of the share of steps done; (50, 0.1) where an intervention has one.
        accumulate: batches to a step; gradients are their mean.
        clip: the gradients' greatest norm.
        autocast: "bf16" computes forwards in bfloat16 where torch does so.
        evaluate_every: steps between evaluations; one at each epoch's end by default.
        patience: end after so many evaluations without a better metric.
        target: end once the metric of an evaluation reaches it.
        keep: "best" ends with the weights that did best on ``validation``, "last" with the last ones; the best, unless
            there is a penalty or a temperature, under which an early best may not be what is looked for.
        callback: called with each step's record.
        progress: show a bar.

    Returns:
        The history, the evaluations and the best of them.

    Raises:
        TrainingError: nothing to train, batches of an unknown form or none, or a loss that is not finite.
    """
    parameters = intervenable.get_trainable_parameters()
    if not parameters:
        kinds = ", ".join(type(p.intervention).__name__ for p in intervenable.places)
        raise TrainingError(f"nothing to train: none of these interventions has trainable parameters: {kinds}")
    steps = _steps(train, epochs, max_steps, accumulate)
    heat = temperature_for(intervenable, temperature)
    if (patience is not None or target is not None) and validation is None:
        raise TrainingError("patience and target are about evaluations: pass validation= too")
    if optimizer is None:
        optimizer = Adam(parameters, lr=lr)
    elif not isinstance(optimizer, Optimizer):
        optimizer = optimizer(parameters)
    run = _Run(
        intervenable=intervenable,
        parameters=parameters,
        optimizer=optimizer,
        scheduler=learning_rate(optimizer, schedule, warmup, steps),
        heat=heat,
        steps=steps,
        prepare=prepare,
        loss=loss,
        metric=metric,
        penalty=penalty,
        accumulate=accumulate,
        clip=clip,
        dtype=autocast_of(autocast),
        validation=validation,
        patience=patience,
        target=target,
        keep=keep or ("best" if penalty is None and heat is None else "last"),
        callback=callback,
    )
    _warn_of_dropout(intervenable)
    started = perf_counter()
    with tqdm(total=steps, desc="fit", unit="step", disable=not progress) as bar:
        try:
            run.through(train, evaluate_every, bar)
        except KeyboardInterrupt:
            run.result.stopped = "interrupted"
        finally:
            # Gradients are leftovers now, and would hold memory.
            optimizer.zero_grad(set_to_none=True)
    run.restore()
    run.result.seconds = perf_counter() - started
    return run.result


@torch.no_grad()
def evaluate(
    intervenable: IntervenableModel,
    batches: Iterable[Any],
    *,
    prepare: Prepare | None = None,
    loss: Objective = interchange_loss,
    metric: Objective = interchange_accuracy,
    autocast: str | torch.dtype | None = None,
    progress: bool = False,
) -> Record:
    """The mean ``loss`` and ``accuracy`` (the metric) over ``batches``, each batch weighted by its examples.

    Args:
        intervenable: a model with its interventions, which are left as they are.
        batches: gone through once (a DataLoader or a list).
        prepare: turns a batch into a `Call` or into a batch of a form that `call_of` knows.
        loss: of the intervened logits and the labels.
        metric: likewise, a mean over the batch.
        autocast: "bf16" or "fp16" computes forwards in that dtype where torch does so; a dtype does as well.
        progress: show a bar.

    Returns:
        ``{"loss": ..., "accuracy": ...}``.

    Raises:
        TrainingError: no batches, ones of an unknown form, or another word for ``autocast``.
    """
    dtype = autocast_of(autocast)
    total = {"loss": 0.0, "accuracy": 0.0}
    count = 0
    for batch in tqdm(batches, desc="evaluate", unit="batch", leave=False, disable=not progress):
        call = prepared(batch, prepare).to(intervenable.get_device())
        with _autocast(intervenable, dtype):
            logits = logits_of(call.run(intervenable))
            figures = {"loss": float(loss(logits, call.labels)), "accuracy": float(metric(logits, call.labels))}
        size = _examples(call, logits)
        count += size
        for name, value in figures.items():
            total[name] += size * value
    if not count:
        raise TrainingError("there were no batches to evaluate")
    return {name: value / count for name, value in total.items()}


@dataclass
class _Run:
    """One training run: what it was asked for, as `fit` says it, and how far it has come."""

    intervenable: IntervenableModel
    parameters: list[nn.Parameter]
    optimizer: Optimizer
    scheduler: LRScheduler
    heat: Temperature | None
    steps: int
    prepare: Prepare | None
    loss: Objective
    metric: Objective
    penalty: Callable[[IntervenableModel], Tensor] | None
    accumulate: int
    clip: float | None
    dtype: torch.dtype | None
    validation: Iterable[Any] | None
    patience: int | None
    target: float | None
    keep: Keep
    callback: Callable[[Record], Any] | None
    result: FitResult = field(default_factory=FitResult)
    step: int = 0
    worse: int = 0
    best: Record | None = None
    weights: dict[str, Any] | None = None

    def through(self, train: Iterable[Any], evaluate_every: int | None, bar: Any) -> None:
        """Step until the steps are done or an evaluation says to stop."""
        epoch = 0
        while True:
            epoch += 1
            before = self.step
            for batches in _groups(train, self.accumulate):
                self._take_step(batches, epoch, bar)
                ended = self.step >= self.steps
                due = evaluate_every is not None and self.step % evaluate_every == 0
                if ((ended or due) and self._evaluated(bar)) or ended:
                    return
            if self.step == before:
                again = ": it can be gone through only once; pass a list or a DataLoader" if epoch > 1 else ""
                raise TrainingError(f"train gave no batches in epoch {epoch}{again}")
            if evaluate_every is None and self._evaluated(bar):
                return

    def _take_step(self, batches: list[Any], epoch: int, bar: Any) -> None:
        record: Record = {
            "step": self.step + 1,
            "epoch": epoch,
            "loss": 0.0,
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        if self.heat is not None:
            heat = temperature_at(self.heat, self.step / max(1, self.steps - 1))
            self.intervenable.set_temperature(heat)
            record["temperature"] = heat
        for batch in batches:
            with self.intervenable.through_backward():
                loss = self._loss(batch) / len(batches)
                # No other leaf gets gradients: not the model's parameters, not embeddings that the caller hands in.
                loss.backward(inputs=self.parameters)  # type: ignore[no-untyped-call]
            record["loss"] += loss.item()
        if not math.isfinite(record["loss"]):
            raise TrainingError(
                f"the loss is {record['loss']} at step {record['step']}: lower lr, pass clip=, or look for labels "
                f"that can't be"
            )
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.result.history.append(record)
        bar.update()
        self._show(bar, record)
        if self.callback is not None:
            self.callback(record)

    def _loss(self, batch: Any) -> Tensor:
        call = prepared(batch, self.prepare).to(self.intervenable.get_device())
        with _autocast(self.intervenable, self.dtype):
            loss: Tensor = self.loss(logits_of(call.run(self.intervenable)), call.labels)
            if self.penalty is not None:
                loss = loss + self.penalty(self.intervenable)
        if not loss.requires_grad:
            raise TrainingError(
                "the loss doesn't hang on the trainable parameters: no trained intervention acts on what it measures"
            )
        return loss

    def _evaluated(self, bar: Any) -> bool:
        """Measure the validation data; whether the run is at its end."""
        if self.validation is None:
            return False
        figures = evaluate(
            self.intervenable,
            self.validation,
            prepare=self.prepare,
            loss=self.loss,
            metric=self.metric,
            autocast=self.dtype,
        )
        record = {"step": self.step, **figures}
        self.result.evaluations.append(record)
        better = self.best is None or record["accuracy"] > self.best["accuracy"]
        self.worse = 0 if better else self.worse + 1
        if better:
            self.best = record
        if better and self.keep == "best":
            self.weights = deepcopy(self._trained().state_dict())
        self._show(bar, self.result.history[-1])
        if self.step >= self.steps:
            return True
        if self.target is not None and record["accuracy"] >= self.target:
            self.result.stopped = "target"
        elif self.patience is not None and self.worse >= self.patience:
            self.result.stopped = "patience"
        return self.result.stopped is not None

    def restore(self) -> None:
        """Give the interventions the weights that are to be kept."""
        if self.weights is not None:
            self._trained().load_state_dict(self.weights)
            self.result.kept = self.best
        elif self.result.evaluations and self.result.evaluations[-1]["step"] == self.step:
            self.result.kept = self.result.evaluations[-1]

    def _trained(self) -> nn.Module:
        """The modules that are trained: the interventions, and the model where its parameters are among them."""
        own = {id(p) for p in self.intervenable.parameters()}
        if all(id(p) in own for p in self.parameters):
            return self.intervenable
        return nn.ModuleList([self.intervenable, self.intervenable.adapted.model])

    def _show(self, bar: Any, record: Record) -> None:
        shown = {"loss": f"{record['loss']:.3f}"}
        if "temperature" in record:
            shown["temperature"] = f"{record['temperature']:.1f}"
        if self.result.evaluations:
            shown["accuracy"] = f"{self.result.evaluations[-1]['accuracy']:.3f}"
        bar.set_postfix(shown, refresh=False)


def _steps(train: Iterable[Any], epochs: int, max_steps: int | None, accumulate: int) -> int:
    if epochs < 1 or accumulate < 1 or (max_steps is not None and max_steps < 1):
        raise TrainingError(
            f"epochs, accumulate and max_steps are at least 1; found {epochs}, {accumulate} and {max_steps}"
        )
    if max_steps is not None:
        return max_steps
    if not isinstance(train, Sized):
        raise TrainingError("train has no length, so the schedules need max_steps=")
    if len(train) == 0:
        raise TrainingError("train has no batches")
    return epochs * math.ceil(len(train) / accumulate)


def _groups(train: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """The batches of each step; the last of an epoch may have fewer."""
    batches = iter(train)
    while group := list(islice(batches, size)):
        yield group


def _examples(call: Call, logits: Tensor) -> int:
    shape = getattr(call.labels, "shape", None)
    return int(shape[0]) if shape else len(logits)


def _autocast(intervenable: IntervenableModel, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    if dtype is None:
        return nullcontext()
    return torch.autocast(intervenable.get_device().type, dtype=dtype)


def _warn_of_dropout(intervenable: IntervenableModel) -> None:
    model = intervenable.adapted.model
    dropping = any(m.training and isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules())
    if dropping and not intervenable._trains_model:
        warnings.warn(
            "the model is in training mode and drops out activations, so that base and source runs differ by chance; "
            "call model.eval() first unless that is wanted (fit leaves the model's mode as it is)",
            UserWarning,
            stacklevel=3,
        )

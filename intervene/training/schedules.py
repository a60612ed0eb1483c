"""How the learning rate and the temperature move over a training run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from ..errors import TrainingError, did_you_mean

Factor = Callable[[float], float]
Schedule = str | Factor | LRScheduler
Temperature = tuple[float, float] | Callable[[float], float]

SHAPES: dict[str, Factor] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}

default_temperature: tuple[float, float] = (50.0, 0.1)
"""From where to where a temperature falls, as boundless DAS anneals it (Wu et al. 2023,
https://arxiv.org/abs/2305.08809)."""


def learning_rate(optimizer: Optimizer, schedule: Schedule, warmup: float, steps: int) -> LRScheduler:
    """A scheduler: ``schedule`` itself, or a linear rise over ``warmup`` of the steps and then its shape.

    Raises:
        TrainingError: a shape of no known name, or a warm-up that isn't a share of the steps.
    """
    if isinstance(schedule, LRScheduler):
        return schedule
    if isinstance(schedule, str):
        if schedule not in SHAPES:
            raise TrainingError(
                f"no schedule {schedule!r}.{did_you_mean(schedule, SHAPES)} There are {', '.join(SHAPES)}"
            )
        schedule = SHAPES[schedule]
    if not 0 <= warmup < 1:
        raise TrainingError(f"warmup is a share of the steps, at least 0 and below 1; found {warmup}")
    rising = warmup * steps
    shape = schedule

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return shape(min(1.0, (step - rising) / max(1.0, steps - rising)))

    return LambdaLR(optimizer, factor)


def temperature_at(temperature: Temperature, done: float) -> float:
    """The temperature when the share ``done`` of the steps is done; a pair falls linearly."""
    if callable(temperature):
        return float(temperature(done))
    start, end = temperature
    return float(start + (end - start) * done)


def temperature_for(intervenable: Any, asked: Temperature | None) -> Temperature | None:
    """The schedule asked for; the default one where some trained intervention has a temperature, else None.

    Raises:
        TrainingError: a schedule for interventions of which none has a temperature, or one that isn't above zero.
    """
    has = any(hasattr(p.intervention, "set_temperature") for p in intervenable.places)
    if asked is not None and not has:
        raise TrainingError(f"no intervention here has a temperature: {', '.join(intervenable.sites)}")
    if isinstance(asked, tuple) and not (len(asked) == 2 and min(asked) > 0):
        raise TrainingError(
            f"temperature is (start, end), both above zero, or a function of the share done; found {asked}"
        )
    return asked if asked is not None else (default_temperature if has else None)


def autocast_of(asked: str | torch.dtype | None) -> torch.dtype | None:
    """The dtype to autocast to, None for none.

    Raises:
        TrainingError: a name that is none of "bf16" and "fp16".
    """
    names = {"bf16": torch.bfloat16, "bfloat16": torch.bfloat16, "fp16": torch.float16, "float16": torch.float16}
    if asked is None or isinstance(asked, torch.dtype):
        return asked
    if asked not in names:
        raise TrainingError(f"autocast is 'bf16', 'fp16' or a dtype, not {asked!r}")
    return names[asked]

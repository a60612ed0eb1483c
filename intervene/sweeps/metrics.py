"""Metrics: what a sweep measures of each patched run.

A metric is any callable from logits to one number an example. It gets the logits of the last real position,
(examples, vocabulary), unless it has ``positions = "all"``; then (examples, positions, vocabulary).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import SweepError

Metric = Callable[[Tensor], Any]


def _at(logits: Tensor, tokens: int | Tensor) -> Tensor:
    """Each example's entry of its token: (examples, vocabulary) -> (examples,)."""
    index = torch.as_tensor(tokens, device=logits.device).reshape(-1, 1).expand(len(logits), 1)
    size = logits.shape[-1]
    if int(index.min()) < 0 or int(index.max()) >= size:
        raise SweepError(f"token {tokens} is not in a vocabulary of {size} (0 to {size - 1})")
    return logits.gather(-1, index).squeeze(-1)


@dataclass(frozen=True)
class Probability:
    """The probability of a token, between 0 and 1; ``token`` is an id, or one for each example."""

    token: int | Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        return _at(logits.float().softmax(-1), self.token)

    def __str__(self) -> str:
        return "probability"


@dataclass(frozen=True)
class LogProbability:
    """The natural logarithm of a token's probability, in nats."""

    token: int | Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        return _at(logits.float().log_softmax(-1), self.token)

    def __str__(self) -> str:
        return "log probability (nats)"


@dataclass(frozen=True)
class LogitDifference:
    """Logit of ``token`` minus that of ``other`` (Wang et al. 2022, https://arxiv.org/abs/2211.00593)."""

    token: int | Tensor
    other: int | Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        return _at(logits, self.token) - _at(logits, self.other)

    def __str__(self) -> str:
        return "logit difference"


@dataclass(frozen=True)
class KLDivergence:
    """KL(reference || patched) of the next-token distributions, in nats.

    ``reference`` are logits, (vocabulary,) or (examples, vocabulary); left out, they are the source run's.
    """

    reference: Tensor | None = None

    def bind(self, source: Tensor | None) -> KLDivergence:
        """The metric with the source run's last logits as reference where none was given."""
        if self.reference is not None:
            return self
        if source is None:
            raise SweepError("KLDivergence needs a reference: there is no source run to compare with")
        return KLDivergence(source)

    def __call__(self, logits: Tensor) -> Tensor:
        if self.reference is None:
            raise SweepError("KLDivergence needs a reference: logits to compare with")
        wanted = self.reference.to(logits.device).float().log_softmax(-1)
        return (wanted.exp() * (wanted - logits.float().log_softmax(-1))).sum(-1)

    def __str__(self) -> str:
        return "KL divergence (nats)"


@dataclass(frozen=True)
class OnAllPositions:
    """A metric of the full logits: ``function`` gets (examples, positions, vocabulary)."""

    function: Metric
    positions: str = "all"

    def __call__(self, logits: Tensor) -> Any:
        return self.function(logits)

    def __str__(self) -> str:
        return describe(self.function)


def describe(metric: Metric) -> str:
    """A short name of a metric, for axes and tables."""
    named = getattr(metric, "__name__", None)
    return named if isinstance(named, str) else str(metric)


def measure(metric: Metric, logits: Tensor) -> Tensor:
    """One cell's examples measured: (examples,) in float32 on the CPU.

    Raises:
        SweepError: the metric gave something else than a number, or one for each example.
    """
    raw = torch.as_tensor(metric(logits)).detach().float().cpu()
    if raw.dim() == 0:
        return raw.expand(len(logits)).clone()
    if raw.shape != (len(logits),):
        raise SweepError(
            f"metric {describe(metric)} gave shape {tuple(raw.shape)} for logits {tuple(logits.shape)}; it must "
            f"give a number, or one for each of the {len(logits)} examples"
        )
    return raw

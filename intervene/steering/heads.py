"""Probes of attention heads, and the shift of the heads that know best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..adapted import Adapted
from ..sites import Site
from .directions import Inputs, at_last_token


@dataclass(frozen=True)
class HeadProbes:
    """What a linear probe of each head found, as inference-time intervention needs it.

    Li et al. 2023, "Inference-Time Intervention: Eliciting Truthful Answers from a Language Model",
    https://arxiv.org/abs/2306.03341.

    Attributes:
        sites: the heads' site in each layer.
        accuracy: (layers, heads): of each head's probe on the inputs it was not fitted to, 0 to 1.
        directions: (layers, heads, feature): from the mean of the label-0 inputs to that of label 1, of length one.
        spread: (layers, heads): the standard deviation of the activations along that direction.
    """

    sites: tuple[Site, ...]
    accuracy: Tensor
    directions: Tensor
    spread: Tensor

    def best(self, count: int) -> list[tuple[int, int]]:
        """The ``count`` (layer, head) pairs whose probes are the most accurate, best first."""
        layers, heads = self.accuracy.shape
        if not 0 < count <= layers * heads:
            raise ValueError(f"there are {layers * heads} heads, so not {count} best ones")
        order = self.accuracy.flatten().argsort(descending=True, stable=True)[:count]
        return [divmod(int(i), heads) for i in order]

    def shifts(self, count: int, strength: float) -> dict[Site, Callable[[Tensor], Tensor]]:
        """Writes that move the ``count`` best heads along their direction, at every position, for a session.

        Each by ``strength`` standard deviations of its own activations: the paper's alpha.
        """
        chosen: dict[int, list[int]] = {}
        for layer, head in self.best(count):
            chosen.setdefault(layer, []).append(head)
        return {
            self.sites[layer].at(heads=heads): self._shift(layer, heads, strength) for layer, heads in chosen.items()
        }

    def _shift(self, layer: int, heads: list[int], strength: float) -> Callable[[Tensor], Tensor]:
        step = strength * self.spread[layer, heads, None] * self.directions[layer, heads]
        return lambda part: part + step.to(part.device, part.dtype).unsqueeze(-2)


def probe_heads(
    adapted: Adapted,
    inputs: Inputs,
    labels: Tensor,
    *,
    component: str = "head_attention_value_output",
    held_out: float = 0.3,
    decay: float = 1e-2,
    seed: int = 0,
) -> HeadProbes:
    """Fit a logistic probe to every head at every row's last real token.

    Args:
        inputs: the model's inputs, with a row for each label.
        labels: (batch,) of 0 and 1.
        component: what is probed: a component with a head axis.
        held_out: the share of the rows that accuracy is measured on.
        decay: weight of the squared norm of the probes' weights in their loss.
        seed: of the split.

    Raises:
        ValueError: labels that aren't 0 and 1, too few of either, or not as many as rows; a component without heads.
        UnknownSiteError: no such component.
    """
    marks = labels.long()
    if marks.dim() != 1 or not set(marks.tolist()) <= {0, 1} or min(marks.sum(), (1 - marks).sum()) < 4:
        raise ValueError(f"labels are a vector of 0 and 1, four or more of each; found {labels.tolist()[:12]}")
    sites = tuple(adapted.sites.filter(component=component))
    if not sites or "head" not in (sites[0].axes or ()):
        raise ValueError(f"{component} has no heads in this model to probe")
    found = at_last_token(adapted, sites, inputs)
    # (layers, heads, rows, features), each head's features on a scale of their own.
    values = torch.stack([found[site].squeeze(-2).float().transpose(0, 1) for site in sites])
    if values.shape[2] != len(marks):
        raise ValueError(f"{len(marks)} labels for {values.shape[2]} rows of inputs")
    order = torch.randperm(len(marks), generator=torch.Generator().manual_seed(seed))
    cut = max(2, round(held_out * len(marks)))
    test, train = order[:cut], order[cut:]
    accuracy = _probe(values, marks, train, test, decay)
    positive, negative = (values[:, :, marks == mark].mean(2) for mark in (1, 0))
    directions = nn.functional.normalize(positive - negative, dim=-1)
    spread = (values * directions.unsqueeze(2)).sum(-1).std(-1)
    return HeadProbes(sites, accuracy, directions, spread)


def _probe(values: Tensor, marks: Tensor, train: Tensor, test: Tensor, decay: float) -> Tensor:
    """The accuracy of each head's probe on ``test``, all probes fitted to ``train`` at once by L-BFGS."""
    centred = values - values[:, :, train].mean(2, keepdim=True)
    scaled = centred / centred[:, :, train].std(2, keepdim=True).clamp(min=1e-6)
    weights = torch.zeros(*values.shape[:2], values.shape[-1], requires_grad=True)
    biases = torch.zeros(*values.shape[:2], 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, biases], max_iter=100, line_search_fn="strong_wolfe")

    def logits(rows: Tensor) -> Tensor:
        return (scaled[:, :, rows] * weights.unsqueeze(2)).sum(-1) + biases

    def loss() -> Tensor:
        optimizer.zero_grad()
        wanted = marks[train].float().expand(*values.shape[:2], -1)
        each = nn.functional.binary_cross_entropy_with_logits(logits(train), wanted, reduction="none").mean(-1)
        total: Tensor = (each + decay * weights.pow(2).sum(-1)).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        right = (logits(test) > 0) == (marks[test] > 0)
    return right.float().mean(-1)

"""A model whose one causal direction is known: what is to be found by training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from intervene import IntervenableConfig, IntervenableModel, RepresentationConfig

WIDTH = 6


class Planted(nn.Module):
    """Two classes that hang on the embedding along one direction alone."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.direction = nn.functional.normalize(torch.randn(WIDTH, generator=generator), dim=0)
        self.inside = nn.Linear(WIDTH, WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, 2, bias=False)
        with torch.no_grad():
            self.inside.weight.copy_(torch.eye(WIDTH))
            self.head.weight.copy_(torch.stack([-self.direction, self.direction]) * 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inside(x))


def intervenable(model: nn.Module, kind: object, **fields: object) -> IntervenableModel:
    """`kind` at the output of the model's inner layer."""
    place = RepresentationConfig(component="inside.output", intervention_type=kind, **fields)  # type: ignore[arg-type]
    return IntervenableModel(IntervenableConfig([place]), model)


def batches(model: Planted, count: int, size: int = 32, seed: int = 0) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Tuples (base, source, the label after the swap: the source's)."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        base, source = (torch.randn(size, WIDTH, generator=generator) for _ in range(2))
        found.append((base, source, (source @ model.direction > 0).long()))
    return found

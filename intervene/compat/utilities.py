"""The small functions that pyvene exports beside its interventions."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..interventions import Intervention, intervention_class

lsm = nn.LogSoftmax(dim=2)
sm = nn.Softmax(dim=2)


def set_seed(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def count_parameters(model: nn.Module) -> int:
    """How many numbers of a module require gradients."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def get_type_from_string(type_str: str) -> type[Intervention]:
    """The intervention class of a name; nothing is imported, the class must be known already."""
    return intervention_class(type_str)


def create_directory(path: str | Path) -> None:
    """Make a folder where there is none."""
    Path(path).mkdir(parents=True, exist_ok=True)


def sigmoid_boundary(_input: Tensor, boundary_x: Any, boundary_y: Any, temperature: Any) -> Tensor:
    """A soft 1 between two boundaries and 0 outside; the edges soften with the temperature."""
    above = torch.sigmoid((_input - boundary_x) / temperature)
    return above * torch.sigmoid((boundary_y - _input) / temperature)


def harmonic_sigmoid_boundary(_input: Tensor, boundary_x: Any, boundary_y: Any, temperature: Any) -> Tensor:
    """As `sigmoid_boundary`, of the harmonic mean of the distances to both boundaries inside them."""
    left, right = _input - boundary_x, boundary_y - _input
    inside = 2 / (1 / left.abs() + 1 / right.abs())
    distance = torch.where(left <= 0, left, torch.where(right <= 0, right, inside))
    return torch.sigmoid(distance / temperature)


def random_permutation_matrix(n: int) -> Tensor:
    """An n x n permutation matrix, drawn with torch's generator."""
    return torch.eye(n)[torch.randperm(n)]


def closeness_to_permutation_loss(rotation: Tensor) -> Tensor:
    """0 for a permutation matrix: how far rows and columns are from summing to 1 and entries from 0 or 1."""
    sums = (rotation.sum(dim=0) - 1).abs().mean() + (rotation.sum(dim=1) - 1).abs().mean()
    return 0.5 * sums + (rotation * (1 - rotation)).mean()


def format_token(tokenizer: Any, tok: Any) -> str:
    """A token's text with its spaces and line ends visible."""
    text: str = tokenizer.decode(tok)
    return text.replace(" ", "_").replace("\n", "\\n")


def top_vals(tokenizer: Any, res: Tensor, n: int = 10, return_results: bool = False) -> list[tuple[str, float]] | None:
    """Print, or return, the n tokens with the highest values of a distribution over the vocabulary."""
    values, indices = torch.topk(res, n)
    found = [(format_token(tokenizer, i), v) for i, v in zip(indices.tolist(), values.tolist(), strict=True)]
    if return_results:
        return found
    for token, value in found:
        print(f"{token:<20} {value}")
    return None


def embed_to_distrib(model: Any, embed: Tensor, log: bool = False, logits: bool = False) -> Tensor:
    """A GPT-2 hidden state (batch, position, feature) as a distribution over the vocabulary."""
    with torch.inference_mode():
        scores = embed @ model.get_input_embeddings().weight.T
        found: Tensor = scores if logits else (lsm if log else sm)(scores)
        return found


def get_list_depth(lst: Any) -> int:
    """How deep lists are nested; 0 for what is no list."""
    return 1 + max((get_list_depth(item) for item in lst), default=0) if isinstance(lst, list) else 0


def get_batch_size(model_input: Any) -> int:
    """How many rows an input tensor, or the first of a mapping of them, has."""
    first = next(iter(model_input.values())) if isinstance(model_input, Mapping) else model_input
    return int(first.shape[0])


def GET_LOC(LOC: tuple[int, int], unit: str = "h.pos", batch_size: int = 1) -> list[Any]:
    """One side of unit locations that names the head and the position (head, position) in every row."""
    if unit != "h.pos":
        raise NotImplementedError(f"{unit} is not supported.")
    head, position = LOC
    return [[[[head] for _ in range(batch_size)], [[position] for _ in range(batch_size)]]]

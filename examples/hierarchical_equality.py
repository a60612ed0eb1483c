"""Does a network that solves hierarchical equality compute the two equality relations? Distributed alignment search.

    python examples/hierarchical_equality.py

The task is (w = x) = (y = z) for four random vectors, as in Geiger et al. 2023, "Finding Alignments Between
Interpretable Causal Variables and Distributed Neural Representations" (https://arxiv.org/abs/2303.02536). An MLP learns
it. The hypothesis is a causal model with two intermediate variables, WX and YZ. DAS looks for a rotation of a hidden
layer in which the first half of the directions is WX and the second half YZ: swapping one half with that of another
input must then change the answer as swapping the variable in the causal model does. The share of held-out swaps for
which it does is the interchange intervention accuracy (IIA). The baseline swaps halves of random rotations.

The MLP's width and DAS' learning rate are those with the highest IIA on validation swaps; what is reported is measured
on swaps that neither training nor that choice has seen.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Annotated, Any

import torch
import typer
from figures import GRAY, PURPLE, report
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader

from intervene import (
    CausalModel,
    IntervenableConfig,
    IntervenableModel,
    RepresentationConfig,
    RotatedSpaceIntervention,
    evaluate,
    fit,
)

DIM = 4  # of each of the four vectors
PAIRS = {"WX": ("W", "X"), "YZ": ("Y", "Z")}
KINDS = {1: "WX", 2: "YZ", 3: "both"}


def causal_model() -> CausalModel:
    """(w = x) = (y = z), over vectors of numbers between -1 and 1."""
    relations = ["WX", "YZ", "O"]
    inputs = ["W", "X", "Y", "Z"]
    return CausalModel(
        variables=[*inputs, *relations],
        values={**dict.fromkeys(inputs, vector), **{v: [True, False] for v in relations}},
        parents={**{v: [] for v in inputs}, "WX": ["W", "X"], "YZ": ["Y", "Z"], "O": ["WX", "YZ"]},
        functions={
            **dict.fromkeys(inputs, lambda: (0.0,) * DIM),
            "WX": lambda w, x: w == x,
            "YZ": lambda y, z: y == z,
            "O": lambda wx, yz: wx == yz,
        },
    )


def vector(draw: random.Random) -> tuple[float, ...]:
    """A random vector; two of them are never equal."""
    return tuple(draw.uniform(-1, 1) for _ in range(DIM))


class Pairs:
    """Draws inputs in which each pair is equal half of the time, or as it is asked to be."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)

    def __call__(self, output_var: str | None = None, output_var_value: bool | None = None) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for relation, (one, other) in PAIRS.items():
            equal = output_var_value if relation == output_var else self._draw.random() < 0.5
            found[one] = vector(self._draw)
            found[other] = found[one] if equal else vector(self._draw)
        return found


class MLP(nn.Module):
    """Linear layers with ReLU between them: (batch, 4 * DIM) -> logits of (False, True)."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        sizes = [4 * DIM, *[width] * layers, 2]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = layer(x).relu()
        return last(x)  # type: ignore[no-any-return]


def train_mlp(model: MLP, examples: int, epochs: int, seed: int) -> float:
    """Train on factual data; the accuracy on as many inputs again, up to 20,000, none of them seen."""
    causal = causal_model()
    data = causal.generate_factual_dataset(examples, sampler=Pairs(seed))
    held_out = causal.generate_factual_dataset(min(examples, 20_000), sampler=Pairs(seed + 1))
    (x, y), (new_x, new_y) = (stacked(d) for d in (data, held_out))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    batches = examples // 1024
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * batches)
    for _ in range(epochs):
        for rows in torch.randperm(examples)[: batches * 1024].view(batches, 1024):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return float((model(new_x).argmax(-1) == new_y).float().mean())


def stacked(data: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Inputs (n, 4 * DIM) and classes (n,)."""
    return torch.stack([e["input_ids"] for e in data]), torch.stack([e["labels"] for e in data])[:, 0].long()


def alignment(model: nn.Module, layer: int, width: int) -> IntervenableModel:
    """One rotation of what hidden layer ``layer`` hands on; its first half stands for WX, its second for YZ."""
    half = RepresentationConfig(
        component=f"layers.{layer + 1}.input",
        intervention_type=RotatedSpaceIntervention,
        subspace_partition=[[0, width // 2], [width // 2, width]],
        intervention_link_key=0,  # both use the same rotation
    )
    return IntervenableModel(IntervenableConfig([half, half]), model)


def prepare(batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """A batch of one kind of swap as a call: WX comes from the first source, YZ from the second."""
    kind = int(batch["intervention_id"][0])
    first, second = batch["source_input_ids"].unbind(1)
    sources = {1: [first, None], 2: [None, first], 3: [first, second]}[kind]
    return {"base": batch["input_ids"], "sources": sources, "subspaces": [[0], [1]], "labels": batch["labels"]}


def counterfactuals(examples: int, batch_size: int, seed: int) -> DataLoader[Any]:
    """Batches of swaps; all of a batch swap the same variables."""
    random.seed(seed)  # which variables are swapped, and their values
    data = causal_model().generate_counterfactual_dataset(examples, batch_size=batch_size, sampler=Pairs(seed))
    return DataLoader(data, batch_size=batch_size)  # type: ignore[arg-type]


def by_kind(intervenable: IntervenableModel, loader: DataLoader[Any]) -> dict[str, float]:
    """The IIA of each kind of swap, and of all."""
    found = {"all": evaluate(intervenable, loader, prepare=prepare)["accuracy"]}
    for kind, name in KINDS.items():
        batches = [b for b in loader if int(b["intervention_id"][0]) == kind]
        found[name] = evaluate(intervenable, batches, prepare=prepare)["accuracy"]
    return found


@dataclass
class Tried:
    """One width and learning rate.

    Attributes:
        width, rate: which.
        accuracy: of the MLP on inputs that it hasn't seen.
        aligned: the trained intervenable model of each hidden layer.
        validation: each layer's IIA on validation swaps.
    """

    width: int
    rate: float
    accuracy: float
    aligned: list[IntervenableModel]
    validation: list[float]


@dataclass
class Outcome:
    """What was measured.

    Attributes:
        tried: every width and learning rate, the best on validation swaps first.
        das: the best's IIA by hidden layer and kind of swap, on test swaps.
        random: the mean IIA of random rotations, likewise.
    """

    tried: list[Tried]
    das: list[dict[str, float]]
    random: list[dict[str, float]]


def run(
    widths: Sequence[int],
    rates: Sequence[float],
    layers: int,
    mlp_examples: int,
    mlp_epochs: int,
    examples: int,
    epochs: int,
    baselines: int,
    seed: int,
) -> Outcome:
    """Train the MLPs, align each of their hidden layers, and test the one that validates best."""
    held_out = max(2560, examples // 4)
    train, validation, test = (
        counterfactuals(n, 256, seed + i) for i, n in ((2, examples), (3, held_out), (4, held_out))
    )
    tried = []
    for width in widths:
        torch.manual_seed(seed)
        model = MLP(width, layers)
        accuracy = train_mlp(model, mlp_examples, mlp_epochs, seed)
        for rate in rates:
            aligned = [alignment(model, layer, width) for layer in range(layers)]
            for intervenable in aligned:
                fit(intervenable, train, prepare=prepare, epochs=epochs, lr=rate)
            found = [evaluate(one, validation, prepare=prepare)["accuracy"] for one in aligned]
            tried.append(Tried(width, rate, accuracy, aligned, found))
    tried.sort(key=lambda one: max(one.validation), reverse=True)
    best = tried[0]
    chance = []
    for layer, intervenable in enumerate(best.aligned):
        random_ones = [alignment(intervenable.model, layer, best.width) for _ in range(baselines)]
        kinds = [by_kind(one, test) for one in random_ones]
        chance.append({name: mean(k[name] for k in kinds) for name in kinds[0]})
    return Outcome(tried, [by_kind(one, test) for one in best.aligned], chance)


def draw(outcome: Outcome) -> Figure:
    """The hypothesis, and the IIA by layer."""
    figure = Figure(figsize=(9, 3.2))
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.1, top=0.97, wspace=0.2)
    causal_model().plot(ax=left)
    layers = range(len(outcome.das))
    right.bar([i - 0.2 for i in layers], [d["all"] for d in outcome.das], 0.4, color=PURPLE, label="DAS")
    right.bar([i + 0.2 for i in layers], [r["all"] for r in outcome.random], 0.4, color=GRAY, label="random rotation")
    right.axhline(0.5, linestyle=":", color="gray", linewidth=1)
    right.set_xticks(list(layers), [f"hidden layer {i + 1}" for i in layers])
    right.set_ylabel("interchange intervention accuracy")
    right.set_ylim(0, 1.02)
    right.legend(fontsize=8, loc="lower left")
    return figure


def main(
    seed: Annotated[int, typer.Option(help="Seed of the weights and of all data.")] = 0,
    widths: Annotated[list[int], typer.Option(min=2, help="Widths of the hidden layers to try, even.")] = [16, 32],  # noqa: B006
    rates: Annotated[list[float], typer.Option(help="Learning rates of DAS to try.")] = [3e-3, 1e-2],  # noqa: B006
    layers: Annotated[int, typer.Option(min=1, help="Hidden layers.")] = 3,
    mlp_examples: Annotated[int, typer.Option(min=1024, help="Inputs that the MLP is trained on.")] = 200_000,
    mlp_epochs: Annotated[int, typer.Option(min=1, help="Passes over them.")] = 20,
    examples: Annotated[int, typer.Option(min=256, help="Swaps that DAS is trained on, a multiple of 1024.")] = 40_960,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over them.")] = 20,
    baselines: Annotated[int, typer.Option(min=1, help="Random rotations to compare with.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; more are hardly faster.")] = 1,
    picture: Annotated[Path | None, typer.Option(help="Where to draw it.")] = Path("hierarchical_equality.png"),
    page: Annotated[Path | None, typer.Option(help="A page of the docs to put the figures in.")] = None,
) -> None:
    """Train an MLP on hierarchical equality and look for the two relations in each of its hidden layers."""
    torch.set_num_threads(threads)
    started = perf_counter()
    outcome = run(widths, rates, layers, mlp_examples, mlp_epochs, examples, epochs, baselines, seed)
    best = outcome.tried[0]
    rows = [
        [
            f"hidden layer {i + 1}",
            f"{validated:.3f}",
            *(f"{das[k]:.3f}" for k in ("all", *KINDS.values())),
            f"{chance['all']:.3f}",
        ]
        for i, (validated, das, chance) in enumerate(zip(best.validation, outcome.das, outcome.random, strict=True))
    ]
    candidates = ", ".join(f"{t.width} and {t.rate:g} {max(t.validation):.3f}" for t in outcome.tried)
    report(
        "hierarchical_equality",
        f"MLP of width {best.width}: {best.accuracy:.2%} right on new inputs; DAS at learning rate {best.rate:g}.\n"
        f"The best layer on validation swaps, by width and learning rate: {candidates}.\n"
        f"Interchange intervention accuracy:",
        ["where", "validation", "test", *(f"swapping {k}" for k in KINDS.values()), "random rotations"],
        rows,
        seconds=perf_counter() - started,
        figure=draw(outcome),
        picture=picture,
        page=page,
    )


if __name__ == "__main__":
    typer.run(main)

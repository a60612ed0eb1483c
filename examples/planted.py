"""Find what was planted: a direction by rank-one DAS, the dimension of a subspace by boundless DAS.

    python examples/planted.py direction
    python examples/planted.py subspace

The model is a GPT-2 with random weights whose embeddings hold, for each token, as many yes-no features as there is
room for, each along a direction of its own of a random basis; the unembedding reads every feature of the last token.
So where each feature lies is known, and the blocks in between add what they add. The hypothesis under test is that the
first k features lie in a subspace: swapping it with that of another prompt must carry those features over and leave all
the others as they are. Any direction too few leaves one behind, any too many takes one along.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import typer
from figures import GRAY, PURPLE, report
from matplotlib.figure import Figure
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from intervene import (
    BoundlessRotatedSpaceIntervention,
    FitResult,
    IntervenableConfig,
    IntervenableModel,
    LowRankRotatedSpaceIntervention,
    RepresentationConfig,
    fit,
)

POSITIONS, TOKENS, LAYER = 4, 512, 1
Batch = dict[str, Any]


@dataclass
class Planted:
    """A model whose features are known.

    Attributes:
        model: tokens -> logits of each feature being yes; the first ``features`` entries of the last axis count.
        directions: (width, features), orthonormal: where each feature lies in the residual stream.
        signs: (tokens, features), 1 for yes and -1 for no.
    """

    model: GPT2LMHeadModel
    directions: Tensor
    signs: Tensor

    @property
    def features(self) -> int:
        return self.signs.shape[1]

    def batches(self, k: int, count: int, size: int, seed: int) -> list[Batch]:
        """Swaps of the first ``k`` features at the last position, with what should come out."""
        generator = torch.Generator().manual_seed(seed)
        found = []
        for _ in range(count):
            base, source = torch.randint(TOKENS, (2, size, POSITIONS), generator=generator)
            labels = torch.cat([self.signs[source[:, -1], :k], self.signs[base[:, -1], k:]], 1)
            found.append(
                {
                    "base": {"input_ids": base, "use_cache": False},
                    "sources": [{"input_ids": source, "use_cache": False}],
                    "unit_locations": {"sources->base": POSITIONS - 1},
                    "labels": labels,
                }
            )
        return found


def plant(width: int, seed: int) -> Planted:
    """A GPT-2 of three layers with ``width - 1`` features: a layer norm takes the mean's direction away."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=TOKENS, n_positions=POSITIONS, n_embd=width, n_layer=3, n_head=4, tie_word_embeddings=False,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.1, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    mean = torch.ones(width, 1)
    directions = torch.linalg.qr(torch.cat([mean, torch.randn(width, width - 1)], 1)).Q[:, 1:]
    signs = torch.randint(0, 2, (TOKENS, width - 1)) * 2.0 - 1.0
    with torch.no_grad():
        model.transformer.wte.weight.copy_(signs @ directions.T)
        model.lm_head.weight.zero_()
        model.lm_head.weight[: width - 1] = 4 * directions.T
    return Planted(model, directions, signs)


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the features, the mean over examples and features, in nats."""
    found = logits[:, -1, : labels.shape[1]]
    return nn.functional.binary_cross_entropy_with_logits(found, (labels + 1) / 2)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """How often every single feature comes out as it should."""
    right = (logits[:, -1, : labels.shape[1]] > 0) == (labels > 0)
    return float(right.all(1).float().mean())


def align(planted: Planted, k: int, kind: Any, steps: int, seed: int, **fields: Any) -> tuple[IntervenableModel, Any]:
    """Train an intervention of that kind to swap the first ``k`` features after block LAYER."""
    torch.manual_seed(seed)
    place = RepresentationConfig(layer=LAYER, component="block_output", intervention_type=kind, **fields)
    intervenable = IntervenableModel(IntervenableConfig([place]), planted.model)
    held_out = planted.batches(k, 8, 128, seed + 1)

    result = fit(
        intervenable,
        stream(planted, k, seed + 2),
        validation=held_out,
        max_steps=steps,
        loss=loss,
        metric=accuracy,
        lr=1e-2,
        evaluate_every=max(1, steps // 20),
        **(BOUNDLESS if kind is BoundlessRotatedSpaceIntervention else {}),
    )
    return intervenable, result


def boundary_penalty(intervenable: IntervenableModel) -> Tensor:
    """In proportion to the share of the directions that is swapped, as Wu et al. 2023 have it.

    The loss alone doesn't keep the boundary down: swapping the mean's direction changes nothing, for the final layer
    norm takes it away, and a direction in which all features mix changes none by enough to flip it. What one planted
    feature less would cost is several times what it saves here.
    """
    return 0.5 * intervenable.interventions[f"layer.{LAYER}.block_output"].get_boundary_parameters().sum()


# From a soft edge of the mask to a sharp one, geometrically: most steps see it nearly sharp.
BOUNDLESS: dict[str, Any] = {"temperature": lambda done: 0.05**done, "penalty": boundary_penalty}


def stream(planted: Planted, k: int, seed: int) -> Iterator[Batch]:
    """Batches without end, none the same."""
    while True:
        yield from planted.batches(k, 50, 64, seed)
        seed += 1000


app = typer.Typer(help=__doc__)
Seed = Annotated[int, typer.Option(help="Seed of the model, the data and the training.")]
Width = Annotated[int, typer.Option(min=8, help="Width of the residual stream.")]
Steps = Annotated[int, typer.Option(min=1, help="Training steps.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads; more are hardly faster.")]
Page = Annotated[Path | None, typer.Option(help="A page of the docs to put the figures in.")]


@app.command()
def direction(
    seed: Seed = 0,
    width: Width = 32,
    steps: Steps = 600,
    threads: Threads = 1,
    picture: Annotated[Path | None, typer.Option(help="Where to draw it.")] = Path("planted_direction.png"),
    page: Page = None,
) -> None:
    """Find one planted direction with a low-rank rotation of rank 1."""
    torch.set_num_threads(threads)
    started = perf_counter()
    planted = plant(width, seed)
    wanted = planted.directions[:, 0]
    intervenable, result = align(planted, 1, LowRankRotatedSpaceIntervention, steps, seed, low_rank_dimension=1)
    found = intervenable.interventions[f"layer.{LAYER}.block_output"][0].rotate_layer.weight.detach()[:, 0]
    chance = nn.functional.normalize(torch.randn(1000, width), dim=1) @ wanted
    _, untrained = align(planted, 1, LowRankRotatedSpaceIntervention, 1, seed + 5, low_rank_dimension=1)
    cosines = (planted.directions.T @ found).abs().tolist()
    report(
        "planted_direction",
        "Rank-one DAS",
        ["what", "cosine with the planted direction", "interchange intervention accuracy"],
        [
            ["found direction", f"{cosines[0]:.4f}", f"{result.accuracy:.3f}"],
            ["a random direction", f"{float(chance.abs().mean()):.4f} (mean of 1000)", f"{untrained.accuracy:.3f}"],
        ],
        seconds=perf_counter() - started,
        figure=draw_direction(cosines, result),
        picture=picture,
        page=page,
    )


@app.command()
def subspace(
    seed: Seed = 0,
    width: Width = 32,
    steps: Steps = 1000,
    threads: Threads = 1,
    dimensions: Annotated[str, typer.Option(help="Planted dimensions to look for, with commas.")] = "1,2,4,8,16",
    picture: Annotated[Path | None, typer.Option(help="Where to draw it.")] = Path("planted_subspace.png"),
    page: Page = None,
) -> None:
    """Find the dimension of planted subspaces with boundless DAS."""
    torch.set_num_threads(threads)
    started = perf_counter()
    planted = plant(width, seed)
    rows: list[list[str]] = []
    points: list[tuple[int, int]] = []
    for k in (int(part) for part in dimensions.split(",")):
        intervenable, result = align(planted, k, BoundlessRotatedSpaceIntervention, steps, seed)
        intervention = intervenable.interventions[f"layer.{LAYER}.block_output"][0]
        boundary = intervention.boundary().item()
        swapped = intervention.soft_mask().detach() > 0.5
        inside = intervention.rotate_layer.weight.detach()[:, swapped]
        # How much of the planted subspace lies in the one that was found, 0 to 1.
        overlap = float((planted.directions[:, :k].T @ inside).pow(2).sum() / k)
        rows.append([str(k), str(int(swapped.sum())), f"{boundary:.2f}", f"{overlap:.4f}", f"{result.accuracy:.3f}"])
        points.append((k, int(swapped.sum())))
    report(
        "planted_subspace",
        "Boundless DAS",
        ["planted dimensions", "directions found", "boundary", "share of the planted subspace inside", "accuracy"],
        rows,
        seconds=perf_counter() - started,
        figure=draw_subspace(points, width),
        picture=picture,
        page=page,
    )


def draw_direction(cosines: list[float], result: FitResult) -> Figure:
    """The cosine with each feature's direction, and how the training went."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.bar(range(len(cosines)), cosines, color=[PURPLE, *[GRAY] * (len(cosines) - 1)])
    left.set_xlabel("planted feature (the first is looked for)")
    left.set_ylabel("|cosine| with the found direction")
    result.plot(right)
    return figure


def draw_subspace(points: list[tuple[int, int]], width: int) -> Figure:
    """Found against planted."""
    figure = Figure(figsize=(4.2, 3.6), layout="constrained")
    ax = figure.subplots()
    ax.plot([0, width], [0, width], color=GRAY, linestyle=":", linewidth=1)
    ax.plot(*zip(*points, strict=True), "o", color=PURPLE)
    limit = 1.15 * max(max(p) for p in points)
    ax.set_xlim(0, limit)
    ax.set_ylim(0, limit)
    ax.set_xlabel("planted dimensions")
    ax.set_ylabel("directions that boundless DAS swaps")
    return figure


if __name__ == "__main__":
    app()

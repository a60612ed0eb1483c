"""Price tagging with boundless DAS: does a small GPT-2 check a price against each bound?

    python examples/price_tagging.py

"Say yes only if it costs between 13 and 37, it costs 21:" is to be continued with yes. Wu et al. 2023,
"Interpretability at Scale: Identifying Causal Mechanisms in Alpaca" (https://arxiv.org/abs/2305.08809), asked whether a
large model computes two truth values on the way, one for each bound, and aligned each with a subspace whose dimension
is learned too: boundless DAS. This is their set-up around a small GPT-2 that is trained on such prompts alone, with
whole numbers for prices. For each layer and each of the last positions it asks how well one of the two truth values can
be swapped there, and compares with swapping nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import last_token
import torch
import typer
from figures import report
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import GPT2LMHeadModel

from intervene import (
    BoundlessRotatedSpaceIntervention,
    CausalModel,
    IntervenableConfig,
    IntervenableModel,
    RepresentationConfig,
    evaluate,
    fit,
)

PRICES = 50  # whole numbers from 0
TEXT = "Say yes only if it costs between [lower] and [upper] , it costs [price] :"
PROMPT = TEXT.split()
WORDS = sorted({"no", *(w for w in PROMPT if not w.startswith("["))})


def causal_model() -> CausalModel:
    """Yes where the price is above the lower bound and below the upper one, both of them in between included."""
    inputs, checks = ["lower", "price", "upper"], ["above lower", "below upper", "answer"]
    return CausalModel(
        variables=[*inputs, *checks],
        values={**{v: list(range(PRICES)) for v in inputs}, **{v: [False, True] for v in checks}},
        parents={
            **{v: [] for v in inputs},
            "above lower": ["lower", "price"],
            "below upper": ["price", "upper"],
            "answer": ["above lower", "below upper"],
        },
        functions={
            "lower": lambda: 10,
            "price": lambda: 20,
            "upper": lambda: 30,
            "above lower": lambda lower, price: price >= lower,
            "below upper": lambda price, upper: price <= upper,
            "answer": lambda above, below: above and below,
        },
    )


class Prompts:
    """Draws bounds and a price that lies below, between and above them equally often."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)

    def __call__(self) -> dict[str, int]:
        lower, upper = sorted(self._draw.sample(range(1, PRICES - 1), 2))
        regions = ((0, lower - 1), (lower, upper), (upper + 1, PRICES - 1))
        return {"lower": lower, "price": self._draw.randint(*self._draw.choice(regions)), "upper": upper}


def tokens(setting: Any) -> Tensor:
    """A prompt's ids, (position,): numbers stand for themselves, words come after them."""
    slots = {f"[{name}]": value for name, value in setting.items()}
    return torch.tensor([slots[w] if w in slots else PRICES + WORDS.index(w) for w in PROMPT])


def answer(run: Any) -> Tensor:
    """The id of yes or no, ()."""
    return torch.tensor(PRICES + WORDS.index("yes" if run["answer"] else "no"))


def prompts(examples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Ids (n, position), and the ids of their answers (n,)."""
    data = causal_model().generate_factual_dataset(
        examples, Prompts(seed), input_function=tokens, output_function=answer
    )
    ids, labels = (torch.stack([e[name] for e in data]) for name in ("input_ids", "labels"))
    return ids, labels


def train(layers: int, width: int, steps: int, examples: int, seed: int) -> GPT2LMHeadModel:
    """A GPT-2 trained to answer."""
    torch.manual_seed(seed)
    ids, labels = prompts(examples, seed + 1)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(ids), (count,))
        return ids[rows], labels[rows]

    return last_token.train(
        draw, vocabulary=PRICES + len(WORDS), columns=len(PROMPT), layers=layers, heads=4, width=width, steps=steps
    )


@torch.no_grad()
def accuracy(model: GPT2LMHeadModel, seed: int) -> float:
    """How often it is right on prompts of another seed."""
    ids, labels = prompts(2000, seed)
    return float((model(input_ids=ids).logits[:, -1].argmax(-1) == labels).float().mean())


def swaps(variable: str, examples: int, batch_size: int, seed: int) -> DataLoader[Any]:
    """Batches of swaps of one truth value between prompts."""
    draw = random.Random(seed)
    data = causal_model().generate_counterfactual_dataset(
        examples,
        sampler=Prompts(seed),
        intervention_sampler=lambda: {variable: draw.random() < 0.5},
        input_function=tokens,
        output_function=answer,
    )
    return DataLoader(data, batch_size=batch_size)  # type: ignore[arg-type]


@dataclass
class Found:
    """What boundless DAS found at one place.

    Attributes:
        accuracy: the interchange intervention accuracy on swaps not trained on.
        changed: the same over swaps that change the answer, which a place that does nothing gets all wrong.
        boundary: how many directions it swaps.
    """

    accuracy: float
    changed: float
    boundary: float


def align(
    model: GPT2LMHeadModel, layer: int, position: int, train_on: DataLoader[Any], held_out: DataLoader[Any], epochs: int
) -> Found:
    """Train a boundless rotation at one place, and measure it."""
    place = RepresentationConfig(
        layer=layer, component="block_output", intervention_type=BoundlessRotatedSpaceIntervention
    )
    intervenable = IntervenableModel(IntervenableConfig([place]), model)
    intervention = intervenable.interventions[f"layer.{layer}.block_output"][0]

    def prepare(batch: dict[str, Tensor]) -> dict[str, Any]:
        return {
            "base": {"input_ids": batch["input_ids"], "use_cache": False},
            "sources": [{"input_ids": batch["source_input_ids"][:, 0], "use_cache": False}],
            "unit_locations": {"sources->base": position},
            "labels": batch["labels"],
        }

    fit(
        intervenable,
        train_on,
        prepare=prepare,
        epochs=epochs,
        lr=5e-3,
        temperature=(10.0, 0.1),
        # No wider than it must be (Wu et al. 2023 penalize the boundary likewise).
        penalty=lambda _: 0.03 * intervention.get_boundary_parameters().sum(),
    )
    changing = [{k: v[b["labels"] != b["base_labels"]] for k, v in b.items()} for b in held_out]
    return Found(
        evaluate(intervenable, held_out, prepare=prepare)["accuracy"],
        evaluate(intervenable, changing, prepare=prepare)["accuracy"],
        intervention.boundary().item(),
    )


def draw(found: dict[tuple[int, int], Found], layers: Sequence[int], positions: Sequence[int]) -> Figure:
    """Accuracy by layer and position, with the boundary written in each cell."""
    figure = Figure(figsize=(1.8 + 1.1 * len(positions), 1.6 + 0.7 * len(layers)), layout="constrained")
    ax = figure.subplots()
    values = [[found[la, p].accuracy for p in positions] for la in layers]
    image = ax.imshow(values, cmap="Purples", vmin=0.5, vmax=1, aspect="auto")
    for row, layer in enumerate(layers):
        for column, position in enumerate(positions):
            cell = found[layer, position]
            text = f"{cell.accuracy:.2f}\n{cell.boundary:.0f} dims"
            color = "white" if cell.accuracy > 0.8 else "black"
            ax.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
    ax.set_xticks(range(len(positions)), [PROMPT[p] for p in positions])
    ax.set_yticks(range(len(layers)), [str(la) for la in layers])
    ax.set_ylabel("layer")
    figure.colorbar(image, ax=ax, label="interchange intervention accuracy")
    return figure


def main(
    seed: Annotated[int, typer.Option(help="Seed of the weights and of all data.")] = 0,
    layers: Annotated[int, typer.Option(min=1, help="Blocks of the model.")] = 4,
    width: Annotated[int, typer.Option(min=8, help="Width of the residual stream.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of the model.")] = 3000,
    train_prompts: Annotated[int, typer.Option(min=128, help="Prompts that it is trained on.")] = 40_000,
    variable: Annotated[str, typer.Option(help='The truth value to look for, or "below upper".')] = "above lower",
    examples: Annotated[int, typer.Option(min=64, help="Swaps to train on.")] = 3200,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over them.")] = 6,
    last: Annotated[int, typer.Option(min=1, max=len(PROMPT), help="How many of the last positions to try.")] = 2,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; more are hardly faster.")] = 1,
    picture: Annotated[Path | None, typer.Option(help="Where to draw it.")] = Path("price_tagging.png"),
    page: Annotated[Path | None, typer.Option(help="A page of the docs to put the figures in.")] = None,
    model_path: Annotated[
        Path | None, typer.Option(help="Keep the trained model there, and take it from there.")
    ] = None,
) -> None:
    """Train a small GPT-2 on price tagging, and align one truth value at each layer and late position."""
    torch.set_num_threads(threads)
    started = perf_counter()
    if model_path is not None and model_path.exists():
        model = GPT2LMHeadModel.from_pretrained(model_path, local_files_only=True).eval()
    else:
        model = train(layers, width, steps, train_prompts, seed)
        if model_path is not None:
            model.save_pretrained(model_path)
    train_on, held_out = (swaps(variable, n, 64, s) for n, s in ((examples, seed + 10), (2048, seed + 20)))
    nothing = torch.cat([b["labels"] == b["base_labels"] for b in held_out]).float().mean()
    positions = list(range(len(PROMPT) - last, len(PROMPT)))
    found = {
        (layer, p): align(model, layer, p, train_on, held_out, epochs) for layer in range(layers) for p in positions
    }
    report(
        "price_tagging",
        f'The model answers {accuracy(model, seed + 2):.1%} of new prompts rightly. Swapping "{variable}":',
        ["layer", "position", "accuracy", "where the answer changes", "dimensions"],
        [
            *(
                [str(la), PROMPT[p], f"{f.accuracy:.3f}", f"{f.changed:.3f}", f"{f.boundary:.1f} of {width}"]
                for (la, p), f in found.items()
            ),
            ["nothing swapped", "", f"{nothing:.3f}", "0.000", ""],
        ],
        seconds=perf_counter() - started,
        figure=draw(found, range(layers), positions),
        picture=picture,
        page=page,
    )


if __name__ == "__main__":
    typer.run(main)

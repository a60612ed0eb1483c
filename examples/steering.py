"""Steer the demo model three ways: toward a city, by the heads that know, and away from a city.

    python examples/steering.py contrast
    python examples/steering.py heads
    python examples/steering.py ablate

The model knows in which city each of 384 landmarks stands. Directions are taken from sentences of some templates and
used in a template that the model never saw in training.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import typer
from figures import GRAY, LILAC, PURPLE, report
from matplotlib.figure import Figure
from torch import Tensor

import intervene
from intervene import demo
from intervene.demo.facts import CITIES, TEMPLATES, UNSEEN_TEMPLATES, Template, build_world
from intervene.steering import (
    ablation_writes,
    difference_of_means,
    last_positions,
    probe_heads,
    sweep_strengths,
)

TAUGHT, ASKED = TEMPLATES[0], UNSEEN_TEMPLATES[0]
Inputs = dict[str, Tensor]


class Landmarks:
    """The demo model, and sentences about its landmarks."""

    def __init__(self) -> None:
        self.model, self.tokenizer = demo.load()
        self.adapted = intervene.adapt(self.model)
        self.cities = build_world().cities
        self.tokens = torch.tensor([self.tokenizer(" " + city)["input_ids"][0] for city in CITIES])

    def of(self, *cities: str) -> list[str]:
        """The landmarks that stand in one of the cities."""
        return [name for name, city in self.cities.items() if city in cities]

    def inputs(self, names: list[str], template: Template) -> Inputs:
        """Sentences of one template up to the city; all are of one length."""
        return dict(self.tokenizer([template.prompt(name) for name in names], return_tensors="pt"))

    def right(self, names: list[str]) -> Tensor:
        """The token of each landmark's own city."""
        return self.tokens[[CITIES.index(self.cities[name]) for name in names]]

    def directions(self, city: str, sites: list[intervene.Site]) -> dict[intervene.Site, Tensor]:
        """From the landmarks elsewhere to those in a city, in the template that was taught."""
        there, elsewhere = self.of(city), self.of(*(c for c in CITIES if c != city))
        return difference_of_means(self.adapted, sites, self.inputs(there, TAUGHT), self.inputs(elsewhere, TAUGHT))

    def right_answers(self, city: str, writes: Any) -> tuple[float, float]:
        """The shares of right answers about the landmarks in a city and about all others, in the unseen template."""
        shares = []
        for names in (self.of(city), self.of(*(c for c in CITIES if c != city))):
            with torch.no_grad(), self.adapted.session(writes=writes):
                output = self.model(**self.inputs(names, ASKED))
            shares.append(float(correct(self.right(names))(output).mean()))
        return shares[0], shares[1]


def probability(token: Tensor) -> Callable[[Any], Tensor]:
    """Of the next token being ``token``, one for all rows or one a row."""
    return lambda output: (
        output.logits[:, -1].softmax(-1).gather(1, token.expand(len(output.logits)).unsqueeze(1))[:, 0]
    )


def correct(token: Tensor) -> Callable[[Any], Tensor]:
    """Whether the next token is ``token``."""
    return lambda output: (output.logits[:, -1].argmax(-1) == token).float()


app = typer.Typer(help=__doc__)
City = Annotated[str, typer.Option(help="The city that is steered to, or forgotten.")]
Page = Annotated[Path | None, typer.Option(help="A page of the docs to put the figures in.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]
Picture = Annotated[Path | None, typer.Option(help="Where to draw it.")]


@app.command()
def contrast(
    city: City = "Velmora",
    layer: Annotated[int, typer.Option(help="The layer whose output is written.")] = 6,
    threads: Threads = 1,
    picture: Picture = Path("steering_contrast.png"),
    page: Page = None,
) -> None:
    """Contrastive activation addition (Rimsky et al. 2024): add the difference of two means."""
    torch.set_num_threads(threads)
    started = perf_counter()
    world = Landmarks()
    others = [name for name in world.cities if world.cities[name] != city]
    site = world.adapted.site("block_output", layer)
    direction = world.directions(city, [site])[site]
    noise = torch.randn(direction.shape, generator=torch.Generator().manual_seed(0))
    chance = noise * direction.norm() / noise.norm()
    inputs = world.inputs(others, ASKED)
    last = last_positions(inputs)
    wanted = world.tokens[CITIES.index(city)]
    metrics = {
        f"probability of {city}": probability(wanted),
        "of the landmark's own city": probability(world.right(others)),
    }
    strengths = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0]

    def adding(vector: Tensor) -> Callable[[float], dict[Any, Any]]:
        return lambda strength: {site.at(positions=last): lambda part: part + strength * vector}

    steered = sweep_strengths(world.adapted, inputs, adding(direction), strengths, metrics)
    random_ = sweep_strengths(world.adapted, inputs, adding(chance), strengths, metrics)
    names = list(metrics)
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    steered.plot(left, title=f"toward {city}, layer {layer}")
    random_.plot(right, title="a random direction of that length")
    left.set_ylabel("probability, mean over landmarks")
    report(
        "steering_contrast",
        f"{len(others)} landmarks elsewhere, steered to {city}",
        ["strength", *names, f"{names[0]}, random direction"],
        [
            [
                f"{s:g}",
                *(f"{float(steered.values[n][i]):.3f}" for n in names),
                f"{float(random_.values[names[0]][i]):.3f}",
            ]
            for i, s in enumerate(strengths)
        ],
        seconds=perf_counter() - started,
        figure=figure,
        picture=picture,
        page=page,
    )


@app.command()
def heads(
    count: Annotated[int, typer.Option(min=1, help="How many heads are shifted.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the cities' halves, the probes' split and the random heads.")] = 0,
    threads: Threads = 1,
    picture: Picture = Path("steering_heads.png"),
    page: Page = None,
) -> None:
    """Inference-time intervention (Li et al. 2023): shift the heads whose probes are the most accurate.

    Half the cities are called northern. A probe of each head says whether a landmark stands in one of them.
    """
    torch.set_num_threads(threads)
    started = perf_counter()
    world = Landmarks()
    northern = set(random.Random(seed).sample(CITIES, len(CITIES) // 2))
    everywhere = list(world.cities)
    labels = torch.tensor([int(world.cities[name] in northern) for name in everywhere])
    probes = probe_heads(world.adapted, world.inputs(everywhere, TAUGHT), labels, seed=seed)
    south = [name for name in everywhere if world.cities[name] not in northern]
    tokens = world.tokens[[CITIES.index(c) for c in sorted(northern)]]

    def mass(output: Any) -> Tensor:
        return output.logits[:, -1].softmax(-1)[:, tokens].sum(-1)

    strengths = [0.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0]
    inputs = world.inputs(south, ASKED)
    metrics = {"probability of a northern city": mass}
    steered = sweep_strengths(world.adapted, inputs, lambda s: probes.shifts(count, s), strengths, metrics)
    order = torch.randperm(probes.accuracy.numel(), generator=torch.Generator().manual_seed(seed))
    shuffled = torch.empty(probes.accuracy.numel())
    shuffled[order] = torch.arange(probes.accuracy.numel()) / probes.accuracy.numel()
    unsorted = type(probes)(probes.sites, shuffled.reshape(probes.accuracy.shape), probes.directions, probes.spread)
    random_ = sweep_strengths(world.adapted, inputs, lambda s: unsorted.shifts(count, s), strengths, metrics)
    name = next(iter(metrics))
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    image = left.imshow(probes.accuracy, cmap="Purples", vmin=0.5, vmax=1, aspect="auto")
    figure.colorbar(image, ax=left)
    for layer, head in probes.best(count):
        left.text(head, layer, "*", ha="center", va="center", color="white")
    left.set(xlabel="head", ylabel="layer", title="accuracy of each head's probe")
    left.set_xticks(range(probes.accuracy.shape[1]))
    for sweep, label, color in ((steered, f"the {count} best heads", PURPLE), (random_, f"{count} random heads", GRAY)):
        right.plot(strengths, sweep.values[name].tolist(), marker="o", markersize=3, label=label, color=color)
    right.set(xlabel="strength, standard deviations", title=name)
    right.legend(frameon=False)
    report(
        "steering_heads",
        f"{len(south)} southern landmarks; best probes: "
        + ", ".join(f"layer {a} head {b} ({float(probes.accuracy[a, b]):.2f})" for a, b in probes.best(count)),
        ["strength", f"{name}, best heads", "random heads"],
        [
            [f"{s:g}", f"{float(steered.values[name][i]):.3f}", f"{float(random_.values[name][i]):.3f}"]
            for i, s in enumerate(strengths)
        ],
        seconds=perf_counter() - started,
        figure=figure,
        picture=picture,
        page=page,
    )


@app.command()
def ablate(
    city: City = "Velmora",
    threads: Threads = 1,
    picture: Picture = Path("steering_ablate.png"),
    page: Page = None,
) -> None:
    """Directional ablation (Arditi et al. 2024): take one direction out at every layer and position.

    The direction that each layer's output gives is tried on one city, and that of the last layer but one on each city.
    """
    torch.set_num_threads(threads)
    started = perf_counter()
    world = Landmarks()
    sites = [world.adapted.site("block_output", layer) for layer in range(world.adapted.layers)]
    directions = world.directions(city, sites)
    noise = torch.randn(len(directions[sites[0]]), generator=torch.Generator().manual_seed(0))
    rows = [("none", {}), ("random direction", ablation_writes(world.adapted, noise))]
    rows += [(f"from layer {s.layer}", ablation_writes(world.adapted, d)) for s, d in directions.items()]
    found = [(label, *world.right_answers(city, writes)) for label, writes in rows]
    late = sites[-2]
    each = [
        world.right_answers(other, ablation_writes(world.adapted, world.directions(other, [late])[late]))
        for other in CITIES
    ]
    there, elsewhere = torch.tensor(each).mean(0).tolist()
    found.append((f"from layer {late.layer}, mean over all cities", there, elsewhere))
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    places = torch.arange(len(found))
    axes.bar(places - 0.2, [row[1] for row in found], 0.4, label="landmarks in the city", color=PURPLE)
    axes.bar(places + 0.2, [row[2] for row in found], 0.4, label="landmarks elsewhere", color=LILAC)
    axes.set_xticks(places, [row[0] for row in found], rotation=30, ha="right")
    axes.set(ylabel="right answers", title=f"one direction for {city} ablated everywhere")
    axes.legend(frameon=False)
    report(
        "steering_ablate",
        f"A direction for {city}, ablated at every layer and position",
        ["direction", f"right about the {len(world.of(city))} landmarks in the city", "right about those elsewhere"],
        [[label, f"{a:.3f}", f"{b:.3f}"] for label, a, b in found],
        seconds=perf_counter() - started,
        figure=figure,
        picture=picture,
        page=page,
    )


if __name__ == "__main__":
    app()

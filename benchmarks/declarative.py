"""What an IntervenableModel costs: a call with one source against two bare forwards, and building one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Any

import torch
import typer
from models import POSITIONS, SMALL, gpt2, prompt
from paired import ratio, rounds, save, seconds, show, show_machine, text, verdict
from transformers import GPT2LMHeadModel

import intervene as pv

CALL_GOAL, BUILD_GOAL = 1.05, 2.0


def representation(layer: int) -> pv.RepresentationConfig:
    return pv.RepresentationConfig(layer=layer, component="block_output", intervention_type=pv.VanillaIntervention)


def calls(model: GPT2LMHeadModel) -> dict[str, Callable[[], Any]]:
    """Two bare forwards, and calls that read a source at a layer and write it into the base, built once."""
    base, source = ({"input_ids": prompt(model, seed)} for seed in (1, 2))
    layers = model.config.n_layer
    built = {layer: pv.IntervenableModel(representation(layer), model) for layer in (layers // 2, layers - 1)}

    def bare() -> Any:
        model(**source)
        return model(**base)

    def call(layer: int, **options: Any) -> Callable[[], Any]:
        return lambda: built[layer](base, [source], **options)

    last = {"unit_locations": {"sources->base": ([[[-1]]], [[[-1]]])}}
    return {
        "bare": bare,
        f"layer {layers // 2}, one position": call(layers // 2, **last),
        f"layer {layers - 1}, one position": call(layers - 1, **last),
        f"layer {layers - 1}, every position": call(layers - 1),
    }


def builds(model: GPT2LMHeadModel) -> dict[str, Callable[[], Any]]:
    """Ways to build an IntervenableModel, the config included."""

    def swap() -> Any:
        return pv.IntervenableModel(pv.IntervenableConfig(representation(8)), model)

    def everywhere() -> Any:
        config = pv.IntervenableConfig([representation(layer) for layer in range(model.config.n_layer)])
        return pv.IntervenableModel(config, model)

    return {"one swap": swap, "a swap at each layer": everywhere}


def main(
    repeats: Annotated[int, typer.Option(help="Rounds of calls.")] = 60,
    build_repeats: Annotated[int, typer.Option(help="How often each model is built.")] = 200,
    threads: Annotated[int, typer.Option(help="Threads that torch computes with.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Write the figures there.")] = None,
) -> None:
    """Time calls and building on GPT-2 small's config, at 1 x 16 tokens.

    Example: python benchmarks/declarative.py --repeats 60 --json declarative.json
    """
    torch.set_num_threads(threads)
    show_machine()
    model = gpt2(SMALL)
    with torch.no_grad():
        times = rounds(calls(model), repeats, warmup=3)
    found = {name: ratio(times, name, "bare") for name in times if name != "bare"}
    show(
        f"A call with one source, {repeats} rounds, median (quartiles)",
        ["what", "time / two bare forwards", "goal"],
        [[name, text(spread), verdict(spread["median"], CALL_GOAL, at_most=True)] for name, spread in found.items()],
    )
    built = {}
    for name, build in builds(model).items():
        seconds(build, 3)
        taken = [1e3 * seconds(build) for _ in range(build_repeats)]
        low, _, high = quantiles(taken, n=4)
        built[name] = {"median": median(taken), "low": low, "high": high}
    show(
        f"Building, {build_repeats} times, milliseconds, median (quartiles)",
        ["what", "milliseconds", "goal"],
        [
            [name, text(spread), verdict(spread["median"], BUILD_GOAL, at_most=True) if name == "one swap" else ""]
            for name, spread in built.items()
        ],
    )
    save(
        json,
        {
            "benchmark": "declarative",
            "positions": POSITIONS,
            "rounds": repeats,
            "time / two bare forwards": found,
            "building, milliseconds": built,
        },
    )


if __name__ == "__main__":
    typer.run(main)

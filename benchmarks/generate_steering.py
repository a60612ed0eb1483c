"""Tokens per second with a steering vector at every generated token, against the plain `generate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from models import SMALL, gpt2, prompt
from paired import ratio, rounds, save, show, show_machine, text, verdict
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

import intervene as pv

TITLES = {
    "plain": "plain generate",
    "hook": "torch hook by hand",
    "generated": 'IntervenableModel.generate, when="generated"',
    "schedule": "the same, a function of step and token",
}
GOAL = 1.03


def variants(model: GPT2LMHeadModel, tokens: int) -> dict[str, Callable[[], Any]]:
    """Plain generation, and what is compared with it; making and leaving the session is included."""
    layer = model.config.n_layer // 2
    vector = torch.randn(model.config.n_embd, generator=torch.Generator().manual_seed(0))
    steering = {"intervention_type": pv.AdditionIntervention, "source_representation": vector}
    intervenable = pv.IntervenableModel([{"layer": layer, "component": "block_output", **steering}], model)
    ids = prompt(model, 1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    options: dict[str, Any] = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
    options |= {"pad_token_id": 0}

    def hook() -> Any:
        def add(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            return output + vector if output.shape[1] == 1 else None

        handle = model.transformer.h[layer].register_forward_hook(add)
        try:
            return model.generate(**inputs, **options)
        finally:
            handle.remove()

    return {
        "plain": lambda: model.generate(**inputs, **options),
        "hook": hook,
        "generated": lambda: intervenable.generate(inputs, when="generated", **options),
        "schedule": lambda: intervenable.generate(inputs, when=lambda step, token: 1.0, **options),
    }


def main(
    repeats: Annotated[int, typer.Option(help="Rounds.")] = 10,
    tokens: Annotated[int, typer.Option(help="How many tokens are generated.")] = 128,
    threads: Annotated[int, typer.Option(help="Threads that torch computes with.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Write the figures there.")] = None,
) -> None:
    """Time steered generation on GPT-2 small's config.

    Example: python benchmarks/generate_steering.py --repeats 20
    """
    torch.set_num_threads(threads)
    show_machine()
    times = rounds(variants(gpt2(SMALL), tokens), repeats)
    found = {name: ratio(times, name, "plain") for name in TITLES}
    speed = {name: tokens / sorted(values)[len(values) // 2] for name, values in times.items()}
    show(
        f"GPT-2 small's config, {tokens} new tokens, {repeats} rounds, median (quartiles)",
        ["what", "tokens / second", "time / plain generate", "goal"],
        [
            [
                title,
                f"{speed[name]:.1f}",
                text(found[name]),
                verdict(found[name]["median"], GOAL, at_most=True) if name == "generated" else "",
            ]
            for name, title in TITLES.items()
        ],
    )
    save(json, {"benchmark": "steered generation", "tokens": tokens, "rounds": repeats, "ratio": found, "speed": speed})


if __name__ == "__main__":
    typer.run(main)

"""What a session costs: a forward inside one against the bare forward, and against a torch hook made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from models import POSITIONS, SMALL, TOY, gpt2, prompt
from paired import extra, ratio, rounds, save, show, show_machine, text, verdict
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

import intervene

MODELS = {"GPT-2 small": SMALL, "2-layer toy": TOY}
TITLES = {
    "hook": "torch hook, one write",
    "write": "session, one write",
    "reads": "session, 12 reads",
    "read": "adapted.read of layer 0",
}


def variants(model: GPT2LMHeadModel) -> dict[str, Callable[[], Any]]:
    """The bare forward and what is compared with it; entering, leaving and choosing positions are included."""
    adapted = intervene.adapt(model)
    layers = adapted.layers
    ids = prompt(model, 1)
    value = torch.zeros(model.config.n_embd)
    middle = adapted.site("block_output", layers // 2)
    first = adapted.site("block_output", 0)
    kinds = ("block_output", "mlp_output", "attention_output", "mlp_activation", "query_output", "block_input")
    many = [adapted.site(k, layer) for layer in range(layers) for k in kinds][:12]
    if layers >= 12:
        many = [adapted.site("block_output", layer) for layer in range(12)]
    block = model.transformer.h[layers // 2]

    def bare() -> Any:
        return model(input_ids=ids, use_cache=False)

    def hook() -> Any:
        def write(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            changed = output.clone()
            changed[:, -1] = value
            return changed

        handle = block.register_forward_hook(write)
        try:
            return bare()
        finally:
            handle.remove()

    def write() -> Any:
        with adapted.session(writes={middle.at(positions=-1): value}):
            return bare()

    def reads() -> Any:
        with adapted.session(reads=many):
            return bare()

    def read() -> Any:
        return adapted.read(first, input_ids=ids, use_cache=False)

    return {"bare": bare, "hook": hook, "write": write, "reads": reads, "read": read}


def main(
    repeats: Annotated[int, typer.Option(help="Rounds with GPT-2 small; the toy gets ten times as many.")] = 60,
    threads: Annotated[int, typer.Option(help="Threads that torch computes with.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Write the figures there.")] = None,
) -> None:
    """Time sessions against the bare forward, at 1 x 16 tokens.

    Example: python benchmarks/session_overhead.py --repeats 200 --json session.json
    """
    torch.set_num_threads(threads)
    show_machine()
    figures: dict[str, Any] = {"benchmark": "session overhead", "positions": POSITIONS, "rounds": {}, "models": {}}
    for model_name, config in MODELS.items():
        count = repeats if model_name == "GPT-2 small" else 10 * repeats
        with torch.no_grad():
            times = rounds(variants(gpt2(config)), count, warmup=3)
        found = {name: {"ratio": ratio(times, name, "bare"), "extra_us": extra(times, name, "bare")} for name in TITLES}
        figures["rounds"][model_name] = count
        figures["models"][model_name] = found
        goal = (
            verdict(found["write"]["ratio"]["median"], 1.03, at_most=True)
            if model_name == "GPT-2 small"
            else verdict(found["write"]["extra_us"]["median"], 60, at_most=True) + " (microseconds)"
        )
        show(
            f"{model_name}, {count} rounds, median (quartiles)",
            ["what", "time / bare forward", "microseconds more", "goal"],
            [
                [title, text(found[n]["ratio"]), text(found[n]["extra_us"], 0), goal if n == "write" else ""]
                for n, title in TITLES.items()
            ],
        )
    save(json, figures)


if __name__ == "__main__":
    typer.run(main)

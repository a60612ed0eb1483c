"""`IntervenableModel.generate` with a source: one that is generated along, and one that is read in a single run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from models import SMALL, gpt2
from paired import ratio, rounds, save, show, show_machine, text
from transformers import GPT2LMHeadModel

import intervene as pv

Variants = dict[str, Callable[[], Any]]
TITLES = {
    "along": ("generate_sources=True, one layer", "two"),
    "along everywhere": ("generate_sources=True, every layer", "two"),
    "first layer": ("a source read once, first layer", "run"),
    "last layer": ("a source read once, last layer", "run"),
}
AGAINST = {"two": "two plain generates", "run": "plain generate, and a bare forward of the source"}


def variants(model: GPT2LMHeadModel, columns: int, tokens: int) -> Variants:
    """What is compared, and what with."""
    base, source = (
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        for ids in torch.randint(0, model.config.vocab_size, (2, 1, columns), generator=torch.manual_seed(1))
    )
    options: dict[str, Any] = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
    options |= {"pad_token_id": 0}
    last = model.config.n_layer - 1
    swaps = {layer: pv.IntervenableModel([{"layer": layer}], model) for layer in (0, last // 2, last)}
    everywhere = pv.IntervenableModel([{"layer": layer} for layer in range(last + 1)], model)
    along: dict[str, Any] = {"when": "generated", "generate_sources": True, **options}
    once: dict[str, Any] = {"unit_locations": {"sources->base": -1}, **options}

    @torch.no_grad()
    def forward() -> Any:
        return model(**source, use_cache=False, logits_to_keep=1)

    def plain(inputs: dict[str, Any]) -> Any:
        return model.generate(**inputs, **options)

    return {
        "two": lambda: (plain(base), plain(source)),
        "run": lambda: (plain(base), forward()),
        "along": lambda: swaps[last // 2].generate(base, [source], **along),
        "along everywhere": lambda: everywhere.generate(base, [source], **along),
        "first layer": lambda: swaps[0].generate(base, [source], **once),
        "last layer": lambda: swaps[last].generate(base, [source], **once),
    }


def main(
    repeats: Annotated[int, typer.Option(help="Rounds.")] = 10,
    threads: Annotated[int, typer.Option(help="Threads that torch computes with.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Write the figures there.")] = None,
) -> None:
    """Time generation with a source on GPT-2 small's config: a long answer, and a short one to a long prompt.

    Example: python benchmarks/generate_sources.py --repeats 10
    """
    torch.set_num_threads(threads)
    show_machine()
    model, figures = gpt2(SMALL), {}
    for columns, tokens in ((16, 32), (256, 4)):
        times = rounds(variants(model, columns, tokens), repeats)
        found = {name: ratio(times, name, against) for name, (_, against) in TITLES.items()}
        figures[f"{columns} + {tokens}"] = found
        show(
            f"GPT-2 small's config, prompt of {columns} tokens, {tokens} new, {repeats} rounds, median (quartiles)",
            ["what", "against", "time / that one's"],
            [[title, AGAINST[against], text(found[name])] for name, (title, against) in TITLES.items()],
        )
    save(json, {"benchmark": "generation with a source", "rounds": repeats, "ratio": figures})


if __name__ == "__main__":
    typer.run(main)

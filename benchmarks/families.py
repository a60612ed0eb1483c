"""What a session costs in each family: a forward inside one with a write, against the bare forward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from paired import extra, ratio, rounds, save, show, show_machine, text, verdict
from torch import nn

import intervene
from intervene.errors import MissingDependencyError

GOAL = 1.05
POSITIONS = 16
# Base size: 768 features, 12 layers, random weights. A family's own words for that.
WIDE: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
GROUPED = {**WIDE, "num_key_value_heads": 4, "head_dim": 64, "intermediate_size": 2048}
PLAIN = {**WIDE, "intermediate_size": 3072}
IMAGE = {**PLAIN, "image_size": 64, "patch_size": 16}
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 768, "n_layer": 12, "n_head": 12},
    "llama": GROUPED,
    "mistral": GROUPED,
    "mixtral": {**GROUPED, "num_hidden_layers": 4, "intermediate_size": 1024},
    "opt": {**WIDE, "ffn_dim": 3072, "word_embed_proj_dim": 768},
    "pythia": PLAIN,
    "blip": {
        "text_config": {**PLAIN, "encoder_hidden_size": 768, "vocab_size": 61, "bos_token_id": 1},
        "vision_config": IMAGE,
    },
    "esm": PLAIN,
    "vit": IMAGE,
    "dinov2": {**WIDE, "image_size": 64, "patch_size": 16},
    "timm_vit": {"embed_dim": 768, "depth": 12, "num_heads": 12, "img_size": 64, "patch_size": 16},
    "mamba": {"hidden_size": 768, "num_hidden_layers": 12, "state_size": 16},
    "mamba2": {"hidden_size": 768, "num_hidden_layers": 12, "num_heads": 24, "head_dim": 64, "state_size": 16},
    "mamba_ssm": {"d_model": 768, "n_layer": 12, "ssm_cfg": {"d_state": 16}},
}


def variants(family: str, model: nn.Module) -> dict[str, Callable[[], Any]]:
    """The bare forward, and one in a session that writes one position of the middle layer's output."""
    adapted = intervene.adapt(model)
    outputs = adapted.sites.filter(component="block_output", tower=adapted.towers[-1] if adapted.towers else None)
    site = outputs[len(outputs) // 2].at(positions=-1)
    adapter = intervene.families()[family]
    inputs = adapter.example_inputs(model, 1, POSITIONS, torch.Generator().manual_seed(0))

    def bare() -> Any:
        return model(**inputs)

    def session() -> Any:
        with adapted.session(writes={site: 0.0}):
            return bare()

    return {"bare": bare, "session": session}


def main(
    families: Annotated[list[str] | None, typer.Argument(help="Families; all that can be made by default.")] = None,
    repeats: Annotated[int, typer.Option(help="Rounds.")] = 30,
    threads: Annotated[int, typer.Option(help="Threads that torch computes with.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Write the figures there.")] = None,
) -> None:
    """Time a session with one write in each family, at 768 features and 16 positions.

    Example: python benchmarks/families.py gpt2 mamba --repeats 60
    """
    torch.set_num_threads(threads)
    show_machine()
    found: dict[str, Any] = {}
    rows = []
    for family in families or list(SIZES):
        try:
            model = intervene.tiny(family, **SIZES[family])
        except MissingDependencyError as error:
            rows.append([family, "", "", str(error)])
            continue
        with torch.no_grad():
            times = rounds(variants(family, model), repeats, warmup=2)
        spread = ratio(times, "session", "bare")
        bare = sorted(times["bare"])[len(times["bare"]) // 2]
        found[family] = {"ratio": spread, "extra_us": extra(times, "session", "bare"), "bare_ms": 1e3 * bare}
        rows.append([family, f"{1e3 * bare:.1f}", text(spread), verdict(spread["median"], GOAL, at_most=True)])
    show(
        f"Session with one write, {repeats} rounds, median (quartiles)",
        ["family", "bare, ms", "time / bare forward", "goal"],
        rows,
    )
    save(json, {"benchmark": "session overhead by family", "rounds": repeats, "families": found})


if __name__ == "__main__":
    typer.run(main)

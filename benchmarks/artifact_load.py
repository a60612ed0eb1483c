"""What loading an artifact of 100 interventions takes, against reading its tensors and against making them anew."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from models import SMALL, gpt2
from paired import ratio, rounds, save, show, show_machine, text
from safetensors.torch import load_file

import intervene as pv

COUNT = 100
COMPONENTS = ("block_output", "mlp_output", "attention_output", "attention_input", "mlp_input", "block_input")
COMPONENTS += ("query_output", "value_output", "key_output")
KINDS: dict[str, dict[str, Any]] = {
    "steering vectors": {"intervention_type": pv.AdditionIntervention, "source_representation": torch.zeros(768)},
    "low-rank rotations, rank 8": {
        "intervention_type": pv.LowRankRotatedSpaceIntervention,
        "low_rank_dimension": 8,
    },
    "full rotations": {"intervention_type": pv.RotatedSpaceIntervention},
}
TITLES = {"load": "load", "files": "reading its safetensors file", "anew": "making the same, untrained"}


def main(
    repeats: Annotated[int, typer.Option(help="Rounds for each kind of intervention.")] = 10,
    threads: Annotated[int, typer.Option(help="Threads that torch computes with.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Write the figures there.")] = None,
) -> None:
    """Time `IntervenableModel.load` of 100 interventions on GPT-2 small's config.

    Example: python benchmarks/artifact_load.py --repeats 20
    """
    torch.set_num_threads(threads)
    show_machine()
    model = gpt2(SMALL)
    places = [{"layer": layer, "component": name} for name in COMPONENTS for layer in range(12)][:COUNT]
    figures: dict[str, Any] = {"benchmark": "artifact load", "interventions": COUNT, "rounds": repeats, "kinds": {}}
    for kind, fields in KINDS.items():
        config = pv.IntervenableConfig([{**place, **fields} for place in places])
        with tempfile.TemporaryDirectory() as home:
            folder = pv.IntervenableModel(config, model).save(Path(home) / "artifact")
            megabytes = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
            times = rounds(variants(folder, config, model), repeats)
        seconds = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
        found = {name: {"seconds": seconds[name], "ratio": ratio(times, "load", name)} for name in TITLES}
        figures["kinds"][kind] = {"megabytes": megabytes, **found}
        show(
            f"{COUNT} {kind}, {megabytes:.1f} MB, {repeats} rounds, median (quartiles)",
            ["what", "milliseconds", "time of load / this"],
            [[title, f"{1e3 * seconds[n]:.1f}", text(found[n]["ratio"])] for n, title in TITLES.items()],
        )
    save(json, figures)


def variants(folder: Path, config: pv.IntervenableConfig, model: torch.nn.Module) -> dict[str, Callable[[], Any]]:
    """Loading, and what it is compared with."""
    (tensors,) = folder.glob("interventions-*.safetensors")
    return {
        "load": lambda: pv.IntervenableModel.load(folder, model=model),
        "files": lambda: load_file(tensors),
        "anew": lambda: pv.IntervenableModel(config, model),
    }


if __name__ == "__main__":
    typer.run(main)

"""What a step of distributed alignment search costs: with an intervenable model, with `fit`, and written by hand."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from models import POSITIONS, SMALL, TOY, gpt2
from paired import extra, ratio, rounds, save, show, show_machine, text, verdict
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from transformers import GPT2LMHeadModel

import intervene
from intervene import IntervenableConfig, IntervenableModel, LowRankRotatedSpaceIntervention, RepresentationConfig
from intervene.interventions import RotateLayer

MODELS = {"GPT-2 small": SMALL, "2-layer toy": TOY}
TITLES = {
    "whole": "by hand, whole source run",
    "torch": "by hand, torch's parametrization",
    "call": "IntervenableModel in a loop of one's own",
    "fit": "fit",
}
BATCH = 4
STEPS = 2  # of each entry, so that what fit does once a run is shared


class _Stop(Exception):
    """Leaves the source's run after the layer that is read."""


class ByHand:
    """A low-rank swap with two torch hooks; ``rotation`` has a ``weight`` (width, rank) of orthonormal columns."""

    def __init__(self, model: GPT2LMHeadModel, layer: int, rotation: nn.Module, *, stop: bool = True) -> None:
        self.model, self.block, self.stop, self.rotation = model, model.transformer.h[layer], stop, rotation

    def __call__(self, base: Tensor, source: Tensor) -> Tensor:
        kept: list[Tensor] = []

        def keep(module: nn.Module, args: Any, output: Tensor) -> None:
            kept.append(output[:, -1])
            if self.stop:
                raise _Stop

        def swap(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            weight = self.rotation.weight
            changed = output.clone()
            changed[:, -1] = output[:, -1] + (kept[0] - output[:, -1]) @ weight @ weight.T
            return changed

        handle = self.block.register_forward_hook(keep)
        with torch.no_grad(), suppress(_Stop):
            self.model(input_ids=source, use_cache=False)
        handle.remove()
        handle = self.block.register_forward_hook(swap)
        logits = self.model(input_ids=base, use_cache=False, logits_to_keep=1).logits[:, -1]
        handle.remove()
        return logits


def variants(model: GPT2LMHeadModel, rank: int) -> dict[str, Callable[[], Any]]:
    """Each makes `STEPS` steps of Adam on one batch."""
    layer = model.config.n_layer // 2
    generator = torch.Generator().manual_seed(1)
    size = model.config.vocab_size
    base, source = torch.randint(0, size, (2, BATCH, POSITIONS), generator=generator)
    labels = torch.randint(0, size, (BATCH,), generator=generator)
    last = {"sources->base": POSITIONS - 1}
    inputs = [{"input_ids": ids, "use_cache": False} for ids in (base, source)]
    inputs[0]["logits_to_keep"] = 1

    def intervenable() -> IntervenableModel:
        place = RepresentationConfig(
            layer=layer,
            component="block_output",
            intervention_type=LowRankRotatedSpaceIntervention,
            low_rank_dimension=rank,
        )
        return IntervenableModel(IntervenableConfig([place]), model)

    def stepping(logits: Callable[[], Tensor], parameters: list[nn.Parameter]) -> Callable[[], Any]:
        optimizer = torch.optim.Adam(parameters, lr=1e-4)

        def steps() -> None:
            for _ in range(STEPS):
                optimizer.zero_grad()
                nn.functional.cross_entropy(logits(), labels).backward()
                optimizer.step()

        return steps

    width = model.config.n_embd
    whole = ByHand(model, layer, RotateLayer(width, rank), stop=False)
    stops = ByHand(model, layer, RotateLayer(width, rank))
    reflected = ByHand(model, layer, parametrizations.orthogonal(nn.Linear(rank, width, bias=False)))
    called, fitted = intervenable(), intervenable()
    batch = {"base": inputs[0], "sources": [inputs[1]], "unit_locations": last, "labels": labels}

    def call() -> Tensor:
        _, output = called(inputs[0], [inputs[1]], last)
        return output.logits[:, -1]  # type: ignore[no-any-return]

    def fit() -> None:
        intervene.fit(fitted, [batch] * STEPS, lr=1e-4, schedule="constant", warmup=0, progress=False)

    return {
        "by hand": stepping(lambda: stops(base, source), list(stops.rotation.parameters())),
        "torch": stepping(lambda: reflected(base, source), list(reflected.rotation.parameters())),
        "whole": stepping(lambda: whole(base, source), list(whole.rotation.parameters())),
        "call": stepping(call, called.get_trainable_parameters()),
        "fit": fit,
    }


def main(
    repeats: Annotated[int, typer.Option(help="Rounds with GPT-2 small; the toy gets ten times as many.")] = 20,
    rank: Annotated[int, typer.Option(help="Directions that are swapped; the toy gets at most its width.")] = 8,
    threads: Annotated[int, typer.Option(help="Threads that torch computes with.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Write the figures there.")] = None,
) -> None:
    """Time DAS steps against hooks by hand that leave the source's run after the layer and freeze the model.

    Both have the same rotation, by a QR decomposition.

    Example: python benchmarks/das_step.py --repeats 40 --json das_step.json
    """
    torch.set_num_threads(threads)
    show_machine()
    figures: dict[str, Any] = {"benchmark": "DAS step", "positions": POSITIONS, "batch": BATCH, "rank": rank}
    figures |= {"rounds": {}, "models": {}}
    for model_name, config in MODELS.items():
        count = repeats if model_name == "GPT-2 small" else 10 * repeats
        # By hand, whoever wants no gradients of the model's parameters freezes it.
        model = gpt2(config).requires_grad_(False)
        times = rounds(variants(model, min(rank, model.config.n_embd)), count, warmup=2)
        found = {n: {"ratio": ratio(times, n, "by hand"), "extra_us": extra(times, n, "by hand")} for n in TITLES}
        figures["rounds"][model_name] = count
        figures["models"][model_name] = found
        small = model_name == "GPT-2 small"
        show(
            f"{model_name}, {count} rounds, median (quartiles)",
            ["what", "time / by hand", "microseconds more a step", "goal"],
            [
                [
                    title,
                    text(found[n]["ratio"]),
                    f"{found[n]['extra_us']['median'] / STEPS:.0f}",
                    verdict(found[n]["ratio"]["median"], 1.05, at_most=True) if small and n in ("call", "fit") else "",
                ]
                for n, title in TITLES.items()
            ],
        )
    save(json, figures)


if __name__ == "__main__":
    typer.run(main)

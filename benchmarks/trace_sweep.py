"""What a layer x position sweep costs: against as many bare forwards, and against a loop of hooks made by hand."""

from __future__ import annotations

import copy
import json as plain_json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import cycle, product
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from models import POSITIONS, SMALL, gpt2, prompt
from paired import ratio, rounds, save, show, show_machine, text, verdict
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import intervene
from intervene.sweeps import Probability

LAYERS = 12
CELLS = LAYERS * POSITIONS
TOKEN = 5


def sources(model: GPT2LMHeadModel, ids: Tensor) -> list[Tensor]:
    """Every block's output on the source prompt."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        kept.append(output)

    handles = [block.register_forward_hook(keep) for block in model.transformer.h]
    model(input_ids=ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return kept


def loop_cell(model: GPT2LMHeadModel, ids: Tensor, source: Tensor, layer: int, position: int, **keep: int) -> float:
    """One cell of the loop: hook in, forward, hook out, measure."""

    def patch(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        changed = output.clone()
        changed[:, position] = source[:, position]
        return changed

    handle = model.transformer.h[layer].register_forward_hook(patch)
    try:
        logits = model(input_ids=ids, use_cache=False, **keep).logits
    finally:
        handle.remove()
    return float(logits[0, -1].softmax(-1)[TOKEN])


def evenly(model: GPT2LMHeadModel, ids: Tensor, values: list[Tensor], **keep: int) -> Callable[[], float]:
    """A call that runs the loop's next cell; cells follow each other layer by layer, evenly over the grid."""
    cells: Iterator[tuple[int, int]] = cycle((layer, p) for p, layer in product(range(POSITIONS), range(LAYERS)))

    def run() -> float:
        layer, position = next(cells)
        return loop_cell(model, ids, values[layer], layer, position, **keep)

    return run


def sweep(model: Any, base: Tensor, source: Tensor, memory_mib: int | None) -> intervene.SweepResult:
    """The full sweep."""
    options: dict[str, Any] = {} if memory_mib is None else {"memory": memory_mib << 20}
    return intervene.sweep(
        model,
        base={"input_ids": base},
        source={"input_ids": source},
        metric=Probability(TOKEN),
        progress=False,
        **options,
    )


def check(model: GPT2LMHeadModel, base: Tensor, source: Tensor, values: list[Tensor]) -> float:
    """The largest relative difference between the sweep and the loop, over a sample of cells."""
    result = sweep(model, base, source, None)
    assert result.method == "growing batch"
    worst = 0.0
    for layer, position in [(0, 0), (3, 15), (5, 7), (8, 2), (11, 15)]:
        alone = loop_cell(model, base, values[layer], layer, position)
        worst = max(worst, abs(float(result.values[layer, position]) - alone) / alone)
    return worst


def peak_mib(what: str, threads: int, memory_mib: int | None) -> float:
    """Peak resident memory in MiB of a process of its own that does ``what``."""
    options = [] if memory_mib is None else ["--memory", str(memory_mib)]
    command = [sys.executable, __file__, "--peak-of", what, "--threads", str(threads), *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(plain_json.loads(done.stdout.splitlines()[-1]))


def lean() -> GPT2LMHeadModel:
    """GPT-2 small made without a second copy of any weight, which would be the process's peak."""
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config())
    model.to_empty(device="cpu")
    model.tie_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    model.train(False)
    return model


def report_peak(what: str, memory_mib: int | None) -> None:
    """Do ``what`` once and print this process's peak resident memory in MiB."""
    model = lean()
    base, source = prompt(model, 1), prompt(model, 2)
    with torch.no_grad():
        if what == "sweep":
            sweep(model, base, source, memory_mib)
        elif what == "loop":
            values = sources(model, source)
            for layer, position in product(range(LAYERS), (0, 8, 15)):
                loop_cell(model, base, values[layer], layer, position)
        else:
            model(input_ids=base, use_cache=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    print(plain_json.dumps(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)))


def main(
    repeats: Annotated[int, typer.Option(help="Rounds; each has one full sweep in it.")] = 7,
    sample: Annotated[int, typer.Option(help="Bare forwards and cells of the loop that each round times.")] = 12,
    threads: Annotated[int, typer.Option(help="Threads that torch computes with.")] = 1,
    memory: Annotated[int | None, typer.Option(help="The sweep's memory budget in MiB, if not its own.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures there.")] = None,
    peak_of: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Time the full 12 x 16 trace of GPT-2 small's config (random weights, block outputs, one row).

    Bare forwards and the loop are timed on a sample and scaled to the grid's 192 runs.

    Example: python benchmarks/trace_sweep.py --repeats 9 --json trace.json
    """
    torch.set_num_threads(threads)
    if peak_of is not None:
        report_peak(peak_of, memory)
        return
    show_machine()
    # First, for a process inherits the peak of the one that it was forked from, whose model would hide its own.
    peaks = {what: peak_mib(what, threads, memory) for what in ("forward", "loop", "sweep")}
    model = gpt2(SMALL)
    base, source = prompt(model, 1), prompt(model, 2)

    def bare() -> Any:
        return model(input_ids=base, use_cache=False)

    def bare_last() -> Any:
        return model(input_ids=base, use_cache=False, logits_to_keep=1)

    def sampled(call: Callable[[], Any]) -> Callable[[], None]:
        def several() -> None:
            for _ in range(sample):
                call()

        return several

    with torch.no_grad():
        values = sources(model, source)
        difference = check(model, base, source, values)
        times = rounds(
            {
                "bare": sampled(bare),
                "bare_last": sampled(bare_last),
                "loop": sampled(evenly(model, base, values)),
                "loop_last": sampled(evenly(model, base, values, logits_to_keep=1)),
                "later": lambda: sweep(model, base, source, memory),
                # A shallow copy shares all weights, and is a model that no sweep has checked yet.
                "first": lambda: sweep(copy.copy(model), base, source, memory),
            },
            repeats,
        )
    scale = CELLS / sample
    found = {name: ratio(times, name, "bare", scale) for name in ("later", "first")}
    found_last = {name: ratio(times, name, "bare_last", scale) for name in ("later", "first")}
    loops = {
        f"{loop} / {name}": ratio(times, loop, name, 1 / scale)
        for loop in ("loop", "loop_last")
        for name in ("later", "first")
    }
    show(
        f"{LAYERS} x {POSITIONS} cells, {repeats} rounds with {sample} of the {CELLS} runs timed, median (quartiles)",
        ["what", "later calls", "first call", "goal (later calls)"],
        [
            [
                "sweep / bare forwards",
                text(found["later"]),
                text(found["first"]),
                verdict(found["later"]["median"], 0.14, at_most=True),
            ],
            ["sweep / bare forwards, last logits alone", text(found_last["later"]), text(found_last["first"]), ""],
            [
                "loop of hooks / sweep",
                text(loops["loop / later"], 1),
                text(loops["loop / first"], 1),
                verdict(loops["loop / later"]["median"], 8, at_most=False),
            ],
            [
                "loop of hooks, last logits alone / sweep",
                text(loops["loop_last / later"], 1),
                text(loops["loop_last / first"], 1),
                "",
            ],
        ],
    )
    show(
        "Peak resident memory, each in a process of its own",
        ["what", "MiB", "MiB beyond one bare forward"],
        [[what, f"{mib:.0f}", f"{mib - peaks['forward']:.0f}"] for what, mib in peaks.items()],
    )
    save(
        json,
        {
            "benchmark": "layer x position sweep",
            "cells": [LAYERS, POSITIONS],
            "rounds": repeats,
            "sample": sample,
            "memory_mib": memory,
            "sweep_per_bare_forwards": found,
            "sweep_per_bare_forwards_last_logits": found_last,
            "loop_per_sweep": loops,
            "largest_relative_difference": difference,
            "peak_mib": peaks,
            "seconds": {name: sorted(taken) for name, taken in times.items()},
        },
    )


if __name__ == "__main__":
    typer.run(main)

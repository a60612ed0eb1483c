"""Paired timing: variants take turns in every round, and each round gives a ratio of its own.

On a machine that other programs use too, absolute times wander by tens of percent within minutes. Two runs made one
right after the other see much the same machine, so the median of their ratios stays put where both medians move.
With one thread the clock is the process's CPU time, which leaves out what other programs had the core for; with
several it is the wall clock, for there CPU time also counts threads that wait for each other.
"""

from __future__ import annotations

import intervene  # noqa: F401 - before transformers, which a torchvision of another build would break

# isort: split
import gc
import json
import os
import platform
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from random import Random
from statistics import median, quantiles
from time import perf_counter, process_time
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

Times = dict[str, list[float]]


def seconds(call: Callable[[], Any], count: int = 1) -> float:
    """Seconds that one ``call`` takes, the mean of ``count`` calls in a row."""
    clock = _clock()
    begin = clock()
    for _ in range(count):
        call()
    return (clock() - begin) / count


def _clock() -> Callable[[], float]:
    return process_time if torch.get_num_threads() == 1 else perf_counter


def rounds(variants: Mapping[str, Callable[[], Any]], repeats: int, inner: int = 1, warmup: int = 1) -> Times:
    """Seconds per call of each variant, one entry a round.

    Every round has an order of its own, drawn from a seed: what ran just before has thrown some of a variant's code out
    of the processor's caches, and in one order it would always be the same that pays for the same other.

    Args:
        variants: what is timed, by name.
        repeats: how many rounds.
        inner: calls in a row that make up one entry.
        warmup: calls of each variant before the first round.
    """
    names = list(variants)
    for name in names:
        seconds(variants[name], warmup)
    times: Times = {name: [] for name in names}
    order = Random(0)
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            for name in order.sample(names, len(names)):
                times[name].append(seconds(variants[name], inner))
    finally:
        gc.enable()
    return times


def ratio(times: Times, name: str, base: str, scale: float = 1.0) -> dict[str, float]:
    """The median over rounds of ``name``'s time over ``scale`` times ``base``'s, with the quartiles."""
    return _spread([a / (scale * b) for a, b in zip(times[name], times[base], strict=True)])


def extra(times: Times, name: str, base: str) -> dict[str, float]:
    """The median over rounds of what ``name`` takes beyond ``base``, in microseconds, with the quartiles."""
    return _spread([1e6 * (a - b) for a, b in zip(times[name], times[base], strict=True)])


def _spread(values: list[float]) -> dict[str, float]:
    low, _, high = quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return {"median": median(values), "low": low, "high": high}


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "date": date.today().isoformat(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": _clock().__name__,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)


def show_machine() -> None:
    """Print the machine's facts in one line."""
    Console(width=140).print(", ".join(f"{name} {value}" for name, value in machine().items()), style="dim")


def text(spread: Mapping[str, float], digits: int = 3) -> str:
    """A median with its quartiles, for tables."""
    low, middle, high = (f"{spread[k]:.{digits}f}" for k in ("low", "median", "high"))
    return f"{middle} ({low} to {high})"


def verdict(value: float, goal: float, *, at_most: bool) -> str:
    """A goal, and whether it is met."""
    met = value <= goal if at_most else value >= goal
    return f"{'at most' if at_most else 'at least'} {goal:g}: {'met' if met else 'NOT met'}"


def save(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Write the figures and the machine's facts as JSON where a path is given."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), **figures}, indent=2) + "\n")

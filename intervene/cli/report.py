"""A causal trace run and shown: predictions, heatmap, sentences and picture; or all of it as JSON."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..adapted import Adapted
from ..errors import MissingDependencyError
from ..tracing import CausalTrace, causal_trace, subject_columns
from .console import CommandError, interactive, note, print_json, stdout
from .heatmap import Heatmap
from .readings import Reading, read, sentences


@dataclass(frozen=True)
class Asked:
    """What is traced: the arguments of `intervene.causal_trace`, and what the model is called."""

    model: str
    prompt: str
    subject: str
    target: str | None
    component: str
    window: int
    sigma: float
    samples: int
    seed: int
    layers: Sequence[int] | None = None


def report(adapted: Adapted, tokenizer: Any, asked: Asked, *, picture: Path | None, as_json: bool) -> None:
    """Trace, show the result on stdout, and write the picture where a path is given.

    Raises:
        CommandError: the tokenizer and the model don't go together, the prompt is too long, the model's probabilities
            aren't numbers, or the picture can't be written, after the result is shown.
        InterveneError: whatever the trace refuses.
    """
    _check_tokens(adapted, tokenizer, asked.prompt)
    trace = causal_trace(
        adapted,
        tokenizer,
        prompt=asked.prompt,
        subject=asked.subject,
        target=asked.target,
        component=asked.component,
        layers=asked.layers,
        window=asked.window,
        sigma=asked.sigma,
        samples=asked.samples,
        seed=asked.seed,
        progress=interactive(),
    )
    _check_numbers(trace, next(adapted.model.parameters()).dtype, asked.sigma)
    readings = read(trace, subject_columns(tokenizer, asked.prompt, asked.subject)[-1])
    written = None
    try:
        written = _write(trace, asked, picture)
    finally:
        # Whatever becomes of the picture, what was computed is shown.
        _show(trace, asked, readings, written, as_json=as_json)


def _show(
    trace: CausalTrace, asked: Asked, readings: tuple[Reading, ...], written: Path | None, *, as_json: bool
) -> None:
    if as_json:
        print_json(_data(trace, asked, readings, written))
        return
    console = stdout()
    console.print(_head(trace, asked))
    console.print(_predictions(trace, asked.samples))
    console.print(Text(trace.title, "bold"))
    console.print(Heatmap(trace, f"p({trace.target})"))
    console.print(Text("\n" + "\n".join(sentences(trace, readings, asked.component))))
    if written is not None:
        console.print(Text(f"\nThe picture is in {written}"), soft_wrap=True)


def _check_tokens(adapted: Adapted, tokenizer: Any, prompt: str) -> None:
    ids = tokenizer(prompt)["input_ids"]
    if not ids:
        raise CommandError("the tokenizer makes no tokens of the prompt: are its files beside the model's?")
    embeddings = getattr(adapted.model, "get_input_embeddings", lambda: None)()
    size = getattr(embeddings, "num_embeddings", None)
    if size is not None and max(ids) >= size:
        raise CommandError(
            f"the tokenizer gives token {max(ids)} and the model knows {size}: they don't belong together"
        )
    most = _most_positions(adapted)
    if most is not None and len(ids) > most:
        raise CommandError(f"the prompt has {len(ids)} tokens, and the model takes {most}: say a shorter one")


def _most_positions(adapted: Adapted) -> int | None:
    """How many positions the model has learned; None where it computes them, or where nothing says."""
    config = getattr(adapted.model, "config", None)
    most = getattr(config, "n_positions", None)
    # Many a model that states this maximum runs beyond it.
    if adapted.adapter is not None and adapted.adapter.family in ("gpt2", "opt"):
        most = getattr(config, "max_position_embeddings", most)
    return most if isinstance(most, int) and most > 0 else None


def _check_numbers(trace: CausalTrace, dtype: torch.dtype, sigma: float) -> None:
    if torch.isfinite(trace.values).all() and math.isfinite(trace.base) and math.isfinite(trace.source or 0.0):
        return
    # bfloat16 reaches as far as float32. The demo, which has no --dtype, runs in float32.
    wider = ["--dtype float32, or bfloat16"] if dtype == torch.float16 else []
    name = str(dtype).removeprefix("torch.")
    if math.isfinite(trace.source or 0.0):
        raise CommandError(
            f"some probabilities are not numbers once the subject is corrupted: with noise of sigma {sigma:g} the "
            f"model overflows in {name}; try {' or '.join(['a smaller --sigma', *wider])}"
        )
    cause = f"it overflows in {name}; try {wider[0]}" if wider else f"its weights are none, or it overflows in {name}"
    raise CommandError(f"the model's probabilities are not numbers even without noise: {cause}")


def _write(trace: CausalTrace, asked: Asked, path: Path | None) -> Path | None:
    """Write the picture; None, and a note, where that needs a package that is missing.

    Raises:
        CommandError: the file can't be written.
    """
    if path is None:
        return None
    lines = [f"{asked.model}: {trace.title}", f"“{asked.prompt}”"]
    title = "\n".join(part for line in lines for part in textwrap.wrap(line, 64))
    try:
        replace(trace, title=title, metric=f"p({trace.target})").plot(path=path)
    except MissingDependencyError as error:
        note(f"no picture was written: {error}")
        return None
    except OSError as error:
        raise CommandError(f"the picture can't be written to {path}: {error.strerror or error}") from error
    return path


def _data(trace: CausalTrace, asked: Asked, readings: Sequence[Reading], written: Path | None) -> dict[str, Any]:
    return {
        "model": asked.model,
        "component": asked.component,
        "window": asked.window,
        **trace.to_dict(),
        "readings": [reading.to_dict() for reading in readings],
        "picture": None if written is None else str(written),
    }


def _head(trace: CausalTrace, asked: Asked) -> Table:
    before, _, after = asked.prompt.partition(asked.subject)
    table = Table.grid(padding=(0, 2))
    table.add_row("model", Text(asked.model))
    table.add_row("prompt", Text.assemble(before, (asked.subject, "bold underline"), after))
    table.add_row("subject", Text(asked.subject, "bold"))
    table.add_row("target", Text(trace.target, "bold"))
    return table


def _predictions(trace: CausalTrace, samples: int) -> Group:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("clean run", no_wrap=True, max_width=24)
    table.add_column("p", justify="right")
    table.add_column("subject corrupted", no_wrap=True, max_width=24)
    table.add_column("p", justify="right")
    for clean, corrupted in zip(trace.clean, trace.corrupted, strict=True):
        cells = []
        for prediction in (clean, corrupted):
            style = "bold" if prediction.token == trace.target else ""
            cells += [Text(prediction.token, style), Text(f"{prediction.probability:.3f}", style)]
        table.add_row(*cells)
    draws = "one noise draw" if samples == 1 else f"{samples} noise draws"
    title = Text(f"The likeliest next tokens (corrupted: the mean of {draws})", "bold")
    return Group(Text(""), title, table)

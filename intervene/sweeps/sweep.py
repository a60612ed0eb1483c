"""`sweep`: patch every layer, position or head in turn, and measure."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from tqdm.auto import tqdm

from ..adapted import Adapted, adapt
from ..errors import InterveneError, SelectionError, SweepError, UnknownSiteError
from ..selection import find_axis
from ..sites import Site
from . import arguments, engine, inputs, plan, sources
from .metrics import Metric, describe, measure
from .noise import GaussianNoise
from .prefix import Prefix
from .result import SweepResult

GIB = 1 << 30


class SweepWarning(UserWarning):
    """A sweep took a slower way than it takes of causal models whose batch can grow; the message says why."""


def sweep(
    model: nn.Module | Adapted,
    *,
    base: Mapping[str, Any],
    metric: Metric,
    source: Mapping[str, Any] | float | None = None,
    component: str | Sequence[str] = "block_output",
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    axes: Sequence[str] | None = None,
    window: int = 1,
    noise: GaussianNoise | None = None,
    attention: str | None = None,
    memory: int = GIB,
    method: str | None = None,
    progress: bool = True,
    tokens: Sequence[str] | None = None,
    title: str = "",
) -> SweepResult:
    """Run the base once for every cell of a grid with that cell's activation taken from the source, and measure.

    All runs share one forward whose batch grows (or a few, where memory is short), which two cells checked against
    single runs confirm; where they disagree the runs are made one by one and a `SweepWarning` says so. Over positions
    of a causal model they are up to four forwards, each of which begins at the first column that it patches.

    Args:
        model: a model in eval mode, or an `Adapted` one.
        base: the base run's inputs, as the model takes them: ``input_ids`` (batch, position) and so on.
        metric: of the patched logits, for example `Probability`; see `intervene.sweeps.metrics`.
        source: the source run's inputs, of the same shape (position ``p`` goes to position ``p``, row to row); a
            number is written instead (0 for a zero ablation); left out with ``noise``, the base without noise.
        component: one or several canonical components; of a model with towers, of one of these, as in
            ``"text_decoder.mlp_output"``. A module path goes with any model, no adapter asked, and ``{layer}`` in it
            stands for each layer's number: ``"transformer.h.{layer}.mlp.output"``.
        layers: the layers swept; all by default.
        positions: the columns swept; all by default. Without a position axis, the columns that each cell writes.
        heads: the heads swept; all by default where ``axes`` has "head".
        axes: some of "component", "layer", "head", "position" in the order wanted; ("layer", "position") by default.
        window: how many layers around a cell's own are patched with it (ROME takes 10 for MLP and attention).
        noise: corrupt the base's embeddings; each noise sample is then an example.
        attention: an attention implementation for the sweep alone (``"eager"`` for attention patterns).
        memory: bytes that the activations of one forward may take, by estimate; the grid is cut into chunks.
        method: "growing batch", "batch" or "loop"; chosen and checked by default.
        progress: show a bar where it takes longer than a second.
        tokens: each column's text, for plots and tables.
        title: the plot's title.

    Returns:
        Values (layers, positions), or whatever ``axes`` were asked for; the mean over examples, and each example's.

    Raises:
        SweepError: an argument that isn't what it must be, axes, inputs or metric that don't go together, or a model
            in training mode.
        UnknownSiteError: a component or layer that the model doesn't have.
    """
    adapted = model if isinstance(model, Adapted) else adapt(model)
    if adapted.model.training:
        raise SweepError("the model is in training mode, where dropout differs between runs: call model.eval()")
    arguments.check_inputs("base", base)
    arguments.check_metric(metric)
    arguments.check_noise(noise)
    window = arguments.layers_around(window)
    tokens = arguments.texts(tokens)
    layers, positions, heads = (
        arguments.indices(name, given)
        for name, given in (("layers", layers), ("positions", positions), ("heads", heads))
    )
    if not isinstance(memory, int) or memory < 1:
        raise SweepError(f"memory is a whole number of bytes, such as {GIB} for 1 GiB; found {memory!r}")
    if method not in (None, engine.GROWING, engine.BATCH, engine.LOOP):
        raise SweepError(f"method is {engine.GROWING!r}, {engine.BATCH!r} or {engine.LOOP!r}; found {method!r}")
    if source is None:
        if noise is None:
            raise SweepError("a sweep patches from somewhere: give source=inputs (or a number), or noise=")
        source = base
    if not isinstance(source, (int, float)):
        arguments.check_inputs("source", source)
    components = arguments.components(component)
    names = plan.choose_axes(adapted, components, arguments.axes(axes))
    everywhere = plan.sites(adapted, components, "layer" in names)
    _require_axes(everywhere, names, positions)
    batch = inputs.prepare(adapted.model, base, noise, metric, everywhere)
    chosen_layers = _chosen("layer", layers, plan.depth(adapted, components)) if "layer" in names else []
    swept = sources.read(adapted, everywhere, batch, source, attention)
    chosen_heads = (
        _chosen("head", heads, _size(adapted, everywhere[0], "heads", batch, attention)) if "head" in names else []
    )
    columns = _columns(adapted, everywhere[0], batch, attention)
    grid = plan.make(
        adapted,
        components,
        names,
        chosen_layers,
        None if positions is None else _chosen("position", positions, columns),
        chosen_heads,
        columns,
        window,
        tokens,
    )
    if hasattr(metric, "bind"):
        metric = metric.bind(None if swept.logits is None else batch.at_last(swept.logits))
    runs = engine.Runs(
        adapted,
        batch.inputs,
        batch.rows,
        swept.values,
        sources.corruption(adapted, noise, batch.columns, everywhere[0].tower),
        batch.reading(metric),
        attention,
    )
    kind = (
        tuple(sorted({s.component for s in grid.sites})),
        names,
        runs.rows > 1,
        "attention_mask" in runs.inputs,
        attention,
        noise is not None,
    )
    used = method or _method(runs, grid, kind)
    if used == engine.GROWING:
        runs.prefix = _prefix(runs, grid, batch.columns, kind)
    logits = runs.alone(None) if swept.logits is None else swept.logits
    weight = partial(_bytes_a_run, adapted.model, logits, batch.columns)
    with tqdm(total=len(grid.cells), delay=1.0, disable=not progress, unit="run", desc="sweep") as bar:
        measured, samples = engine.run(runs, grid.cells, used, weight, memory, bar.update)
    samples = samples.reshape(batch.rows, *grid.shape)
    return SweepResult(
        values=samples.mean(0),
        samples=samples,
        axes=grid.axes,
        metric=describe(metric),
        base=float(measured.mean()),
        source=None if swept.logits is None else float(measure(runs.metric, swept.logits).mean()),
        method=used,
        title=title or f"{describe(metric)} after patching {', '.join(components)}",
        notes={} if noise is None else {"noise": {"sigma": noise.sigma, "samples": noise.samples, "seed": noise.seed}},
    )


def _require_axes(sites: Sequence[Site], names: Sequence[str], positions: Sequence[int] | None) -> None:
    # Left to the batched runs, a missing axis would be taken for a model whose batch is fixed.
    chosen = {"heads": "head" in names, "positions": "position" in names or positions is not None}
    for site in sites:
        for what, needed in chosen.items():
            if needed and site.axes is not None:
                try:
                    find_axis(what, site.axes, len(site.axes))
                except SelectionError as error:
                    raise SweepError(f"{site}: {error}; choose other axes=") from None


def _method(runs: engine.Runs, grid: plan.Plan, kind: tuple[Any, ...]) -> str:
    """The fastest way that agrees with single runs."""
    adapter = runs.adapted.adapter
    growing = adapter is not None and any(cell.start is not None for cell in grid.cells)
    wanted = engine.GROWING if growing else engine.BATCH
    try:
        if engine.agrees(runs, grid.cells, kind):
            return wanted
        reason = "two batched runs differ from the same runs made singly"
    except (RuntimeError, IndexError, InterveneError) as error:
        # A batch that grows on its way breaks models that fix the batch's size at the entrance.
        reason = f"the batched forward failed ({type(error).__name__}: {error})"
    warnings.warn(
        f"{reason}, so every run of this sweep is made by itself; that is slower",
        SweepWarning,
        stacklevel=3,
    )
    return engine.LOOP


def _prefix(runs: engine.Runs, grid: plan.Plan, columns: int, kind: tuple[Any, ...]) -> Prefix | None:
    """What the runs share before their patched columns, where the model is causal."""
    prefix, causal = engine.find_prefix(runs, grid.cells, columns, kind)
    if not causal:
        warnings.warn(
            "a run that begins at its patched column, after the cached ones, differs from the whole run, so every run "
            "of this sweep computes all columns; that is slower",
            SweepWarning,
            stacklevel=3,
        )
    return prefix


def _chosen(name: str, asked: Sequence[int] | None, size: int) -> list[int]:
    if asked is None:
        return list(range(size))
    wrong = [i for i in asked if not -size <= i < size]
    if wrong and name == "layer":
        raise UnknownSiteError(f"layers {wrong} out of range: there are {size} (0 to {size - 1})")
    if wrong:
        raise SweepError(f"{name}s {wrong} out of range: there are {size} (0 to {size - 1})")
    found = [i % size for i in asked]
    if not found or len(set(found)) != len(found):
        raise SweepError(f"{name}s are distinct and at least one; found {list(asked)}")
    return found


def _columns(adapted: Adapted, site: Site, batch: inputs.Batch, attention: str | None) -> int:
    """How many positions there are to sweep: the inputs', but for a tower's own sequence and for an image's patches."""
    own = site.tower is not None or not batch.tokens
    if own and {"position", "query_position"} & set(site.axes or ()):
        return _size(adapted, site, "positions", batch, attention)
    return batch.columns


def _size(adapted: Adapted, site: Site, what: str, batch: inputs.Batch, attention: str | None) -> int:
    """How many heads or positions a site's activation has."""
    value = adapted.read([site], attention=attention, **batch.inputs)[site]
    return int(value.shape[find_axis(what, site.axes, value.dim())])


def _bytes_a_run(model: nn.Module, logits: Tensor, columns: int, first: int) -> int:
    """An estimate of what one more row of the batch needs at its peak, in its blocks or at its logits, from column
    ``first`` on."""
    width = int(getattr(getattr(model, "config", None), "hidden_size", 1024))
    # A block's own, of which GPT-2's many-stepped GELU makes most, and one layer's keys and values before that.
    activations = (24 * (columns - first) + 4 * first) * width
    return int(max(activations, 4 * logits[0].numel()) * logits.element_size())

"""The engine of a sweep: every patched run, computed in as few forwards as the model and the memory allow."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..adapted import Adapted
from ..errors import ShapeMismatchError, SweepError
from ..selection import find_axis
from ..session import Written
from ..sites import Site, Values
from .branching import Branching, repeated
from .metrics import Metric, measure
from .plan import Cell
from .prefix import Prefix, divisible, lots, prefix_of

GROWING, BATCH, LOOP = "growing batch", "batch", "loop"


@dataclass
class Runs:
    """Everything that the runs of a sweep share.

    Attributes:
        inputs: the base run's inputs, of ``rows`` rows.
        sources: what is written at each site: (rows, ...) as the site sees it, or a number.
        corruption: writes that every run gets, as functions of a site's first ``rows`` rows tiled.
        metric: measured on each cell's rows.
        prefix: what lies before the patched columns; None where every run computes all columns.
    """

    adapted: Adapted
    inputs: dict[str, Any]
    rows: int
    sources: Mapping[Site, Tensor | float]
    corruption: Callable[[Sequence[int], int], list[tuple[Site, Written]]]
    metric: Metric
    attention: str | None
    prefix: Prefix | None = None

    def forward(self, cells: Sequence[Cell], growing: bool, first: int = 0) -> Tensor:
        """Logits of the base rows and of each cell's rows after them: (rows * (1 + cells), ...).

        Args:
            growing: let rows join at the block where they first differ.
            first: the column to begin at, with the prefix before it.
        """
        joining: dict[int, list[int]] = {}
        origins = list(range(self.rows))
        for cell in cells:
            if growing and cell.start is not None:
                joining.setdefault(cell.start, []).extend(range(self.rows))
            else:
                origins.extend(range(self.rows))
        adapter = self.adapted.adapter
        branching = (
            Branching(list(adapter.blocks_of(None)), len(origins), joining)
            if joining and adapter is not None
            else nullcontext()
        )
        inputs = repeated(self.inputs, self.rows, origins)
        if first and self.prefix is not None:
            inputs = self.prefix.continued(inputs, first)
        firsts = range(self.rows, self.rows * (1 + len(cells)), self.rows)
        with branching:
            return self._call(inputs, origins, list(zip(firsts, cells, strict=True)), first)

    def alone(self, cell: Cell | None) -> Tensor:
        """Logits of one cell's rows, or of the base's, in a forward that has no other rows: (rows, ...)."""
        return self._call(self.inputs, range(self.rows), [] if cell is None else [(0, cell)])

    def found_prefix(self, columns: int, layers: int) -> Prefix | None:
        """The prefix that the base run leaves, of a model that keeps one."""
        model = self.adapted.model
        if not (accepts(model, "past_key_values") and accepts(model, "use_cache")):
            return None
        writes = self.corruption(range(self.rows), 0)
        with torch.no_grad(), self.adapted.session(writes=writes, attention=self.attention):
            return prefix_of(model(**{**self.inputs, "use_cache": True}), columns, layers)

    def _call(
        self, inputs: Mapping[str, Any], origins: Sequence[int], placed: Sequence[tuple[int, Cell]], first: int = 0
    ) -> Tensor:
        """Logits of a forward that starts with copies of the rows ``origins`` and has each cell at its first row."""
        writes = [*self.corruption(origins, first), *self._patches(placed, first)]
        return run_once(self.adapted, inputs, writes, self.attention)[0]

    def _patches(self, placed: Sequence[tuple[int, Cell]], column: int) -> list[tuple[Site, Written]]:
        """One write for each site, for all cells that write there."""
        by_site: dict[Site, list[tuple[int, Cell]]] = {}
        for first, cell in placed:
            for site in cell.sites:
                by_site.setdefault(site, []).append((first, cell))
        return [(site, self._patch(site, those, column)) for site, those in by_site.items()]

    def _patch(self, site: Site, cells: Sequence[tuple[int, Cell]], column: int) -> Written:
        source = self.sources[site]

        def write(part: Tensor) -> Tensor:
            # `part` is the session's own copy, so it can be filled in place.
            for (head, positions), rows, origins in _groups(cells, self.rows):
                here = positions if positions is None else [[p - column for p in each] for each in positions]
                index = self._index(site, part, rows, head, here)
                if isinstance(source, Tensor):
                    at = self._index(site, part, origins, head, positions)
                    part[index] = source.to(part.device, part.dtype)[at]
                else:
                    part[index] = source
            return part

        return write

    def _index(
        self,
        site: Site,
        part: Tensor,
        rows: Sequence[int],
        head: Sequence[int] | None,
        positions: Sequence[Sequence[int]] | None,
    ) -> tuple[Any, ...]:
        """Index of the rows' heads and positions, entry by entry."""
        index: list[Any] = [slice(None)] * part.dim()
        count = 1 if positions is None else len(positions[0])
        device = part.device
        index[0] = torch.tensor(rows, device=device).reshape(-1, 1).expand(-1, count)
        if head is not None:
            axis = find_axis("heads", site.axes, part.dim())
            index[axis] = torch.tensor(head, device=device).reshape(-1, 1).expand(-1, count)
        if positions is not None:
            axis = find_axis("positions", site.axes, part.dim())
            index[axis] = torch.tensor(positions, device=device)
        return tuple(index)


def _groups(cells: Sequence[tuple[int, Cell]], rows: int) -> Iterator[tuple[tuple[Any, Any], list[int], list[int]]]:
    """Cells that choose alike (a head or none, as many positions) as one indexed write."""
    alike: dict[tuple[bool, int], list[tuple[int, Cell]]] = {}
    for first, cell in cells:
        key = (cell.head is None, -1 if cell.positions is None else len(cell.positions))
        alike.setdefault(key, []).append((first, cell))
    for (no_head, count), those in alike.items():
        index = [first + r for first, _ in those for r in range(rows)]
        origins = [r for _ in those for r in range(rows)]
        head = None if no_head else [c.head for _, c in those for _ in range(rows)]
        positions = None if count < 0 else [c.positions for _, c in those for _ in range(rows)]
        yield (head, positions), index, origins


def run(
    runs: Runs,
    cells: Sequence[Cell],
    method: str,
    bytes_a_row: Callable[[int], int],
    memory: int,
    on_done: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    """The base run's measured examples, (rows,), and every cell's, (rows, cells) in the order of their indices.

    Args:
        bytes_a_row: what one more row of the batch needs in a forward that begins at the column given.
        memory: how many bytes a forward's rows may take.
    """
    samples = torch.empty(runs.rows, len(cells))
    if method == LOOP:
        base = measure(runs.metric, runs.alone(None))
        for cell in cells:
            samples[:, cell.index] = measure(runs.metric, runs.alone(cell))
            on_done(1)
        return base, samples
    chunks = _chunks(runs, cells, lambda first: max(1, memory // max(1, bytes_a_row(first) * runs.rows)))
    for number, (first, those) in enumerate(chunks):
        logits = runs.forward(those, growing=method == GROWING, first=first)
        expected = runs.rows * (1 + len(those))
        if logits.shape[0] != expected:
            raise ShapeMismatchError(f"the forward gave {logits.shape[0]} rows of logits for {expected} runs")
        unpatched, *patched = torch.split(logits, runs.rows)
        if number == 0:
            base = measure(runs.metric, unpatched)
        for cell, part in zip(those, patched, strict=True):
            samples[:, cell.index] = measure(runs.metric, part)
        on_done(len(those))
    return base, samples


def _chunks(runs: Runs, cells: Sequence[Cell], most: Callable[[int], int]) -> Iterator[tuple[int, Sequence[Cell]]]:
    """The cells of each forward and the column that it begins at, ``most`` of which says how many fit."""
    whole: list[tuple[int, Sequence[Cell]]] = [(0, cells)]
    for first, lot in whole if runs.prefix is None else lots(cells, runs.rows, runs.prefix.columns):
        size = most(first)
        for begin in range(0, len(lot), size):
            yield first, lot[begin : begin + size]


def run_once(
    adapted: Adapted,
    inputs: Mapping[str, Any],
    writes: Sequence[tuple[Site, Written]] = (),
    attention: str | None = None,
    reads: Sequence[Site] = (),
) -> tuple[Tensor, Values]:
    """One forward's logits and read values, without gradients.

    The logits are those that the model returns. One with towers may keep those of its decoder for itself, so that they
    are read at their site.
    """
    own = [site for site in adapted.sites.filter(component="logits") if site.tower is not None]
    with torch.no_grad(), adapted.session(reads=[*reads, *own], writes=writes, attention=attention) as session:
        output = adapted.model(**inputs)
    return (session.values[own[0]] if own else logits_of(output)), session.values


def logits_of(output: Any) -> Tensor:
    """The logits of a model's output: its ``logits``, else its first tensor."""
    if isinstance(output, Tensor):
        return output
    found = getattr(output, "logits", None)
    if found is None:
        found = output[0]
    if not isinstance(found, Tensor):
        raise SweepError(f"found no logits in the model's output, a {type(output).__name__}")
    return found


def accepts(model: nn.Module, name: str) -> bool:
    """Whether the model's forward takes an argument of that name."""
    return name in inspect.signature(type(model).forward).parameters


# Models whose growing batch agreed with single runs, and for which kinds of sweep.
_proven: WeakKeyDictionary[nn.Module, set[Any]] = WeakKeyDictionary()


def agrees(runs: Runs, cells: Sequence[Cell], key: Any) -> bool:
    """Whether batched runs of two cells equal those runs made one at a time; asked once a model and kind of sweep."""
    model = runs.adapted.model
    if key in _proven.setdefault(model, set()):
        return True
    probes = [cells[0], cells[len(cells) // 2]] if len(cells) > 1 else list(cells)
    together = runs.forward(probes, growing=True)
    if together.shape[0] != runs.rows * (1 + len(probes)):
        return False
    _, *patched = torch.split(together, runs.rows)
    if not all(close(part, runs.alone(cell)) for part, cell in zip(patched, probes, strict=True)):
        return False
    _proven[model].add(key)
    return True


def find_prefix(runs: Runs, cells: Sequence[Cell], columns: int, key: Any) -> tuple[Prefix | None, bool]:
    """What lies before the patched columns, None where this sweep can't begin later; and whether the model is causal.

    Once a model and kind of sweep, a run that begins at its column is checked against the whole run: at an early layer,
    whose patch would reach the other columns of a model that isn't causal.
    """
    adapter = runs.adapted.adapter
    if adapter is None or not divisible(runs.inputs, cells, columns):
        return None, True
    latest, lot = max(lots(cells, runs.rows, columns), key=lambda each: each[0])
    prefix = runs.found_prefix(columns, adapter.layers) if latest else None
    model, known = runs.adapted.model, ("prefix", key)
    if prefix is None or known in _proven.setdefault(model, set()):
        return prefix, True
    logits = replace(runs, prefix=prefix).forward(lot[:1], growing=True, first=latest)
    if not close(logits[runs.rows :], runs.alone(lot[0])):
        return None, False
    _proven[model].add(known)
    return prefix, True


def close(first: Tensor, second: Tensor) -> bool:
    """Whether two batches of logits differ by no more than a few hundred roundings of their largest entry.

    Matrix products of another batch size add in another order; each of a model's layers contributes some roundings.
    """
    if first.shape != second.shape:
        return False
    scale = float(second.float().abs().max().clamp(min=1.0))
    bound = 512 * torch.finfo(second.dtype).eps * scale
    return float((first.float() - second.float()).abs().max()) <= bound

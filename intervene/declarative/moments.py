"""Moments: interventions that act in generation when they are meant to.

A forward of `generate` sees some columns of the sequence: the prompt's, one new token's, a chunk, or everything again.
Each intervention is a function of the whole activation there that finds out which columns pass by, and acts on those
that are meant. Rows may be more than the batch's, for each has several beams or samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, InterventionError, NeverFiredError, SelectionError
from ..lenses import Lens, Take, TakePerRow, Whole
from ..selection import Frame, Selection, find_axis, lens_of
from ..sites import Site
from ..taps import Timed
from .acts import Writer, Writes
from .collected import Collected
from .timing import Moments, When

Rows = tuple[int, ...]


class InTime:
    """The interventions of one call of `generate`, made to act when they are meant to.

    Attributes:
        writes: for the session.
    """

    def __init__(
        self,
        writes: Writes,
        when: Mapping[str, Moments | None],
        *,
        batch: int | None,
        prompt: int | None,
        padding: Sequence[int] | None,
        source_padding: Mapping[int, Sequence[int] | None],
    ) -> None:
        """
        Args:
            writes: of each intervention, with its source.
            when: the moments, by intervention.
            batch: how many rows the prompt has.
            prompt: how many columns it has, where its first forward doesn't say.
            padding: the column of each row's first token; None for no padding.
            source_padding: likewise of the sources, by group.
        """
        self.writes: Writes = []
        self._moments: list[_Moment] = []
        collected: dict[str, Collected] = {}
        for site, value in writes:
            owner = getattr(value, "__self__", None)
            if isinstance(owner, Writer):  # it takes a module's input along, wherever it then acts
                self.writes.append((site.whole, value))
                continue
            assert isinstance(value, Writer)
            place = value.act.place
            if place.unit == "t" or not _has_positions(place.site):
                self.writes.append((site, value))
                continue
            located = value.patch.base.selection.positions is not None
            moment = _Moment(value, When.of(when.get(place.key), located), batch, prompt, padding)
            if not located and value.source is not None:
                read = value.act.reads
                moment.align(padding if read else None, source_padding.get(place.group) if read else None)
            if place.intervention.collects:
                moment.collected = collected.setdefault(place.key, Collected(_named_axes(place.site)))
            heads = value.patch.base.selection.heads
            self.writes.append((replace(site, selection=Selection(heads=heads)), moment))
            self._moments.append(moment)
        self.collected = list(collected.values())

    def check(self) -> None:
        """Raise where an intervention never acted, or a position that was named never came by.

        Raises:
            NeverFiredError: which.
        """
        for moment in self._moments:
            moment.check()


class _Moment(Timed):
    """One intervention's patch in generation: acts on those columns of a forward that are meant."""

    def __init__(
        self, writer: Writer, when: When, batch: int | None, prompt: int | None, padding: Sequence[int] | None
    ) -> None:
        self._writer, self._when, self._batch, self._prompt, self._padding = writer, when, batch, prompt, padding
        self._seen: set[tuple[int, int]] = set()
        self._acted = False
        self._last = -1
        self._columns: list[list[int | None]] | None = None
        self.collected: Collected | None = None
        positions: Any = writer.patch.base.selection.positions
        self._asked = positions

    def align(self, padding: Sequence[int] | None, source_padding: Sequence[int] | None) -> None:
        """Let the source's first token meet the base's, row by row, where either has padding before it."""
        source = self._writer.source
        assert source is not None
        axis = self._source_axis(source)
        if axis is None:
            return
        length, rows = source.shape[axis], self._batch or len(source)
        here = padding or [0] * rows
        there = source_padding or [0] * rows
        self._columns = [
            [None if entry < t else entry - t + h for entry in range(length)] for h, t in zip(here, there, strict=True)
        ]

    def __call__(self, part: Tensor, frame: Frame) -> Tensor | None:
        axis = find_axis("positions", self._site.axes, part.dim())
        here = frame.columns(part.shape[axis])
        self._last = max(self._last, here.stop - 1)
        if self._prompt is None:
            self._prompt = frame.prompt if frame.prompt is not None else here.stop
        rows = self._rows(part)
        changed, seen = part, []
        for lens, entries, strength, columns, chosen in self._acts(part, axis, here, rows, frame):
            sub = lens.get(changed)
            new = self._act(sub, lens, entries, chosen, part, axis)
            if new is None:
                continue
            self._acted = True
            if self.collected is not None:
                seen.append((chosen, columns, new))
                continue
            if strength is not None:
                new = _scaled(sub, new, strength)
            changed = lens.put(changed, new)
        if seen:
            self._keep(seen)
        return None if changed is part else changed

    def check(self) -> None:
        """Raise where it never acted.

        Raises:
            NeverFiredError: it, or one of its positions, never came by.
        """
        key = self._writer.act.place.key
        if isinstance(self._asked, tuple) and self._when.prompt:
            asked = self._asked if isinstance(self._asked[0], tuple) else (self._asked,)
            missed = sorted(
                {p for row, those in enumerate(asked) for e, p in enumerate(those) if (row, e) not in self._seen}
            )
            if missed:
                raise NeverFiredError(
                    f"{key}: position(s) {missed} never came by; the forwards covered columns 0 to {self._last}"
                )
        if not self._acted and not self._when.conditional:
            raise NeverFiredError(
                f"{key} never acted: the prompt has {self._prompt} column(s), and "
                f"{max(self._last + 1 - (self._prompt or 0), 0)} generated token(s) came by (the last one that is "
                f"generated never does)"
            )

    @property
    def _site(self) -> Site:
        return self._writer.act.place.site

    def _rows(self, part: Tensor) -> Rows | None:
        """The rows of the activation that the patch is for; None for all."""
        rows = self._writer.patch.rows
        if rows is None:
            return None
        times = self._times(part)
        return tuple(row * times + copy for row in rows for copy in range(times))

    def _times(self, part: Tensor) -> int:
        """How many rows of the activation there are for each of the prompt's."""
        return len(part) // self._batch if self._batch and len(part) % self._batch == 0 else 1

    def _acts(
        self, part: Tensor, axis: int, here: range, rows: Rows | None, frame: Frame
    ) -> Iterator[tuple[Lens, Any, Any, Any, Rows | None]]:
        """What to act on: lens, the source's entries, strength, columns, and rows."""
        prompt = self._prompt
        assert prompt is not None
        steps = self._when.steps(range(max(here.start - prompt, 0), max(here.stop - prompt, 0)))
        if self._when.prompt:
            if self._columns is None and self._asked is None:
                # Whole: one piece with the generated tokens where these are acted on in full.
                together = self._when.always and self._writer.generated is None
                stop = here.stop if together else min(here.stop, prompt)
                if stop > here.start:
                    yield self._piece(part, axis, range(here.start, stop), here, rows, None, None)
                if stop == here.stop:
                    return
            else:
                yield from self._listed(part, axis, here, rows)
        if len(steps):
            yield from self._generated(part, axis, steps, here, rows, frame)

    def _generated(
        self, part: Tensor, axis: int, steps: range, here: range, rows: Rows | None, frame: Frame
    ) -> Iterator[tuple[Lens, Any, Any, Any, Rows | None]]:
        prompt, writer = self._prompt or 0, self._writer
        source = writer.generated if writer.generated is not None else writer.source
        positional = source is not None and not writer.live and self._source_axis(source) is not None
        if writer.generated is not None:
            steps = range(steps.start, min(steps.stop, writer.generated.shape[axis]))
        elif positional and self._columns is not None and self._when.always:
            return  # a source's whole run has a place for each of its own columns alone
        elif positional:
            assert source is not None
            raise InterventionError(
                f"{writer.act.place.key}: the source, {tuple(source.shape)}, has no value for generated tokens; give "
                f"one position of it, or generate_sources=True to generate from it along with the base"
            )
        if self._when.strength is None:
            if len(steps):
                columns = range(prompt + steps.start, prompt + steps.stop)
                yield self._piece(part, axis, columns, here, rows, ("generated", steps), None)
            return
        for step in steps:
            tokens = _tokens(frame, prompt + step - here.start, part, self._times(part), self._batch)
            strength = self._when.strength(step, tokens)
            self._acted = True  # it came by, whatever was then decided
            if isinstance(strength, Tensor):
                strength = strength.to(part.device)
                if not bool(strength.any()):
                    continue
                strength = strength if rows is None or strength.dim() == 0 else strength[list(rows)]
            elif not strength:
                continue
            columns = range(prompt + step, prompt + step + 1)
            entries = ("generated", range(step, step + 1))
            yield self._piece(part, axis, columns, here, rows, entries, None if strength is True else strength)

    def _piece(
        self, part: Tensor, axis: int, columns: range, here: range, rows: Rows | None, entries: Any, strength: Any
    ) -> tuple[Lens, Any, Any, Any, Rows | None]:
        """The same columns of every row that is meant."""
        local = tuple(column - here.start for column in columns)
        lens: Lens = Whole() if rows is None else Take(0, rows)
        if len(local) < part.shape[axis]:
            lens = lens >> lens_of(axis, local)
        return lens, entries, strength, tuple(columns), rows

    def _listed(
        self, part: Tensor, axis: int, here: range, rows: Rows | None
    ) -> Iterator[tuple[Lens, Any, Any, Any, Rows | None]]:
        """The columns that were named, or that the source's columns belong to; rows with the same ones at once."""
        times = self._times(part)
        all_rows = tuple(range(len(part))) if rows is None else rows
        groups: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
        for index, row in enumerate(all_rows):
            wanted, asked_row = self._wanted(row // times, index // times, here)
            present = [(entry, column) for entry, column in enumerate(wanted) if column is not None and column in here]
            if not present:
                continue
            entries = tuple(entry for entry, _ in present)
            local = tuple(column - here.start for _, column in present)
            if len(set(local)) != len(local):
                raise SelectionError(f"{self._writer.act.place.key}: positions {wanted} name a column twice")
            self._seen.update((asked_row, entry) for entry in entries)
            groups.setdefault(entries, []).append((row, local))
        for entries, members in groups.items():
            chosen = tuple(row for row, _ in members)
            alike = len({local for _, local in members}) == 1
            lens: Lens = Whole() if len(chosen) == len(part) else Take(0, chosen)
            locals_ = tuple(local for _, local in members)
            lens = lens >> (lens_of(axis, locals_[0]) if alike else TakePerRow(axis, locals_))
            columns: Any = tuple(c + here.start for c in locals_[0])
            if not alike:
                columns = [tuple(c + here.start for c in local) for local in locals_]
            yield lens, ("prompt", entries), None, columns, None if len(chosen) == len(part) else chosen

    def _wanted(self, row: int, index: int, here: range) -> tuple[Sequence[int | None], int]:
        """The columns that a row of the prompt's batch asks for, entry by entry, and which row of the list says so."""
        if self._columns is not None:
            return self._columns[row], 0
        asked, prompt = self._asked, self._prompt or 0
        if not isinstance(asked, tuple):
            # Bounds from the prompt's end are the prompt's own; others may go on into what is generated.
            own = any(bound is not None and bound < 0 for bound in (asked.start, asked.stop))
            first = 0 if self._padding is None else self._padding[row]
            return [*range(first, prompt if own else here.stop)[slice(asked.start, asked.stop, asked.step)]], 0
        per_row = isinstance(asked[0], tuple)
        those = asked[index] if per_row else asked
        return [p if p >= 0 else p + prompt for p in those], index if per_row else 0

    def _act(self, sub: Tensor, lens: Lens, entries: Any, rows: Rows | None, part: Tensor, axis: int) -> Tensor | None:
        writer = self._writer
        source = writer.source
        if entries is not None and entries[0] == "generated" and writer.generated is not None:
            source = writer.generated
        if source is not None:
            source = self._source_for(source, lens, entries, rows, part)
        times = self._times(part)
        subspaces = writer.subspaces([row // times for row in (range(len(part)) if rows is None else rows)])
        return writer.run(sub, source, subspaces)

    def _source_for(self, source: Tensor, lens: Lens, entries: Any, rows: Rows | None, part: Tensor) -> Tensor:
        """The source's part that belongs to the columns and rows that are acted on."""
        if self._writer.live:
            return lens.get(source)
        times = self._times(part)
        if times > 1 and source.dim() == part.dim() and len(source) == self._batch:
            source = source.repeat_interleave(times, dim=0)
        if rows is not None and source.dim() == part.dim() and len(source) == len(part):
            source = source[list(rows)]
        axis = self._source_axis(source)
        if axis is None or entries is None:
            return source
        kept = tuple(entries[1])
        if len(kept) == source.shape[axis]:
            return source
        return source.index_select(axis, torch.tensor(kept, device=source.device))

    def _source_axis(self, source: Tensor) -> int | None:
        """The source's axis of positions, None where it has one value for all."""
        axes = _named_axes(self._site)
        from_end = find_axis("positions", axes, len(axes)) - len(axes)
        if source.dim() < -from_end or source.shape[from_end] == 1:
            return None
        return source.dim() + from_end

    def _keep(self, seen: list[tuple[Rows | None, Any, Tensor]]) -> None:
        collected = self.collected
        assert collected is not None
        collected.prompt = self._prompt or 0
        if all(rows is None and not isinstance(columns, list) for rows, columns, _ in seen):
            collected.columns.append(tuple(c for _, columns, _ in seen for c in columns))
            axis = find_axis("positions", collected.axes, len(collected.axes))
            collected.append(seen[0][2] if len(seen) == 1 else torch.cat([new for _, _, new in seen], dim=axis))
            return
        by_row: dict[int, tuple[Any, Tensor]] = {}
        for rows, columns, new in seen:
            for index, row in enumerate(range(len(new)) if rows is None else rows):
                by_row[row] = (columns[index] if isinstance(columns, list) else columns, new[index])
        entries = [by_row[row] for row in sorted(by_row)]
        collected.columns.append([columns for columns, _ in entries])
        alike = len({tensor.shape for _, tensor in entries}) == 1
        tensors = [tensor for _, tensor in entries]
        collected.append(torch.stack(tensors) if alike else tensors)


def _scaled(before: Tensor, after: Tensor, strength: Any) -> Tensor:
    """``before`` moved towards ``after`` by a strength, one for all or one for each row."""
    if not isinstance(strength, Tensor):
        return before + float(strength) * (after - before)
    by_row = strength.reshape(-1, *[1] * (before.dim() - 1)) if strength.dim() else strength
    if strength.dtype == torch.bool:
        return torch.where(by_row, after, before)
    weight: Tensor = by_row.to(before.dtype)
    return before + weight * (after - before)


def _tokens(frame: Frame, index: int, part: Tensor, times: int, batch: int | None) -> Tensor:
    """The tokens (rows,) at a column of this forward."""
    if frame.tokens is None:
        raise InterventionError(
            "when: this model's forward is given no token ids, so a function of them can't say when"
        )
    return frame.tokens[:, index].to(part.device)


def _has_positions(site: Site) -> bool:
    return site.axes is None or any(name in site.axes for name in ("position", "query_position"))


def _named_axes(site: Site) -> tuple[str, ...]:
    return site.axes if site.axes is not None else ("batch", "position", "feature")


def moments(when: Any, keys: Sequence[str]) -> dict[str, Moments | None]:
    """``when=`` for each intervention: one for all, or a mapping of intervention keys.

    Raises:
        ConfigError: a key that is none.
    """
    if not (isinstance(when, Mapping) and when and all(isinstance(key, str) for key in when)):
        return dict.fromkeys(keys, when)
    unknown = [key for key in when if key not in keys]
    if unknown:
        raise ConfigError(f"when: no intervention {unknown[0]!r}; there are {list(keys)}")
    return {key: when.get(key) for key in keys}

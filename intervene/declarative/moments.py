"""Moments: interventions that act in generation when they are meant to.

A forward of `generate` sees some columns of the sequence: the prompt's, one new token's, a chunk, or everything again.
Each intervention is a function of the whole activation there that finds out which columns pass by, and acts on those
that are meant. Rows may be more than the batch's, for each has several beams or samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError, InterventionError, NeverFiredError, SelectionError
from ..lenses import Lens, Take, TakePerRow, Whole
from ..selection import Frame, Selection, find_axis, lens_of
from ..sites import Site
from ..taps import Timed
from .acts import Writer, Writes
from .collected import Collected, Columns, Gathering
from .timing import Moments, When

Rows = tuple[int, ...]


class Piece(NamedTuple):
    """What is acted on at once in a forward.

    Attributes:
        lens: the part of the activation.
        rows: its rows, None for all.
        columns: the columns of the sequence that its positions are, for every row or by row.
        entries: which of the source's positions belong to them; None for all.
        generated: whether these are positions of the source's generated tokens.
        strength: how strongly; None for in full.
    """

    lens: Lens
    rows: Rows | None
    columns: Columns
    entries: Sequence[int] | None = None
    generated: bool = False
    strength: Any = None


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
        self._gathered: dict[str, Gathering] = {}
        for site, value in writes:
            owner = getattr(value, "__self__", None)
            if isinstance(owner, Writer):  # it takes a module's input along, wherever it then acts
                self.writes.append((site.whole, value))
                continue
            assert isinstance(value, Writer)
            place = value.act.place
            if place.unit == "t" or not has_positions(place.site):
                self.writes.append((site, value))
                continue
            located = value.patch.base.selection.positions is not None
            moment = _Moment(value, When.of(when.get(place.key), located), batch, prompt, padding)
            if not located and value.source is not None:
                read = value.act.reads
                moment.align(padding if read else None, source_padding.get(place.group) if read else None)
            if place.intervention.collects:
                moment.gathering = self._gathered.setdefault(place.key, Gathering(_named_axes(place.site)))
            heads = value.patch.base.selection.heads
            self.writes.append((replace(site, selection=Selection(heads=heads)), moment))
            self._moments.append(moment)

    def collected(self) -> dict[str, Collected]:
        """What each intervention that collects saw, by its key."""
        return {key: gathering.result() for key, gathering in self._gathered.items()}

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
        self.gathering: Gathering | None = None
        self._asked: Any = writer.patch.base.selection.positions

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
        changed = part
        for piece in self._pieces(part, axis, here, frame):
            sub = piece.lens.get(changed)
            new = self._result(sub, piece, part)
            self._acted = True
            if self.gathering is not None:
                self.gathering.add(frame, self._prompt, piece.rows, piece.columns, new)
            else:
                changed = piece.lens.put(changed, scaled(sub, new, piece.strength))
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

    def _origins(self, part: Tensor, rows: Rows | None) -> list[tuple[int, int]]:
        """Which of the prompt's rows each of these of the activation is, and the how manieth of those for it."""
        times = self._times(part)
        return [divmod(row, times) for row in (range(len(part)) if rows is None else rows)]

    def _pieces(self, part: Tensor, axis: int, here: range, frame: Frame) -> Iterator[Piece]:
        """What to act on in a forward that sees the columns ``here``."""
        prompt = self._prompt
        assert prompt is not None
        if self._when.prompt and (self._columns is not None or self._asked is not None):
            yield from self._named(part, axis, here)
        elif self._when.prompt:
            # The prompt, and in one piece with it the generated tokens where these are acted on in full.
            together = self._when.always and self._writer.generated is None
            stop = here.stop if together else min(here.stop, prompt)
            if stop > here.start:
                yield self._alike(part, axis, range(here.start, stop), here, self._rows(part))
            if stop == here.stop:
                return
        steps = self._when.steps(range(max(here.start - prompt, 0), max(here.stop - prompt, 0)))
        if len(steps) and self._has_value_for_generated():
            yield from self._generated(part, axis, steps, here, frame)

    def _has_value_for_generated(self) -> bool:
        writer = self._writer
        if writer.source is None or writer.live or writer.generated is not None:
            return True
        if self._source_axis(writer.source) is None:
            return True
        if self._columns is not None and self._when.always:
            return False  # a source's whole run has a place for each of its own columns alone
        raise InterventionError(
            f"{writer.act.place.key}: the source, {tuple(writer.source.shape)}, has no value for generated tokens; "
            f"give one position of it, or generate_sources=True to generate from it along with the base"
        )

    def _generated(self, part: Tensor, axis: int, steps: range, here: range, frame: Frame) -> Iterator[Piece]:
        prompt, values, along = self._prompt or 0, self._writer.generated, self._writer.along
        if values is not None:
            steps = range(steps.start, min(steps.stop, values.shape[axis]))
        if self._when.strength is None and (along is None or along.lengths is None):
            if len(steps):
                columns = range(prompt + steps.start, prompt + steps.stop)
                yield self._alike(part, axis, columns, here, self._rows(part), entries=steps, generated=True)
            return
        for step in steps:
            rows = self._rows_with_value(part, step)
            strength: Any = None
            if self._when.strength is not None:
                strength = self._when.strength(step, _tokens(frame, prompt + step - here.start, part))
                self._acted = True  # it came by, whatever was then decided
            if rows == () or (strength is not None and not _any(strength)):
                continue
            if isinstance(strength, Tensor):
                strength = strength.to(part.device)
                strength = strength if rows is None or strength.dim() == 0 else strength[list(rows)]
            columns, entries = range(prompt + step, prompt + step + 1), range(step, step + 1)
            more = {"entries": entries, "generated": True, "strength": None if strength is True else strength}
            yield self._alike(part, axis, columns, here, rows, **more)

    def _rows_with_value(self, part: Tensor, step: int) -> Rows | None:
        """The rows that the patch is for and whose source has so many generated tokens; None for all."""
        rows, along = self._rows(part), self._writer.along
        if along is None or along.lengths is None or along.generated is None:
            return rows
        chosen = range(len(part)) if rows is None else rows
        origins = self._writer.rows_of(along.generated, self._origins(part, rows))
        having = tuple(row for row, origin in zip(chosen, origins, strict=True) if along.lengths[origin] > step)
        return rows if len(having) == len(chosen) else having

    def _alike(self, part: Tensor, axis: int, columns: range, here: range, rows: Rows | None, **more: Any) -> Piece:
        """The same columns of every row that is meant, None for all."""
        lens: Lens = Whole() if rows is None else Take(0, rows)
        if len(columns) < part.shape[axis]:
            lens = lens >> lens_of(axis, tuple(column - here.start for column in columns))
        return Piece(lens, rows, tuple(columns), **more)

    def _named(self, part: Tensor, axis: int, here: range) -> Iterator[Piece]:
        """The columns that were named, or that the source's belong to; rows with the same entries at once."""
        times, rows = self._times(part), self._rows(part)
        groups: dict[Rows, list[tuple[int, Rows]]] = {}
        for index, row in enumerate(range(len(part)) if rows is None else rows):
            wanted, asked_row = self._wanted(row // times, index // times, here)
            present = [(entry, column) for entry, column in enumerate(wanted) if column is not None and column in here]
            if not present:
                continue
            entries, columns = tuple(entry for entry, _ in present), tuple(column for _, column in present)
            if len(set(columns)) != len(columns):
                raise SelectionError(f"{self._writer.act.place.key}: positions {wanted} name a column twice")
            self._seen.update((asked_row, entry) for entry in entries)
            groups.setdefault(entries, []).append((row, columns))
        for entries, members in groups.items():
            chosen = None if len(members) == len(part) else tuple(row for row, _ in members)
            by_row = [columns for _, columns in members]
            local = tuple(tuple(column - here.start for column in columns) for columns in by_row)
            alike = len(set(local)) == 1
            lens: Lens = Whole() if chosen is None else Take(0, chosen)
            lens = lens >> (lens_of(axis, local[0]) if alike else TakePerRow(axis, local))
            yield Piece(lens, chosen, by_row[0] if alike else by_row, entries)

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

    def _result(self, sub: Tensor, piece: Piece, part: Tensor) -> Tensor:
        """What the intervention makes of a piece."""
        times = self._times(part)
        rows = [row // times for row in (range(len(part)) if piece.rows is None else piece.rows)]
        writer = self._writer
        places = self._places(piece, rows) if writer.act.intervention.by_place else None
        return writer.run(sub, self._source(piece, part), writer.subspaces(rows), places)

    def _places(self, piece: Piece, rows: Sequence[int]) -> Tensor:
        """Which of all that are acted on a piece's positions are, (rows or 1, positions); padding doesn't count."""
        if piece.entries is not None and not piece.generated:
            return torch.tensor([list(piece.entries)])
        firsts = [0] if self._padding is None else [self._padding[row] for row in rows]
        columns: Any = piece.columns
        return torch.tensor([[max(column - first, 0) for column in columns] for first in firsts])

    def _source(self, piece: Piece, part: Tensor) -> Tensor | None:
        """The source's part for a piece."""
        writer = self._writer
        source = writer.generated if piece.generated and writer.generated is not None else writer.source
        if source is None or writer.live:
            return None if source is None else piece.lens.get(source)
        if source.dim() == part.dim() and len(source) > 1:
            order = writer.rows_of(source, self._origins(part, piece.rows))
            if order != list(range(len(source))):
                source = source[order]
        axis = self._source_axis(source)
        if axis is None or piece.entries is None or len(piece.entries) == source.shape[axis]:
            return source
        return source.index_select(axis, torch.tensor(list(piece.entries), device=source.device))

    def _source_axis(self, source: Tensor) -> int | None:
        """The source's axis of positions, None where it has one value for all."""
        axes = _named_axes(self._site)
        from_end = find_axis("positions", axes, len(axes)) - len(axes)
        if source.dim() < -from_end or (source.shape[from_end] == 1 and not self._writer.whole_run):
            return None
        return source.dim() + from_end


def scaled(before: Tensor, after: Tensor, strength: Any) -> Tensor:
    """``before`` moved towards ``after`` by a strength, one for all or one for each row; None for all the way."""
    if strength is None:
        return after
    if not isinstance(strength, Tensor):
        return before + float(strength) * (after - before)
    by_row = strength.reshape(-1, *[1] * (before.dim() - 1)) if strength.dim() else strength
    if strength.dtype == torch.bool:
        return torch.where(by_row, after, before)
    weight: Tensor = by_row.to(before.dtype)
    return before + weight * (after - before)


def _any(strength: Any) -> bool:
    return bool(strength.any()) if isinstance(strength, Tensor) else bool(strength)


def _tokens(frame: Frame, index: int, part: Tensor) -> Tensor:
    """The tokens (rows,) at a column of this forward."""
    if frame.tokens is None:
        raise InterventionError(
            "when: this model's forward is given no token ids, so a function of them can't say when"
        )
    return frame.tokens[:, index].to(part.device)


def has_positions(site: Site) -> bool:
    """Whether a site's activations have an axis of positions, as far as its axes are known."""
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

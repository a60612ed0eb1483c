"""Drawing: what a law asks hypothesis for, kept in words for the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor

from ..sites import Site
from .case import Case
from .setting import Setting, settings
from .subject import Subject

T = TypeVar("T")
KINDS = ("ordinary", "zero", "tiny", "huge", "base")
SCALES = {"ordinary": 1.0, "zero": 0.0, "tiny": 1e-30, "huge": 1e30}


class Draw:
    """One example's draws. Each is kept with its name, so that a failure can show the smallest failing example."""

    def __init__(self, data: st.DataObject, subject: Subject, component: str) -> None:
        self._data = data
        self.subject = subject
        self.component = component
        self.log: list[str] = []

    def __call__(self, name: str, strategy: st.SearchStrategy[T]) -> T:
        """Draw a value and keep it under ``name``."""
        value = self._data.draw(strategy, label=name)
        self.log.append(f"{name}: {value}")
        return value

    def case(
        self, variants: Sequence[tuple[str, str | None]] | None = None, past: bool | None = None, **limits: Any
    ) -> Case:
        """A case in which the component exists (or one of the given variants).

        Args:
            past: whether the forward continues from a cache; None leaves it open. It does where the component needs it.
        """
        chosen = variants if variants is not None else self.subject.variants(self.component)
        past = True if self.subject.needs_past(self.component) else past
        setting: Setting = self("setting", settings(self.subject, chosen, past=past, **limits))
        return Case(self.subject, setting)

    def site(self, case: Case, component: str | None = None) -> Site:
        """The component's site in a drawn layer."""
        name = component or self.component
        layers = self.subject.layers(name)
        layer = layers[0] if layers == (None,) else self("layer", st.sampled_from(layers))
        return case.site(name, layer)

    def shape(self, case: Case, component: str | None = None) -> tuple[int, ...]:
        """The shape that the spec claims for the component in this case."""
        setting = case.setting
        name = component or self.component
        return self.subject.shape(name, setting.model, setting.rows, setting.columns)

    def axes(self, case: Case) -> tuple[str, ...]:
        """The axes that the spec claims for the component in this case."""
        return self.subject.claim(self.component, case.setting.model).axes

    def value(self, case: Case, part: Tensor) -> Tensor:
        """A source value for ``part``: ordinary, zero, tiny, huge, or equal to it."""
        kind = self("value", st.sampled_from(KINDS))
        if kind == "base":
            return part.clone()
        return case.random(part, SCALES[kind])

    def mixture(self, case: Case, part: Tensor) -> Tensor:
        """A source value whose entries are of every kind, next to the base, infinite and NaN ones among them."""
        kinds = [case.random(part, scale) for scale in SCALES.values()]
        infinite = torch.full_like(part, torch.inf)
        kinds += [part, torch.nextafter(part, infinite), infinite, torch.full_like(part, torch.nan)]
        which = torch.randint(len(kinds), part.shape, generator=case.generator).to(part.device)
        return torch.stack(kinds).gather(0, which.unsqueeze(0)).squeeze(0)

    def selection(self, case: Case, narrow: bool = False) -> tuple[dict[str, Any], Tensor]:
        """A selection as keywords for `Site.at`, and which entries it means, by plain indexing.

        Args:
            narrow: draw at least one axis.

        Returns:
            The keywords, and a boolean mask of the claimed shape that is true where the selection is.
        """
        shape, options = self.shape(case), self._selectable(case)
        chosen = self(
            "narrowed axes",
            st.lists(st.sampled_from(sorted(options)), unique=True, min_size=int(narrow)),
        )
        keywords: dict[str, Any] = {}
        mask = torch.ones(shape, dtype=torch.bool)
        for name in ("rows", "heads", "positions", "dims"):
            if name not in chosen:
                continue
            axis, size = options[name], shape[options[name]]
            rows = len(keywords["rows"]) if "rows" in keywords else shape[0]
            by_row = name == "positions" and self("positions by row", st.booleans())
            if by_row:
                picked = [self._indices(f"positions of row {r}", size, 1) for r in range(rows)]
                keywords[name] = picked
                kept = keywords.get("rows", range(shape[0]))
                own = torch.zeros(shape[0], size, dtype=torch.bool)
                for row, columns in zip(kept, picked, strict=True):
                    own[row, columns] = True
                spread = [1] * len(shape)
                spread[0], spread[axis] = shape[0], size
                mask &= own.reshape(spread)
            else:
                indices = self._indices(name, size)
                keywords[name] = indices
                flags = torch.zeros(size, dtype=torch.bool)
                flags[indices] = True
                mask &= flags.reshape([size if i == axis else 1 for i in range(len(shape))])
        return keywords, mask

    def single_places(self, case: Case) -> list[tuple[dict[str, Any], dict[str, Any], Tensor]]:
        """For each axis that can be narrowed, a selection of one of its places; and one of a position in each row.

        Returns:
            Keywords for `Site.at` that count from the axis' start, others that count from its end, and a boolean mask
            of the claimed shape that is true where both selections are.
        """
        found = []
        shape = self.shape(case)
        for name, axis in self._selectable(case).items():
            index = self(f"one of the {name}", st.integers(0, shape[axis] - 1))
            flags = torch.zeros(shape[axis], dtype=torch.bool)
            flags[index] = True
            mask = flags.reshape([-1 if i == axis else 1 for i in range(len(shape))]).expand(shape)
            found.append(({name: [index]}, {name: [index - shape[axis]]}, mask))
        if {"rows", "positions"} <= self._selectable(case).keys():
            found.append(self._place_in_each_row(shape, self._selectable(case)["positions"]))
        return found

    def _place_in_each_row(self, shape: tuple[int, ...], axis: int) -> tuple[dict[str, Any], dict[str, Any], Tensor]:
        one = st.integers(0, shape[axis] - 1)
        places = self("one position of each row", st.lists(one, min_size=shape[0], max_size=shape[0]))
        own = torch.tensor(places).reshape([-1 if i == 0 else 1 for i in range(len(shape))])
        columns = torch.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        from_end = [[place - shape[axis]] for place in places]
        return {"positions": [[place] for place in places]}, {"positions": from_end}, (columns == own).expand(shape)

    def _selectable(self, case: Case) -> dict[str, int]:
        """The keywords of `Site.at` that the component's axes allow, with the axis that each narrows.

        A cache that was filled before a session began may not say at which position it continues.
        """
        axes = tuple(a if a != "position" or not case.setting.past else "" for a in self.axes(case))
        names = {"batch": "rows", "head": "heads", "kv_head": "heads"}
        names |= dict.fromkeys(("position", "query_position", "source_position"), "positions")
        found: dict[str, int] = {}
        for axis, name in enumerate(axes):
            if name in names:
                # Of queries and the positions that they attend to, positions are the queries'.
                found.setdefault(names[name], axis)
        return found | {"dims": len(axes) - 1}

    def _indices(self, name: str, size: int, count: int | None = None) -> list[int]:
        wanted = st.lists(
            st.integers(-size, size - 1),
            min_size=count or 1,
            max_size=count or size,
            unique_by=lambda i: i % size,
        )
        return self(name, wanted)

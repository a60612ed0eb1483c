"""The matrix component x family: which family has what, and how the laws fared there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..components import components
from .matrix import Together
from .outcome import Outcome, Report, Status


@dataclass(frozen=True)
class Column:
    """A family, or one of its towers.

    Attributes:
        report: the family's report.
        tower: the tower's name; "" for the model as a whole.
    """

    report: Report
    tower: str

    @property
    def part(self) -> str:
        """Which part of the family's models it is; "" for the whole of a family without towers."""
        alone = len(towers([self.report])) == 1
        return self.tower or ("" if alone else "as a whole")

    @property
    def prefix(self) -> str:
        """What the tower's rows begin with in the family's own matrix."""
        return f"{self.tower}." if self.tower else ""


@dataclass(frozen=True)
class Place(Together):
    """A component in a family: what all laws found there, or why there is none.

    Attributes:
        component: its name, without a tower's.
        outcomes: of every law that is about it.
        absent: why the family has none; "" where it has it.
    """

    component: str
    outcomes: tuple[Outcome, ...]
    absent: str

    @property
    def words(self) -> str:
        """The place in words."""
        if self.absent:
            return f"{self.component} is absent: {self.absent}"
        counts = Counter(o.status for o in self.outcomes)
        found = ", ".join(f"{counts[status]} {status.value}" for status in Status if counts[status])
        return f"{self.component}: {found or 'not checked'}"


def towers(reports: Sequence[Report]) -> list[Column]:
    """The columns: a family, or each of its towers with what belongs to the model as a whole."""
    found = []
    for report in reports:
        rows = (*report.components, *report.absent)
        found += [Column(report, tower) for tower in dict.fromkeys(row.rpartition(".")[0] for row in rows)]
    return found


def overview(reports: Sequence[Report]) -> Iterator[tuple[str, list[Place]]]:
    """The rows: every canonical component that some report is about, with its place in each of `towers`."""
    columns = towers(reports)
    for name in components():
        places = [_place(name, column) for column in columns]
        if any(place.outcomes for place in places):
            yield name, places


def _place(name: str, column: Column) -> Place:
    row = column.prefix + name
    outcomes = tuple(o for o in column.report if row in (o.component, *o.also))
    return Place(name, outcomes, column.report.absent.get(row, ""))

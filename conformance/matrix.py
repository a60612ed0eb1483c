"""The matrix component x law, as every form of the report shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .outcome import Outcome, Report, Status

WHOLE_FAMILY = "whole family"

# A pass comes before a law that does not apply, for the pass is the finding.
_ORDER = (
    Status.FAILED,
    Status.UNEXPECTED_PASS,
    Status.EXPECTED_FAILURE,
    Status.PASSED,
    Status.NOT_APPLICABLE,
)

SYMBOLS = {
    Status.PASSED: "✓",
    Status.FAILED: "✗",
    Status.NOT_APPLICABLE: "–",
    Status.EXPECTED_FAILURE: "!",
    Status.UNEXPECTED_PASS: "?",
}

MEANINGS = {
    Status.PASSED: "the law holds on every example that was drawn",
    Status.FAILED: "an example was found on which the law does not hold",
    Status.NOT_APPLICABLE: "the law asks for something that the spec does not claim",
    Status.EXPECTED_FAILURE: "it fails, as was announced with a reason",
    Status.UNEXPECTED_PASS: "a failure was announced and did not come: take it off the list",
}


class Together:
    """Several outcomes that are shown as one.

    Attributes:
        outcomes: what was found; none where nothing was checked.
    """

    outcomes: tuple[Outcome, ...]

    @property
    def status(self) -> Status | None:
        """The worst outcome; None where there is none."""
        return worst(self.outcomes)

    @property
    def count(self) -> int:
        """How many of the outcomes have that status."""
        return sum(o.status is self.status for o in self.outcomes)


@dataclass(frozen=True)
class Cell(Together):
    """One cell: the outcomes of one law for one component.

    Attributes:
        row: the component, or `WHOLE_FAMILY`.
        law: the law's id.
        outcomes: what was found; none where the law is not about the row, or was not run.
    """

    row: str
    law: str
    outcomes: tuple[Outcome, ...]

    @property
    def tally(self) -> str:
        """The count as a cell shows it: "" for one outcome, ``3`` for three alike, ``1 of 3`` where others differ."""
        total = len(self.outcomes)
        if total < 2:
            return ""
        return str(total) if self.count == total else f"{self.count} of {total}"

    @property
    def plain(self) -> bool:
        """Whether the cell is a single pass, of which its row and column say everything."""
        return len(self.outcomes) == 1 and self.status is Status.PASSED

    @property
    def words(self) -> str:
        """The cell in words, one line for each outcome."""
        if not self.outcomes:
            whole = self.row == WHOLE_FAMILY
            return f"{self.law} is about one component at a time" if whole else f"{self.law} was not run"
        lines = []
        for outcome in self.outcomes:
            why = outcome.reason or outcome.message.partition("\n")[0]
            lines.append(f"{outcome.id}: {outcome.status.value}" + (f" ({why})" if why else ""))
        return "\n".join(lines)


def worst(outcomes: Iterable[Outcome]) -> Status | None:
    """What stands for several outcomes: a failure before all others, a pass before a law that does not apply."""
    found = {o.status for o in outcomes}
    return next((s for s in _ORDER if s in found), None)


def rows(report: Report) -> tuple[str, ...]:
    """The rows' components in the order of computation, "" (the whole family) last.

    A component that the spec doesn't have but an outcome names gets a row too: no outcome is lost.
    Where only some checks were run, rows that none of them belongs to are left out.
    """
    named = dict.fromkeys((*report.components, *(o.component for o in report)))
    named.pop("", None)
    if len(report) < report.total:
        ran = {o.component for o in report}
        return (*(n for n in named if n in ran), *([""] if "" in ran else []))
    return (*named, "")


def columns(report: Report) -> tuple[str, ...]:
    """The columns' laws: those of the report, and any other that an outcome names; where only some checks were run,
    those alone that were."""
    named = dict.fromkeys((*report.laws, *(o.law for o in report)))
    ran = {o.law for o in report}
    return tuple(law for law in named if law in ran or len(report) >= report.total)


def matrix(report: Report) -> Iterator[tuple[str, list[Cell]]]:
    """The rows of the matrix: a title and a cell for each of `columns`."""
    laws = columns(report)
    for component in rows(report):
        title = component or WHOLE_FAMILY
        yield title, [Cell(title, law, tuple(report.cell(component, law))) for law in laws]


def by_reason(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Outcomes grouped by their reason, in the order in which the reasons first appear."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.reason, []).append(outcome)
    return groups


def absent_by_reason(report: Report) -> dict[str, list[str]]:
    """The components that the family doesn't have, grouped by the reason why."""
    groups: dict[str, list[str]] = {}
    for component, reason in report.absent.items():
        groups.setdefault(reason, []).append(component)
    return groups


def duration(seconds: float) -> str:
    """Wall time for people: ``0.4 s``, ``41 s``, ``3 min 20 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60:02d} s"


def verdict(report: Report) -> str:
    """The headline: whether the adapter conforms, in one sentence."""
    checks = _plural(len(report), "check")
    if report.passed and len(report) < report.total:
        return f"{report.title} conforms so far: {len(report)} of {report.total} checks ran, none failed"
    if report.passed:
        return f"{report.title} conforms: {checks}, none failed"
    if report.failures:
        return f"{report.title} does not conform: {len(report.failures)} of {checks} failed"
    return f"{report.title} does not conform: none of {checks} applied"


def search(report: Report) -> str:
    """How examples were searched for: profile, seed, how many, how long."""
    seed = "derandomized" if report.seed is None else f"seed {report.seed}"
    examples = _plural(sum(o.examples for o in report), "example")
    return f"profile {report.profile}, {seed}, {examples}, {duration(report.seconds)}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"

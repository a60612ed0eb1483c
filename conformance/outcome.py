"""Outcomes: what a check found, and the report over many of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any


class Status(str, Enum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"
    EXPECTED_FAILURE = "expected failure"
    UNEXPECTED_PASS = "unexpected pass"

    @property
    def good(self) -> bool:
        """Whether an adapter with this outcome conforms."""
        return self in (Status.PASSED, Status.NOT_APPLICABLE, Status.EXPECTED_FAILURE)


@dataclass(frozen=True)
class Outcome:
    """What one check found.

    Attributes:
        id: the check's stable id, ``law:subject``, for example ``identity:block_output``.
        law: the law's id.
        subject: the component, relation or situation that was checked.
        component: the component whose row of the matrix the outcome belongs to, "" for the whole family.
        status: how it ended.
        message: what is wrong, in words; "" when nothing is.
        example: the minimal failing example, one line for each thing that was drawn.
        reason: why a law does not apply, or why a failure was expected.
        examples: how many examples were drawn.
        seconds: wall time.
        also: other components that the check is about.
    """

    id: str
    law: str
    subject: str
    component: str
    status: Status
    message: str = ""
    example: tuple[str, ...] = ()
    reason: str = ""
    examples: int = 0
    seconds: float = 0.0
    also: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Outcome:
        """The outcome that `to_dict` has put into plain data."""
        lists = {name: tuple(data[name]) for name in ("example", "also")}
        return cls(**{**data, "status": Status(data["status"]), **lists})

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "status": self.status.value, "example": list(self.example), "also": list(self.also)}

    def describe(self) -> str:
        """The outcome in words, with its minimal example."""
        lines = [f"{self.id}: {self.status.value}"]
        lines += [self.message] if self.message else []
        lines += [f"reason: {self.reason}"] if self.reason else []
        if self.example:
            lines.append("minimal example:")
            lines += [f"  {line}" for line in self.example]
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """What the suite found about one adapter.

    Attributes:
        family: the adapter's family.
        title: the family's title.
        outcomes: one for each check.
        profile: the profile that bounded the search.
        seed: the search's seed; None where it was derandomized.
        versions: of everything that bears on the result.
        components: the spec's components in the order of computation: the matrix's rows.
        laws: law id to its statement, in the matrix's order.
        seconds: wall time of the whole.
        notes: remarks for the reader.
        total: how many checks the adapter has; more than there are outcomes where only some were run.
        models: the models that were checked, by class and variant.
        absent: component to the reason why no model of the family has it.
        limits: component to sentences that say which models or settings lack it, and why.
    """

    family: str
    title: str
    outcomes: tuple[Outcome, ...]
    profile: str
    seed: int | None
    versions: dict[str, str]
    components: tuple[str, ...]
    laws: dict[str, str]
    seconds: float = 0.0
    notes: tuple[str, ...] = field(default=())
    total: int = 0
    models: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every check is good and at least one passed."""
        return all(o.status.good for o in self) and any(o.status is Status.PASSED for o in self)

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The outcomes that keep the adapter from conforming."""
        return tuple(o for o in self if not o.status.good)

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self.outcomes)

    def __len__(self) -> int:
        return len(self.outcomes)

    def counts(self) -> dict[str, int]:
        """How many outcomes of each status."""
        found = Counter(o.status.value for o in self)
        return {s.value: found.get(s.value, 0) for s in Status}

    def cell(self, component: str, law: str) -> Sequence[Outcome]:
        """The outcomes of one cell of the matrix component x law ("" is the row of the whole family)."""
        return [o for o in self if o.law == law and component in (o.component, *o.also)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        own = {k: getattr(self, k) for k in ("family", "title", "profile", "seed", "versions", "seconds", "total")}
        return {
            **own,
            "passed": self.passed,
            "counts": self.counts(),
            "components": list(self.components),
            "models": list(self.models),
            "absent": dict(self.absent),
            "limits": {name: list(sentences) for name, sentences in self.limits.items()},
            "laws": self.laws,
            "notes": list(self.notes),
            "outcomes": [o.to_dict() for o in self],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """The report that `to_dict` has put into plain data."""
        own = {k: data[k] for k in ("family", "title", "profile", "seed", "versions", "laws", "seconds", "total")}
        return cls(
            outcomes=tuple(Outcome.from_dict(o) for o in data["outcomes"]),
            components=tuple(data["components"]),
            notes=tuple(data["notes"]),
            models=tuple(data["models"]),
            absent=dict(data["absent"]),
            limits={name: tuple(sentences) for name, sentences in data["limits"].items()},
            **own,
        )

    def raise_if_failed(self) -> Report:
        """The report itself when it passed.

        Raises:
            AssertionError: some check failed; the message describes each failure.
        """
        if not self.passed:
            failed = "\n\n".join(o.describe() for o in self.failures) or "no check applied"
            raise AssertionError(f"{self.family} does not conform:\n\n{failed}")
        return self

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {s}" for s, n in self.counts().items() if n)
        return f"<Report {self.family}: {'passed' if self.passed else 'FAILED'}; {counts}>"

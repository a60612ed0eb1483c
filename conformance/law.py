"""Laws: named, documented properties, each checked for every component (or relation, or situation) it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .draw import Draw
from .subject import Subject

Check = Callable[[Draw], None]
Applies = Callable[[Subject, str], "str | None"]
Subjects = Callable[[Subject], Iterator[tuple[str, str]]]
Others = Callable[[Subject, str], Sequence[str]]


@dataclass(frozen=True)
class Law:
    """A property that every adapter must have.

    Attributes:
        id: stable, for example ``put_get``.
        statement: the law in one sentence.
        check: draws an example and raises `Violation` where the law does not hold.
        subjects: what it is checked for: pairs of a subject's name and the component whose row it belongs to.
        applies: why the law does not apply to a component of an adapter, None where it does.
        also: the other components that a subject is about, as a relation is about every one that it names.
        effort: the share of the profile's examples that it gets; dear laws get fewer, one with much to draw gets more.
    """

    id: str
    statement: str
    check: Check
    subjects: Subjects
    applies: Applies
    also: Others
    effort: float = 1.0


def each_component(subject: Subject) -> Iterator[tuple[str, str]]:
    """Every component that the spec claims."""
    return ((name, name) for name in subject.claimed)


def always(subject: Subject, component: str) -> str | None:
    """Applies wherever some model has the component."""
    if component in subject.claimed and not subject.variants(component):
        return "no model class and attention implementation of the family has it here"
    return None


def no_other(subject: Subject, name: str) -> Sequence[str]:
    """A subject that is about its own component alone."""
    return ()


_laws: dict[str, Law] = {}


def law(
    id: str,
    statement: str,
    *,
    subjects: Subjects = each_component,
    applies: Applies = always,
    also: Others = no_other,
    effort: float = 1.0,
) -> Callable[[Check], Check]:
    """Make a function that draws and checks one example a law."""

    def register(check: Check) -> Check:
        _laws[id] = Law(id, statement, check, subjects, applies, also, effort)
        return check

    return register


def all_laws() -> dict[str, Law]:
    """Every law by id, in DESIGN's order."""
    from . import laws  # noqa: F401 - importing the package registers each law

    return dict(_laws)

"""A mutant: an adapter (with its spec and models) that is broken on purpose, and how a check is run on it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import hypothesis

from intervene.adapter import Adapter
from intervene.conformance import PROFILES, Outcome, Profile, Status, Subject, generate_checks, run_check
from intervene.conformance.checks import Check


@dataclass(frozen=True)
class Mutant:
    """One bug, the check that is to find it, and what that check is to say.

    Attributes:
        name: for reports.
        wrong: what is wrong, in one line.
        like: the real bug that it resembles, with a source where one is known.
        adapter: the broken adapter. Its base class is the same adapter without the bug.
        components: what the bug is about; one of them where it is about all alike.
        killed_by: id of the check that has to fail, ``law:subject``, named before it was run.
        says: a part of the failure's message that tells a reader what is wrong.
        core: breaks this library itself for the length of a run, where the bug is not an adapter's.
    """

    name: str
    wrong: str
    like: str
    adapter: type[Adapter]
    components: tuple[str, ...]
    killed_by: str
    says: str
    core: Callable[[], AbstractContextManager[object]] = nullcontext

    @property
    def original(self) -> type[Adapter]:
        """The adapter without the bug, on the same models."""
        if self.core is not nullcontext:
            return self.adapter
        base = self.adapter.__mro__[1]
        assert issubclass(base, Adapter)
        return base

    @property
    def law(self) -> str:
        """The law named in advance."""
        return self.killed_by.partition(":")[0]

    def run(self) -> Outcome:
        """Run the check named in advance."""
        with self.core():
            return run(self.adapter, self.killed_by)

    def fails(self, check: str, seed: int | None = None) -> bool:
        """Whether a check fails on the mutant, without the search for a smallest example."""
        with self.core():
            return run(self.adapter, check, Unshrunk("ci", CI.examples, True), seed).status is Status.FAILED

    def concerns(self, check: Check) -> bool:
        """Whether a check looks at the broken components: by its own, by a relation's, or by drawing any."""
        looked_at = {check.component, *check.law.also(check.subject, check.name)}
        return bool({"", *self.components} & looked_at)


CI = PROFILES["ci"]


class Unshrunk(Profile):
    """A profile that stops at the first failing example."""

    def settings(self, effort: float) -> hypothesis.settings:
        """hypothesis' settings for a law of that effort."""
        return hypothesis.settings(super().settings(effort), phases=(hypothesis.Phase.generate,))


def run(adapter: type[Adapter], check: str, bound: Profile = CI, seed: int | None = None) -> Outcome:
    """Run one check on an adapter, by default under the profile ``ci``; a seed draws other examples.

    Raises:
        ValueError: the adapter has no such check.
    """
    found = next((c for c in generate_checks(Subject(adapter)) if c.id == check), None)
    if found is None:
        raise ValueError(f"{adapter.family} has no check {check!r}")
    return run_check(found, bound, seed=seed)

"""The laws as parameters of a test function in an adapter's own test file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from .checks import Check, generate_checks, run_check
from .outcome import Outcome
from .profiles import search_seed
from .settle import settle
from .subject import InputMaker, Subject, Target


class BoundCheck:
    """One check that a test calls: it passes, fails, skips with the reason why a law does not apply, or xfails.

    Attributes:
        check: the check.
        everything: the ids of all checks of the adapter.
        profile: how long to search; None takes pytest's ``--conformance-profile``, "ci" where none is given.
        seed: of the search; None takes pytest's ``--conformance-seed``.
        reason: why it is expected to fail, None if it isn't.
        outcome: what it found, None before it was called.
    """

    def __init__(
        self,
        check: Check,
        everything: Sequence[str],
        profile: str | None,
        seed: int | None,
        reason: str | None,
    ) -> None:
        self.check = check
        self.everything = everything
        self.profile = profile
        self.seed = seed
        self.reason = reason
        self.outcome: Outcome | None = None

    def __call__(self) -> None:
        """Run the check.

        Raises:
            LawBroken: the law does not hold; the message says what is wrong, with the smallest example.
        """
        __tracebackhide__ = True
        self.outcome = None
        profile = self.profile or "ci"
        self.outcome = run_check(self.check, profile, reason=self.reason, seed=search_seed(profile, self.seed))
        settle(self.outcome)

    def __repr__(self) -> str:
        return f"<check {self.check.id}>"


def parametrize_with_laws(
    adapter: Target,
    *,
    laws: Sequence[str] | None = None,
    components: Sequence[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    inputs: InputMaker | None = None,
    profile: str | None = None,
    seed: int | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Run a test function once for each check of an adapter.

    >>> @parametrize_with_laws(MyAdapter)                  # doctest: +SKIP
    ... def test_conformance(check):
    ...     check()

    Args:
        adapter: an adapter class, a family's name, or a small model of a known family.
        laws: ids of the laws to check; all by default.
        components: components to check; all by default.
        expected_failures: check id to the reason why it fails for now; a pass then fails the test.
        inputs: makes a model's inputs from (model, rows, columns, generator).
        profile: "ci" or "thorough"; by default what pytest was given as ``--conformance-profile``, else "ci".
        seed: of the search; by default what pytest was given as ``--conformance-seed``.

    Returns:
        A decorator for a test function with a parameter ``check``.

    Raises:
        ValueError: a law, component or expected failure that matches nothing.
    """
    subject = Subject(adapter, inputs)
    everything = [c.id for c in generate_checks(subject)]
    expected = dict(expected_failures or {})
    unknown = [id for id in expected if id not in everything]
    if unknown:
        from ..errors import did_you_mean

        raise ValueError(f"no check {', '.join(map(repr, unknown))}.{did_you_mean(unknown[0], everything)}")
    bound = [
        BoundCheck(check, everything, profile, seed, expected.get(check.id))
        for check in generate_checks(subject, laws_=laws, components=components)
    ]
    return pytest.mark.parametrize("check", bound, ids=[b.check.id for b in bound])

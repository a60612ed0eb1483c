"""Every mutant is killed by the check named in advance, for the reason given in advance."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest

from intervene.adapter import Adapter
from intervene.conformance import Outcome, Status, all_laws

from . import MUTANTS, Mutant
from .killed import PAGE
from .mutant import run

_each = pytest.mark.parametrize("mutant", MUTANTS, ids=[m.name for m in MUTANTS])


@cache
def _unbroken(adapter: type[Adapter], check: str) -> Outcome:
    return run(adapter, check)


@_each
def test_is_killed_by_the_law_named_in_advance(mutant: Mutant) -> None:
    outcome = mutant.run()
    assert outcome.status is Status.FAILED, f"{mutant.name} survives {mutant.killed_by}: {mutant.wrong}"
    assert mutant.says in outcome.message


@_each
def test_the_adapter_without_the_bug_passes(mutant: Mutant) -> None:
    outcome = _unbroken(mutant.original, mutant.killed_by)
    assert outcome.status is Status.PASSED, outcome.describe()


def test_names_are_unique() -> None:
    assert max(Counter(m.name for m in MUTANTS).values()) == 1


def test_every_law_has_a_mutant_that_it_has_to_kill() -> None:
    assert {m.law for m in MUTANTS} == set(all_laws())


def test_the_page_lists_every_mutant_and_no_other() -> None:
    """Whether what it says of them is still so, only `python -m tests.mutants.killed --write` can tell."""
    listed = [line.split("`")[1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    mutants = [name for name in listed if name not in all_laws()]
    assert mutants == [m.name for m in MUTANTS]

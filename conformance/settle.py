"""How a check's outcome ends a test."""

from __future__ import annotations

import pytest

from .outcome import Outcome, Status


class LawBroken(AssertionError):
    """A law does not hold, or a failure that was announced did not come."""


def settle(outcome: Outcome) -> None:
    """End the running test as the outcome says: return, skip, xfail or fail.

    Raises:
        LawBroken: the outcome keeps the adapter from conforming.
    """
    __tracebackhide__ = True
    if outcome.status is Status.NOT_APPLICABLE:
        pytest.skip(outcome.reason)
    if outcome.status is Status.EXPECTED_FAILURE:
        pytest.xfail(outcome.reason)
    if not outcome.status.good:
        raise LawBroken(outcome.describe())

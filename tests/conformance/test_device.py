"""The laws make what they write, and the models' inputs, where the models are.

A machine without an accelerator has one more device: ``meta``, whose tensors have a shape and no values, and which
torch lets nobody mix with tensors of the CPU. What a law would compare there has no values either, and is taken for
the same.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from intervene.conformance import Profile, Status, Subject, generate_checks, run_check

LAWS = ["put_get", "local", "causal", "shaped", "meaning", "implementations"]
COMPONENTS = ["query_rotated", "mlp_activation"]
TWICE = Profile("twice", 2, True)


@pytest.fixture
def _without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    def compare(first: Any, second: Any) -> bool:
        assert first.device == second.device
        return True

    @contextmanager
    def unseeded(seed: int, device: torch.device) -> Iterator[None]:
        yield

    def close(what: str, found: Any, wanted: Any, *args: Any, **more: Any) -> None:
        compare(found, wanted)

    monkeypatch.setattr("intervene.conformance.violation.same", compare)
    monkeypatch.setattr("intervene.conformance.case.seeded", unseeded)
    # transformers asks a mask's values whether it masks anything.
    monkeypatch.setattr("transformers.masking_utils.is_tracing", lambda *tensors: True)
    for law in LAWS:
        module = importlib.import_module(f"intervene.conformance.laws.{law}")
        for name, replacement in {"same": compare, "require_close": close}.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, replacement)


@pytest.mark.usefixtures("_without_values")
def test_nothing_is_left_on_the_cpu() -> None:
    subject = Subject("llama", device="meta")
    checks = list(generate_checks(subject, laws_=LAWS, components=COMPONENTS))
    outcomes = [run_check(check, TWICE) for check in checks]
    ran = [outcome for outcome in outcomes if outcome.status is not Status.NOT_APPLICABLE]
    assert {outcome.law for outcome in ran} == set(LAWS)
    assert [o.describe() for o in ran if o.status is not Status.PASSED] == []


@pytest.mark.usefixtures("_without_values")
def test_what_is_left_on_the_cpu_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other test can fail: it does when the values that laws write aren't made where the model is."""
    monkeypatch.setattr("intervene.conformance.case.Case.random", lambda case, like, scale=1.0: torch.randn(like.shape))
    (check,) = generate_checks(Subject("llama", device="meta"), laws_=["put_get"], components=["mlp_activation"])
    outcome = run_check(check, TWICE)
    assert outcome.status is Status.FAILED
    assert "cpu" in outcome.message

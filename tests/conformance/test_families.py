"""Every family of this project keeps every law, in the ci profile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import intervene
from intervene.conformance import parametrize_with_laws
from intervene.conformance.parametrize import BoundCheck

# Their tests run in processes of their own: tests/families/test_mamba_ssm.py.
ELSEWHERE = {"mamba_ssm"}


def laws_of(family: str) -> Callable[[Callable[..., None]], Any]:
    """A test for each check of a family whose models come from an optional package; one that is skipped without it."""
    adapter = intervene.families()[family]
    if not adapter.available():
        return pytest.mark.skip(reason=f"{adapter.load_spec().library} is not installed")
    return parametrize_with_laws(family)


@parametrize_with_laws("blip")
def test_blip(check: BoundCheck) -> None:
    check()


@parametrize_with_laws("dinov2")
def test_dinov2(check: BoundCheck) -> None:
    check()


@parametrize_with_laws("esm")
def test_esm(check: BoundCheck) -> None:
    check()


@parametrize_with_laws("gpt2")
def test_gpt2(check: BoundCheck) -> None:
    check()


@parametrize_with_laws("llama")
def test_llama(check: BoundCheck) -> None:
    check()


@parametrize_with_laws("mamba")
def test_mamba(check: BoundCheck) -> None:
    check()


@parametrize_with_laws("mamba2")
def test_mamba2(check: BoundCheck) -> None:
    check()


@parametrize_with_laws("mistral")
def test_mistral(check: BoundCheck) -> None:
    check()


@parametrize_with_laws("mixtral")
def test_mixtral(check: BoundCheck) -> None:
    check()


@parametrize_with_laws("opt")
def test_opt(check: BoundCheck) -> None:
    check()


@parametrize_with_laws("pythia")
def test_pythia(check: BoundCheck) -> None:
    check()


@laws_of("timm_vit")
def test_timm_vit(check: BoundCheck) -> None:
    check()


@parametrize_with_laws("vit")
def test_vit(check: BoundCheck) -> None:
    check()


def test_no_family_is_left_out() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    own = {name for name, adapter in intervene.families().items() if adapter.__module__.startswith("intervene.")}
    assert own <= tested | ELSEWHERE, f"without a conformance test: {sorted(own - tested - ELSEWHERE)}"


@pytest.mark.parametrize("family", sorted(intervene.families().keys() - ELSEWHERE))
def test_tiny_models_of_every_class(family: str) -> None:
    """Each class can be made small, seeded, and without touching torch's own random state."""
    import torch

    adapter = intervene.families()[family]
    if not adapter.available():
        pytest.skip(f"{adapter.load_spec().library} is not installed")
    for name in adapter.load_spec().models:
        before = torch.get_rng_state()
        first, second = intervene.tiny(family, name), intervene.tiny(family, name)
        assert type(first).__name__ == name
        assert not first.training
        for a, b in zip(first.parameters(), second.parameters(), strict=True):
            assert torch.equal(a, b)
        assert torch.equal(torch.get_rng_state(), before)

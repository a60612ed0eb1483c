"""mamba_ssm's models keep every law."""

from __future__ import annotations

from intervene.conformance import parametrize_with_laws
from intervene.conformance.parametrize import BoundCheck


@parametrize_with_laws("mamba_ssm")
def test_mamba_ssm(check: BoundCheck) -> None:
    check()

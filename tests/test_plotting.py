"""Every picture is asked for alike."""

from __future__ import annotations

import inspect

import pytest

from intervene import CausalModel
from intervene.steering.strengths import StrengthSweep
from intervene.sweeps.result import SweepResult
from intervene.training.result import FitResult


@pytest.mark.parametrize("kind", [CausalModel, FitResult, StrengthSweep, SweepResult])
def test_axes_come_first_and_a_path_by_name(kind: type) -> None:
    parameters = inspect.signature(kind.plot).parameters  # type: ignore[attr-defined]
    by_position = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert by_position[-1] == "ax"
    assert parameters["ax"].default is None
    assert parameters["path"].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["path"].default is None

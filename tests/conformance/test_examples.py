"""What hypothesis draws for a check: everything that the laws are about, and for each check examples of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from intervene.conformance import Subject, generate_checks, run_check
from intervene.conformance.checks import Check
from intervene.conformance.draw import KINDS, Draw
from intervene.conformance.setting import COLUMNS, ROWS, Setting

Draws = dict[str, list[Any]]


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Draws]:
    """Runs a check in the profile ``ci`` and gives what was drawn in all of its examples, by name."""

    def run(check: Check, seed: int | None = None) -> Draws:
        found: Draws = defaultdict(list)
        drawn = Draw.__call__

        def call(self: Draw, name: str, strategy: Any) -> Any:
            found[name].append(drawn(self, name, strategy))
            return found[name][-1]

        with monkeypatch.context() as patch:
            patch.setattr(Draw, "__call__", call)
            assert run_check(check, seed=seed).status.good
        return found

    return run


def together(found: list[Draws]) -> Draws:
    names = {name for each in found for name in each}
    return {name: [value for each in found for value in each.get(name, ())] for name in names}


def checks(*laws: str, components: tuple[str, ...] = ()) -> list[Check]:
    return list(generate_checks(Subject("gpt2"), laws_=laws, components=components))


def test_a_law_over_a_family_draws_everything(draws: Callable[..., Draws]) -> None:
    found = together([draws(check) for check in checks("put_get")])
    settings: list[Setting] = found["setting"]
    assert {s.model for s in settings} == set(Subject("gpt2").models)
    assert {s.attention for s in settings} == {"eager", "sdpa"}
    assert {s.dtype for s in settings} == {"float32", "bfloat16"}
    for flag in ("training", "grad", "embeds"):
        assert {getattr(s, flag) for s in settings} == {False, True}, flag
    assert {s.rows for s in settings} == set(range(1, ROWS + 1))
    assert {s.columns for s in settings} == set(range(1, COLUMNS + 1))
    assert {s.padding for s in settings} == {"none", "left", "right"}
    assert any(len(set(s.padded)) > 1 for s in settings), "rows padded by different lengths"
    assert set(found["value"]) == set(KINDS)
    assert set(found["layer"]) == {0, 1, 2}
    assert {axis for axes in found["narrowed axes"] for axis in axes} == {"rows", "heads", "positions", "dims"}
    assert set(found["positions by row"]) == {False, True}
    assert {i < 0 for name in ("rows", "heads", "positions", "dims") for one in found[name] for i in one} == {
        False,
        True,
    }


def test_generation_is_tried_padded_and_in_batches(draws: Callable[..., Draws]) -> None:
    found = together([draws(check) for check in checks("generation")])
    settings: list[Setting] = found["setting"]
    assert {s.padding for s in settings} == {"none", "left"}
    assert {s.attention for s in settings} == {"eager", "sdpa"}
    assert max(s.rows for s in settings) == ROWS
    assert any(first < 0 for first, _ in found["counted"])
    assert any(first >= 0 for first, _ in found["counted"])


def test_each_check_has_examples_of_its_own_every_time(draws: Callable[..., Draws]) -> None:
    first, second = checks("shaped", components=("mlp_input", "mlp_output"))
    assert draws(first) == draws(first)
    assert draws(first)["setting"] != draws(second)["setting"]
    assert draws(first, 1) == draws(first, 1)
    assert draws(first, 1) != draws(first)
    assert draws(first, 1)["setting"] != draws(second, 1)["setting"]

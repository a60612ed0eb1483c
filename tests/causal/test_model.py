"""Causal models: running them, interchanging on them, and what they refuse."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import intervene
from intervene import CausalModel, CausalModelError


def hierarchical(values: int = 3, **kwargs: Any) -> CausalModel:
    """Hierarchical equality: (w = x) = (y = z)."""
    inputs = ["W", "X", "Y", "Z"]
    return CausalModel(
        variables=[*inputs, "WX", "YZ", "O"],
        values={**{v: list(range(values)) for v in inputs}, **{v: [True, False] for v in ("WX", "YZ", "O")}},
        parents={**{v: [] for v in inputs}, "WX": ["W", "X"], "YZ": ["Y", "Z"], "O": ["WX", "YZ"]},
        functions={
            **{v: lambda: 0 for v in inputs},
            "WX": lambda w, x: w == x,
            "YZ": lambda y, z: y == z,
            "O": lambda wx, yz: wx == yz,
        },
        **kwargs,
    )


INPUTS = st.fixed_dictionaries({v: st.integers(0, 2) for v in "WXYZ"})


def test_variables_are_sorted_into_time() -> None:
    model = hierarchical()
    assert model.inputs == ["W", "X", "Y", "Z"]
    assert model.intermediates == ["WX", "YZ"]
    assert model.outputs == ["O"]
    assert model.timesteps == {"W": 0, "X": 0, "Y": 0, "Z": 0, "WX": 1, "YZ": 1, "O": 2}
    assert model.children["W"] == ["WX"]
    assert repr(model) == "<CausalModel W, X, Y, Z -> WX, YZ -> O>"


def test_outputs_come_last_in_time() -> None:
    model = CausalModel(
        ["a", "early", "b", "late"],
        {v: [0, 1] for v in ("a", "early", "b", "late")},
        {"a": [], "early": ["a"], "b": ["a"], "late": ["b"]},
        {"a": lambda: 0, "early": lambda a: a, "b": lambda a: a, "late": lambda b: b},
    )
    assert model.timesteps["early"] == model.timesteps["late"] == 2


@given(INPUTS)
def test_it_computes_what_its_functions_say(input: dict[str, int]) -> None:
    run = hierarchical().run_forward(input)
    assert run["O"] == ((input["W"] == input["X"]) == (input["Y"] == input["Z"]))
    assert {v: run[v] for v in "WXYZ"} == input


def test_inputs_that_are_left_out_take_their_default() -> None:
    assert hierarchical().run_forward({"W": 1})["WX"] is False
    assert hierarchical().run_forward()["O"] is True


@given(INPUTS, INPUTS, INPUTS)
def test_an_interchange_takes_each_value_from_its_own_source(base: Any, one: Any, other: Any) -> None:
    model = hierarchical()
    run = model.run_interchange(base, {"WX": one, "YZ": other})
    assert run["WX"] == (one["W"] == one["X"])
    assert run["YZ"] == (other["Y"] == other["Z"])
    assert run["O"] == (run["WX"] == run["YZ"])


@given(INPUTS)
def test_an_interchange_with_itself_changes_nothing(base: Any) -> None:
    model = hierarchical()
    assert model.run_interchange(base, {"WX": base, "YZ": base}) == model.run_forward(base)


def test_a_caller_keeps_what_it_passed() -> None:
    model = hierarchical()
    base, sources = {"W": 1, "X": 1, "Y": 0, "Z": 1}, {"WX": {"W": 0, "X": 1, "Y": 0, "Z": 0}}
    model.run_interchange(base, sources)
    assert base == {"W": 1, "X": 1, "Y": 0, "Z": 1}
    assert sources == {"WX": {"W": 0, "X": 1, "Y": 0, "Z": 0}}
    variables = ["b", "a"]
    CausalModel(variables, {"a": [0], "b": [0]}, {"a": [], "b": ["a"]}, {"a": lambda: 0, "b": lambda a: a})
    assert variables == ["b", "a"]


def test_every_input_is_listed_once() -> None:
    found = list(hierarchical(2).enumerate_inputs())
    assert [tuple(f.values()) for f in found] == list(product([0, 1], repeat=4))


def test_an_added_variable_joins_its_childrens_parents() -> None:
    model = hierarchical(2)
    with pytest.raises(CausalModelError, match="takes"):
        model.add_variable("not O", [True, False], ["WX"], ["O"], lambda wx: not wx)
    assert "not O" not in model.variables  # refused, and left as it was
    model.functions["O"] = lambda wx, yz, extra=False: (wx == yz) != extra
    model.add_variable("flip", [True, False], ["W"], ["O"], lambda w: w == 1)
    assert model.intermediates == ["WX", "YZ", "flip"]
    assert model.run_forward({"W": 1, "X": 1, "Y": 0, "Z": 0})["O"] is False
    with pytest.raises(CausalModelError, match="already"):
        model.add_variable("flip", [True], [], [], lambda: True)


def test_living_paths_are_those_that_a_change_is_felt_along() -> None:
    model = CausalModel(
        ["a", "b", "or"],
        {v: [False, True] for v in ("a", "b", "or")},
        {"a": [], "b": [], "or": ["a", "b"]},
        {"a": lambda: False, "b": lambda: False, "or": lambda a, b: a or b},
    )
    assert model.find_live_paths({"a": True, "b": False}) == {2: [["a", "or"]]}
    assert model.find_live_paths({"a": True, "b": True}) == {}
    assert model.get_specific_path_filter("a", "or")({"a": True, "b": False})
    assert not model.get_specific_path_filter("b", "or")({"a": True, "b": False})
    assert model.get_path_maxlen_filter([2])({"a": True, "b": False})
    assert not model.get_path_maxlen_filter([2])({"a": True, "b": True})
    assert model.get_partial_filter({"a": True})({"a": True, "b": False})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variables": ["a", "b", "a"]}, r"\['a'\] are named twice"),
        ({"variables": []}, "at least one"),
        ({"values": {"a": [0]}}, "values has no entry for b"),
        ({"values": {"a": [0], "b": []}}, "'b' has no values"),
        ({"parents": {"a": [], "b": ["aa"]}}, "'b' has the parent 'aa'.*Did you mean 'a'"),
        ({"parents": {"a": [], "b": ["a", "a"]}}, "parent twice"),
        ({"parents": {"a": ["b"], "b": ["a"]}, "functions": {"a": lambda b: b, "b": lambda a: a}}, "cycle: . -> . -> "),
        ({"functions": {"a": lambda: 0, "b": lambda: 0}}, "function of 'b' takes .*1 parents"),
        ({"functions": {"a": lambda x: 0, "b": lambda a: a}}, "function of 'a' takes .*it is an input"),
        ({"functions": {"a": lambda: 0, "b": 3}}, "can't be called"),
        ({"functions": {"a": lambda: 0, "b": lambda a: a, "c": lambda: 0}}, "names 'c'"),
        ({"timesteps": {"a": 1, "b": 1}}, "'a' is a parent of 'b' and must come before"),
        ({"timesteps": {"a": 1}}, "timesteps has no entry for b"),
    ],
)
def test_what_is_no_causal_model_is_refused(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "variables": ["a", "b"],
        "values": {"a": [0, 1], "b": [0, 1]},
        "parents": {"a": [], "b": ["a"]},
        "functions": {"a": lambda: 0, "b": lambda a: a},
    }
    CausalModel(**good)
    with pytest.raises(CausalModelError, match=message):
        CausalModel(**{**good, **change})


def test_the_cycle_is_named_in_the_arrows_direction() -> None:
    with pytest.raises(CausalModelError, match=r"a -> b -> c -> a|b -> c -> a -> b|c -> a -> b -> c"):
        CausalModel(
            ["a", "b", "c"],
            {v: [0] for v in "abc"},
            {"a": ["c"], "b": ["a"], "c": ["b"]},
            {v: lambda parent: parent for v in "abc"},
        )


def test_unknown_variables_are_named() -> None:
    model = hierarchical()
    for call in (
        lambda: model.run_forward({"WXY": 0}),
        lambda: model.run_interchange({}, {"WXY": {}}),
        lambda: model.find_live_paths({"WXY": 0}),
        lambda: model.sample_input_tree_balanced("WXY", 0),
    ):
        with pytest.raises(CausalModelError, match=r"no variable 'WXY'\. Did you mean 'WX'"):
            call()


def test_the_picture_has_every_variable(tmp_path: Path) -> None:
    model = hierarchical()
    axes = model.plot(model.run_forward({"W": 1}), path=tmp_path / "model.png")
    texts = {t.get_text() for t in axes.texts}
    assert {"W = 1", "WX = False", "O = False"} <= texts
    assert (tmp_path / "model.png").stat().st_size > 1000


def test_it_is_a_public_name() -> None:
    assert intervene.CausalModel is CausalModel

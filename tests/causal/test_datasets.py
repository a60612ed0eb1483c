"""Factual and counterfactual data: what the model says of it, and that draws can be repeated."""

from __future__ import annotations

import random
from typing import Any

import numpy
import pytest
import torch
from torch.utils.data import DataLoader

from intervene import CausalModel, CausalModelError

from .test_model import hierarchical


def test_factual_examples_are_labelled_as_the_model_says() -> None:
    model = hierarchical()
    data = model.generate_factual_dataset(50, seed=0)
    assert len(data) == 50
    for example in data:
        assert example["input_ids"].shape == (4,)
        w, x, y, z = example["input_ids"].tolist()
        assert example["labels"].tolist() == [float((w == x) == (y == z))]


def test_settings_come_back_where_no_tensors_are_wanted() -> None:
    model = hierarchical()
    for example in model.generate_factual_dataset(5, return_tensors=False, seed=0):
        assert example["labels"] == model.run_forward(example["input_ids"])


@pytest.mark.parametrize("balanced", [False, True])
def test_counterfactual_examples_are_labelled_as_the_interchange_says(balanced: bool) -> None:
    model = hierarchical()
    sampler = model.sample_input_tree_balanced if balanced else None
    random.seed(0)
    data = model.generate_counterfactual_dataset(60, batch_size=6, sampler=sampler)
    seen = set()
    for example in data:
        names = {"W": 0, "X": 1, "Y": 2, "Z": 3}
        base = {v: int(example["input_ids"][i]) for v, i in names.items()}
        rows = [{v: int(row[i]) for v, i in names.items()} for row in example["source_input_ids"]]
        identity = int(example["intervention_id"])
        seen.add(identity)
        chosen = [v for bit, v in enumerate(model.intermediates) if identity >> bit & 1]
        run = model.run_interchange(base, dict(zip(chosen, rows, strict=False)))
        assert example["labels"].tolist() == [float(run["O"])]
        assert example["base_labels"].tolist() == [float(model.run_forward(base)["O"])]
        assert example["source_input_ids"].shape == (2, 4)
        assert all(not any(row.values()) for row in rows[len(chosen) :])
    assert seen == {1, 2, 3}
    for start in range(0, 60, 6):
        assert len({int(e["intervention_id"]) for e in data[start : start + 6]}) == 1


def test_a_dataloader_takes_them() -> None:
    data = hierarchical().generate_counterfactual_dataset(8, lambda chosen: len(chosen), 4, seed=1)
    batch = next(iter(DataLoader(data, batch_size=4)))  # type: ignore[arg-type]
    assert batch["source_input_ids"].shape == (4, 2, 4)
    assert batch["intervention_id"].shape == (4, 1)


def test_sources_give_the_sampled_value() -> None:
    model = hierarchical()
    data = model.generate_counterfactual_dataset(
        20, intervention_sampler=lambda: {"WX": True}, return_tensors=False, seed=3
    )
    assert all(e["source_input_ids"][0]["W"] == e["source_input_ids"][0]["X"] for e in data)
    assert all(e["source_input_ids"][1] == {} for e in data)


def test_draws_repeat_with_their_seed_and_with_pythons() -> None:
    model = hierarchical()
    first, second = (model.generate_counterfactual_dataset(10, return_tensors=False, seed=7) for _ in range(2))
    assert first == second
    random.seed(7)
    state = random.getstate()
    model.generate_factual_dataset(10, seed=0)
    assert random.getstate() == state
    one = model.sample_input()
    random.seed(7)
    assert model.sample_input() == one


def test_the_balanced_sampler_makes_rare_values_common() -> None:
    model = hierarchical(20)
    draw = random.Random(0)
    uniform = [model.run_forward(model.sample_input(seed=draw))["WX"] for _ in range(400)]
    balanced = [model.run_forward(model.sample_input_tree_balanced(seed=draw))["WX"] for _ in range(400)]
    assert sum(uniform) < 60
    assert 150 < sum(balanced) < 250


def test_values_may_be_arrays() -> None:
    vectors = [numpy.array([a, b]) for a in (0.0, 1.0) for b in (0.0, 1.0)]
    model = CausalModel(
        ["a", "b", "equal", "out"],
        {"a": vectors, "b": vectors, "equal": [True, False], "out": [True, False]},
        {"a": [], "b": [], "equal": ["a", "b"], "out": ["equal"]},
        {"a": lambda: vectors[0], "b": lambda: vectors[0], "equal": numpy.array_equal, "out": lambda e: not e},
    )
    data = model.generate_counterfactual_dataset(20, sampler=model.sample_input_tree_balanced)
    for example in data:
        source = example["source_input_ids"][0]
        assert example["labels"].item() == float(not torch.equal(source[:2], source[2:]))
    paths = model.find_live_paths({"a": vectors[0], "b": vectors[1]})
    assert paths[3] == [["a", "equal", "out"], ["b", "equal", "out"]]


def test_encoders_of_ones_own_are_used_for_bases_and_sources() -> None:
    model = hierarchical()

    def tokens(setting: Any) -> torch.Tensor:
        return torch.tensor([10 + setting[v] for v in model.inputs])

    data = model.generate_counterfactual_dataset(
        4, input_function=tokens, output_function=lambda run: torch.tensor(int(run["O"])), seed=0
    )
    for example in data:
        assert example["input_ids"].dtype == torch.int64
        assert (example["source_input_ids"][0] >= 10).all()
        assert example["labels"].dim() == 0


def test_filters_choose() -> None:
    model = hierarchical()
    data = model.generate_factual_dataset(10, filter=lambda i: i["W"] == 2, seed=0)
    assert all(e["input_ids"][0] == 2 for e in data)
    chosen = model.generate_counterfactual_dataset(10, filter=lambda i: "WX" not in i, seed=0)
    assert {int(e["intervention_id"]) for e in chosen} == {2}


def test_what_cannot_be_drawn_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intervene.causal.sampling.TRIES", 200)
    model = hierarchical()
    with pytest.raises(CausalModelError, match="none of 200 inputs"):
        model.sample_input(lambda run: False)
    with pytest.raises(CausalModelError, match="filter refused 200 inputs"):
        model.generate_factual_dataset(1, filter=lambda i: False)
    with pytest.raises(CausalModelError, match="sampled inputs makes 'WX' 'maybe'"):
        model.generate_counterfactual_dataset(1, intervention_sampler=lambda: {"WX": "maybe"})
    with pytest.raises(CausalModelError, match="'maybe' is not among the values of 'WX'"):
        model.sample_input_tree_balanced("WX", "maybe")
    with pytest.raises(CausalModelError, match="multiple of batch_size"):
        model.generate_counterfactual_dataset(5, batch_size=2)
    with pytest.raises(CausalModelError, match="no number or array of numbers"):
        model.input_to_tensor({"W": "red", "X": 0, "Y": 0, "Z": 0})
    with pytest.raises(CausalModelError, match="no value for 'X'"):
        model.input_to_tensor({"W": 0})


def test_ways_that_meet_cannot_be_drawn_from_the_output_down() -> None:
    diamond = CausalModel(
        ["a", "b", "c", "out"],
        {v: [0, 1] for v in ("a", "b", "c", "out")},
        {"a": [], "b": ["a"], "c": ["a"], "out": ["b", "c"]},
        {"a": lambda: 0, "b": lambda a: a, "c": lambda a: 1 - a, "out": lambda b, c: b and c},
    )
    with pytest.raises(CausalModelError, match=r"'a' is asked for .* meet there"):
        diamond.sample_input_tree_balanced("out", 1)


def test_a_value_outside_the_domain_is_named() -> None:
    model = CausalModel(
        ["a", "double"],
        {"a": [0, 1], "double": [0, 1]},
        {"a": [], "double": ["a"]},
        {"a": lambda: 0, "double": lambda a: 2 * a},
    )
    with pytest.raises(CausalModelError, match=r"'double' comes out as 2 for \{'a': 1\}"):
        model.generate_equiv_classes()
    with pytest.raises(CausalModelError, match="no variable between"):
        model.sample_intervention()


def test_continuous_values_are_drawn_by_a_function() -> None:
    model = CausalModel(
        ["a", "b", "less", "out"],
        {**{v: lambda draw: draw.uniform(-1, 1) for v in ("a", "b")}, "less": [False, True], "out": [False, True]},
        {"a": [], "b": [], "less": ["a", "b"], "out": ["less"]},
        {"a": lambda: 0.0, "b": lambda: 0.0, "less": lambda a, b: a < b, "out": lambda less: not less},
    )
    assert model.sample_input(seed=0) == model.sample_input(seed=0) != model.sample_input(seed=1)
    for example in model.generate_counterfactual_dataset(10, seed=0):
        a, b = example["source_input_ids"][0].tolist()
        assert example["labels"].item() == float(not a < b)
    with pytest.raises(CausalModelError, match="'a' are drawn by a function"):
        next(model.enumerate_inputs())
    with pytest.raises(CausalModelError, match="can't be listed"):
        model.sample_input_tree_balanced()

"""Runs that begin at their patched column, after the base's cached ones, give the values of whole runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

import intervene
from intervene.sweeps import GaussianNoise, OnAllPositions, Probability, SweepWarning, prefix

from .test_equals_loop import Case, cases

BASE = torch.tensor([[5, 17, 9, 33, 21, 8]])
SOURCE = torch.tensor([[5, 17, 40, 33, 8, 30]])
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "llama": ("llama", {}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mixtral": ("mixtral", {}),
    "opt": ("opt", {}),
    "pythia": ("pythia", {}),
    "pythia, sequential": ("pythia", {"use_parallel_residual": False}),
}


@pytest.fixture(autouse=True, scope="module")
def small_lots_are_worth_it() -> Iterator[None]:
    """Tiny grids would be one lot, which begins at the first column."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix, "_WORTH", 1)
        yield


def columns_of(model: nn.Module, **asked: Any) -> tuple[intervene.SweepResult, list[int]]:
    """A sweep, and how many columns each of its forwards was given."""
    seen: list[int] = []

    def note(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["input_ids"].shape[1])

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        return intervene.sweep(model, progress=False, **asked), seen
    finally:
        handle.remove()


def asked(**more: Any) -> dict[str, Any]:
    return {"base": {"input_ids": BASE}, "source": {"input_ids": SOURCE}, "metric": Probability(7), **more}


def check(model: nn.Module, begins: bool, **more: Any) -> None:
    """A sweep equals the loop, without a warning, and begins later where it should."""
    single = intervene.sweep(model, method="loop", progress=False, **asked(**more))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swept, seen = columns_of(model, **asked(**more))
    assert swept.method == "growing batch"
    torch.testing.assert_close(swept.samples, single.samples, rtol=1e-4, atol=1e-8)
    assert swept.base == pytest.approx(single.base, rel=1e-4)
    assert (min(seen) < BASE.shape[1]) == begins
    assert single.values.std() > 0


@pytest.mark.parametrize("component", ["block_output", "attention_value_output", "head_key_output", "attention_output"])
@pytest.mark.parametrize("name", MODELS)
def test_equals_single_runs(name: str, component: str) -> None:
    family, config = MODELS[name]
    check(intervene.tiny(family, **config), True, component=component)


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_left_padding(name: str) -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    both = {"input_ids": torch.cat([BASE, SOURCE]), "attention_mask": mask}
    other = {"input_ids": torch.cat([SOURCE, BASE]), "attention_mask": mask}
    check(intervene.tiny(name), True, base=both, source=other)


@pytest.mark.parametrize("positions", [[1, 2], [4, 5], [-1]])
def test_noise(positions: list[int]) -> None:
    check(intervene.tiny("gpt2"), True, source=None, noise=GaussianNoise(positions, samples=3))


def test_position_ids_go_by_columns() -> None:
    check(intervene.tiny("gpt2"), True, base={"input_ids": BASE, "position_ids": torch.arange(2, 8)[None]})


def test_patterns_have_all_keys() -> None:
    model = intervene.tiny("gpt2", attn_implementation="eager", initializer_range=0.3)
    check(model, True, component="attention_pattern", axes=("layer", "position"))


def test_chunks_and_chosen_columns() -> None:
    check(intervene.tiny("gpt2"), True, memory=1, positions=[3, 5], layers=[2, 0])


@pytest.mark.parametrize(
    ("family", "config", "more"),
    [
        ("mistral", {"sliding_window": 3}, {}),
        ("mamba", {}, {}),
        ("gpt2", {}, {"axes": ("layer",), "component": "mlp_output"}),
        ("gpt2", {}, {"metric": OnAllPositions(lambda logits: logits.float().softmax(-1)[:, :, 7].sum(-1))}),
        ("gpt2", {}, {"base": {"input_ids": BASE, "attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]])}}),
    ],
    ids=["sliding window", "recurrent state", "whole sequences", "all positions", "right padding"],
)
def test_where_every_column_is_needed(family: str, config: dict[str, Any], more: dict[str, Any]) -> None:
    check(intervene.tiny(family, **config), False, **more)


def test_a_model_that_is_not_causal(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.gpt2 import modeling_gpt2

    # Eager attention without a mask lets every column see all.
    monkeypatch.setattr(modeling_gpt2, "create_causal_mask", lambda **arguments: None)
    model = intervene.tiny("gpt2", attn_implementation="eager", initializer_range=0.3)
    with pytest.warns(SweepWarning, match="computes all columns"):
        swept = intervene.sweep(model, progress=False, **asked())
    single = intervene.sweep(model, method="loop", progress=False, **asked())
    torch.testing.assert_close(swept.values, single.values, rtol=1e-4, atol=1e-8)


def test_lots_are_neighbours_and_complete() -> None:
    adapted = intervene.adapt(intervene.tiny("gpt2"))
    grid = intervene.sweeps.plan.make(adapted, ["mlp_output"], ("layer", "position"), [0, 1, 2], None, [], 8, 1, None)
    found = prefix.lots(grid.cells, 1, 8)
    assert [first for first, _ in found] == [0, 2, 4, 6]
    assert sorted(cell.index for _, lot in found for cell in lot) == list(range(24))
    for first, lot in found:
        assert {p for cell in lot for p in cell.positions or ()} == {first, first + 1}


@given(case=cases())
def test_equals_the_loop_by_hand(case: Case) -> None:
    expected: Tensor = case.oracle()
    torch.testing.assert_close(case.sweep().samples, expected, atol=2e-4, rtol=1e-4)


def peak_bytes(layers: int) -> int:
    """The most bytes that a sweep's tensors take at once, patching the first block of a model of that many layers."""
    from torch.profiler import ProfilerActivity, profile

    model = intervene.tiny("gpt2", n_layer=layers, n_embd=64, n_head=4)
    ids = torch.arange(48)[None] % 40
    sweep: dict[str, Any] = {
        "base": {"input_ids": ids},
        "source": {"input_ids": ids.flip(1)},
        "metric": Probability(7),
        "layers": [0],
        "progress": False,
    }
    intervene.sweep(model, **sweep)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        assert intervene.sweep(model, **sweep).method == "growing batch"
    held = [e.nbytes() for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(held))


def test_memory_does_not_grow_with_the_layers_that_keys_are_handed_to() -> None:
    assert peak_bytes(12) < 1.3 * peak_bytes(2)

"""Mixtral's experts one by one, and the implementations that transformers has of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import intervene
from intervene.errors import ExpertsImplementationError, NeverFiredError, SelectionError

SITES = ("expert_input", "expert_activation", "expert_output")


@pytest.fixture
def model() -> Any:
    return intervene.tiny("mixtral")


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(3, 61, (2, 5), generator=torch.Generator().manual_seed(0))


def chosen(model: Any, layer: int, ids: Tensor) -> Tensor:
    """(tokens, choices): what the router's own module returns."""
    found: list[Tensor] = []
    gate = model.model.layers[layer].mlp.gate
    handle = gate.register_forward_hook(lambda module, args, output: found.append(output[2]))
    model(input_ids=ids)
    handle.remove()
    return found[0]


def test_one_expert_in_the_order_of_the_tokens(model: Any, ids: Tensor) -> None:
    adapted = intervene.adapt(model)
    choices = chosen(model, 1, ids)
    inputs = adapted.read("layer.1.mlp_input", input_ids=ids)["layer.1.mlp_input"].flatten(0, 1)
    experts = model.model.layers[1].mlp.experts
    for expert in choices.unique().tolist():
        sites = [adapted.site(name, 1).at(expert=expert) for name in SITES]
        values = [adapted.read(sites, input_ids=ids)[site] for site in sites]
        sent = inputs[(choices == expert).any(-1)]
        assert torch.equal(values[0], sent)
        gate, up = torch.nn.functional.linear(sent, experts.gate_up_proj[expert]).chunk(2, -1)
        activation = experts.act_fn(gate) * up
        assert torch.allclose(values[1], activation, atol=1e-6)
        assert torch.allclose(values[2], activation @ experts.down_proj[expert].T, atol=1e-6)
        assert str(sites[2]) == f"layer.1.expert_output[expert={expert}]"


def test_without_one_expert(model: Any, ids: Tensor) -> None:
    adapted = intervene.adapt(model)
    choices = chosen(model, 0, ids)
    expert = int(choices[0, 1])
    reads = ["layer.0.expert_output", "layer.0.router_weights"]
    plain = adapted.read(reads, input_ids=ids)
    with adapted.session(
        reads=["layer.0.mlp_output"], writes={adapted.site("expert_output", 0).at(expert=expert): 0.0}
    ) as session:
        model(input_ids=ids)
    kept = (choices != expert).reshape(2, 5, 2, 1)
    wanted = (plain[reads[0]] * plain[reads[1]].unsqueeze(-1) * kept).sum(-2)
    assert torch.allclose(session.values["layer.0.mlp_output"], wanted, atol=1e-6)


def test_writing_back_what_one_expert_computed(model: Any, ids: Tensor) -> None:
    adapted = intervene.adapt(model)
    plain = model(input_ids=ids).logits
    for name in SITES:
        site = adapted.site(name, 0).at(expert=int(chosen(model, 0, ids)[0, 0]))
        value = adapted.read(site, input_ids=ids)[site]
        with adapted.session(writes={site: value}):
            assert torch.equal(model(input_ids=ids).logits, plain)


def test_an_expert_that_no_token_is_sent_to(model: Any) -> None:
    adapted = intervene.adapt(model)
    one = torch.tensor([[7]])
    unused = next(e for e in range(5) if e not in chosen(model, 0, one))
    site = adapted.site("expert_output", 0).at(expert=unused)
    with pytest.raises(NeverFiredError, match=f"output of expert {unused}"), adapted.session(writes={site: 0.0}):
        model(input_ids=one)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_other_implementations(model: Any, ids: Tensor, implementation: str) -> None:
    """Their experts can't be reached and say so; all other sites hold the same values."""
    adapted = intervene.adapt(model)
    others = [s for s in adapted.sites if s.component not in SITES and not s.component.startswith("attention_")]
    wanted = adapted.read(others, input_ids=ids)
    model.set_experts_implementation(implementation)
    for site, value in adapted.read(others, input_ids=ids).items():
        assert torch.allclose(value, wanted[site], atol=1e-5), site
    for name in SITES:
        with pytest.raises(ExpertsImplementationError, match=r"set_experts_implementation\('batched_mm'\)"):
            adapted.read(adapted.site(name, 0), input_ids=ids)


def test_choices_that_make_no_sense(model: Any) -> None:
    adapted = intervene.adapt(model)
    with pytest.raises(SelectionError, match="cannot choose an expert"):
        adapted.site("mlp_output", 0).at(expert=1)
    with pytest.raises(SelectionError, match="choose the expert first"):
        adapted.site("expert_output", 0).at(positions=0).at(expert=1)
    with pytest.raises(SelectionError, match="expert is a count from 0"):
        adapted.site("expert_output", 0).at(expert=-1)

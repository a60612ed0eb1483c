"""Where pyvene means something else by a component's name, its place holds what docs/coming-from-pyvene.md says.

The places are those of the mappings in pyvene 0.1.8.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import intervene


def read(family: str, name: str, *addresses: str) -> list[Tensor]:
    model: Any = intervene.tiny(family, name)
    inputs: Any = intervene.families()[family].example_inputs(model, generator=torch.Generator().manual_seed(0))
    values = intervene.adapt(model).read(list(addresses), **inputs)
    return [values[address] for address in addresses]


@pytest.mark.parametrize(
    ("place", "terms"),
    [
        ("esm.encoder.layer.1.attention.output", ("block_input", "attention_output")),
        ("esm.encoder.layer.1.output.output", ("block_output",)),
        ("esm.encoder.layer.1.attention.input", ("block_input",)),
    ],
)
def test_esm(place: str, terms: tuple[str, ...]) -> None:
    found, *parts = read("esm", "EsmForMaskedLM", place, *(f"layer.1.{term}" for term in terms))
    assert torch.equal(found, torch.stack(parts).sum(0))


@pytest.mark.parametrize(
    ("place", "component"),
    [("attention.output.output", "cross_attention_input"), ("output.output", "block_output")],
)
def test_blip(place: str, component: str) -> None:
    """Behind the residual and its norm."""
    addresses = f"text_encoder.encoder.layer.1.{place}", f"text_encoder.layer.1.{component}"
    found, wanted, added = read("blip", "BlipForQuestionAnswering", *addresses, "text_encoder.layer.1.mlp_output")
    assert torch.equal(found, wanted)
    assert not torch.allclose(found, added)


@pytest.mark.parametrize(("family", "name"), [("llama", "LlamaForCausalLM"), ("mistral", "MistralForCausalLM")])
def test_before_the_gates_product(family: str, name: str) -> None:
    act, ours, up = read(
        family, name, "model.layers.1.mlp.act_fn.output", "layer.1.mlp_activation", "model.layers.1.mlp.up_proj.output"
    )
    assert torch.equal(ours, act * up)

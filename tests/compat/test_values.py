"""This library says what pyvene 0.1.8 said, for every component and intervention type that works there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import intervene as pv

from .recorded import CALLED, REFUSED, close, collected, double_and_add, inputs, load, logits, pca, state, tensors

# pyvene takes the output of LLaMA's activation function, before it meets the up projection, for the MLP's activation.
PLACES = {("llama", "mlp_activation"): "model.layers.0.mlp.act_fn.output"}
# Where pyvene does something else than it is asked for, what it does instead.
INSTEAD = {
    # Without locations it takes no component's part, and of c_attn's output the first features, the queries.
    "gpt2/key_output/VanillaIntervention/whole": ("query_output", "VanillaIntervention"),
    "gpt2/value_output/VanillaIntervention/whole": ("query_output", "VanillaIntervention"),
    # It sees attention's output at a dropout module, whose input is that same output.
    "gpt2/attention_output/SkipIntervention/whole": ("attention_output", "VanillaIntervention"),
}


class BoundlessAtWholeNumbers(pv.BoundlessRotatedSpaceIntervention):
    """With pyvene's mask, in which direction i stands at i and not at i + 1/2."""

    def soft_mask(self) -> Tensor:
        directions = torch.arange(self.rotate_layer.weight.shape[-1])
        inside = torch.sigmoid((self.boundary() - directions) / self.temperature)
        return torch.sigmoid(directions / self.temperature) * inside


def intervention_class(kind: str) -> Any:
    return BoundlessAtWholeNumbers if kind.startswith("Boundless") else getattr(pv, kind)


def representation(case: dict[str, Any], fields: dict[str, Any]) -> pv.RepresentationConfig:
    given = dict(fields)
    kind = given.pop("intervention_type")
    given["component"], kind = INSTEAD.get(case["name"], (given["component"], kind))
    given["component"] = PLACES.get((case["model"], given["component"]), given["component"])
    if "source_representation" in given:
        given["source_representation"] = tensors(case["model"])[f"input.{given['source_representation']}"]
    if kind == "function":
        given["intervention"] = double_and_add
    elif kind == "PCARotatedSpaceIntervention":
        given["intervention"] = pv.PCARotatedSpaceIntervention(**pca(case))
    elif case.get("state"):
        keywords: dict[str, Any] = {n: given[n] for n in ("low_rank_dimension", "subspace_partition") if n in given}
        if "Autoencoder" in kind:
            keywords["use_error_term"] = False
        if kind == "AutoencoderIntervention":
            keywords["latent_dim"] = given["latent_dim"]
        made = intervention_class(kind)(embed_dim=case["width"], **keywords)
        made.load_state_dict(state(case))
        given["intervention"] = made
    else:
        given["intervention_type"] = getattr(pv, kind)
    return pv.RepresentationConfig(**given)


def locations(case: dict[str, Any]) -> Any:
    found = dict(case["unit_locations"]) if "unit_locations" in case else None
    if found is not None and case["name"].endswith("locations/pair"):
        # A pair is a tuple here; pyvene takes a list of two for one too.
        return {"sources->base": tuple(found["sources->base"])}
    return found


@pytest.mark.parametrize("case", CALLED, ids=lambda case: case["name"])
def test_same_as_pyvene(case: dict[str, Any]) -> None:
    model = load(case["model"])
    config = pv.IntervenableConfig(
        [representation(case, fields) for fields in case["representations"]], mode=case.get("mode", "parallel")
    )
    intervenable = pv.IntervenableModel(config, model)
    call: dict[str, Any] = {"base": inputs(case["model"], "base"), "unit_locations": locations(case)}
    if "sources" in case and any(
        p.intervention.needs_source or p.intervention.source_is_input for p in intervenable.places
    ):
        call["sources"] = [inputs(case["model"], name) for name in case["sources"]]
    if "subspaces" in case:
        call["subspaces"] = case["subspaces"]
    if "AutoencoderIntervention/" in case["name"] and "JumpReLU" not in case["name"]:
        # pyvene swaps one latent, the one whose number is the width.
        call["subspaces"] = case["width"]
    if "source_representations" in case:
        given = case["source_representations"]
        call["source_representations"] = [tensors(case["model"])[f"input.{name}"] for name in given.values()]
    with torch.no_grad():
        original, intervened = intervenable(**call)
    close(intervened.logits, logits(case))
    expected = collected(case)
    if expected:
        for found, recorded in zip(original.collected, expected, strict=True):
            close(found, recorded)


def test_the_cases_change_what_the_model_says() -> None:
    unchanged = [
        case["name"]
        for case in CALLED
        if "Collect" not in case["name"] and torch.equal(logits(case), tensors(case["model"])["plain"])
    ]
    assert not unchanged


def test_what_pyvene_refuses_is_known() -> None:
    assert {case["name"].split("/")[1] for case in REFUSED} == {
        "key_output",
        "value_output",
        "attention_output",
        "subspaces",
    }

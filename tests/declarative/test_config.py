"""Configs as objects, dicts, lists and JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import intervene as pv


def test_has_the_fields_and_defaults_that_code_for_pyvene_uses():
    representation = pv.RepresentationConfig()
    assert representation.layer == 0
    assert representation.component == "block_output"
    assert representation.unit == "pos"
    assert representation.max_number_of_units == 1
    for name in (
        "low_rank_dimension",
        "intervention_type",
        "intervention",
        "subspace_partition",
        "group_key",
        "intervention_link_key",
        "moe_key",
        "source_representation",
        "hidden_source_representation",
        "latent_dim",
    ):
        assert getattr(representation, name) is None
    positional = pv.RepresentationConfig(3, "mlp_output", "pos", 1, 2, pv.LowRankRotatedSpaceIntervention)
    assert (positional.layer, positional.low_rank_dimension) == (3, 2)


@pytest.mark.parametrize(
    "component", ["mlp_output", "attention_weight", "transformer.h.0.output", "h[0].mlp.input", "output"]
)
def test_allows_components_aliases_and_paths(component):
    assert pv.RepresentationConfig(component=component).component == component


def test_an_unknown_component_is_told_its_nearest():
    with pytest.raises(pv.UnknownSiteError, match="mlp") as caught:
        pv.RepresentationConfig(component="mlp")
    for name in ("mlp_input", "mlp_activation", "mlp_output"):
        assert name in str(caught.value)
    with pytest.raises(pv.UnknownSiteError, match=r"'transformer\.h\.0\.output' or 'transformer\.h\.0\.input'"):
        pv.RepresentationConfig(component="transformer.h.0")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"unit": "position"}, "'pos'"),
        ({"layer": "1"}, "whole number"),
        ({"intervention_type": pv.VanillaIntervention, "intervention": pv.VanillaIntervention()}, "either"),
        ({"intervention_type": torch.nn.Linear}, "derived from Intervention"),
        ({"intervention_type": "VanilaIntervention"}, "VanillaIntervention"),
        ({"intervention": 3}, "function"),
        ({"component": 3}, "name or a module path"),
        *(
            ({"intervention": pv.LowRankRotatedSpaceIntervention(embed_dim=4, low_rank_dimension=2), **field}, says)
            for field, says in (
                ({"low_rank_dimension": 3}, r"low_rank_dimension is given beside .*Intervention\(low_rank_dimension="),
                ({"latent_dim": 3}, "latent_dim is given beside"),
                ({"subspace_partition": [[0, 1]]}, "subspace_partition is given beside"),
                ({"source_representation": torch.ones(4)}, "source_representation is given beside"),
                ({"hidden_source_representation": True}, "hidden_source_representation is given beside"),
            )
        ),
    ],
)
def test_bad_fields_are_refused(fields, says):
    with pytest.raises(pv.InterveneError, match=says):
        pv.RepresentationConfig(**fields)


def test_fields_beside_an_instance_may_say_what_it_was_made_with():
    source = torch.ones(4)
    made = pv.LowRankRotatedSpaceIntervention(
        embed_dim=4, low_rank_dimension=2, subspace_partition=[(0, 1)], source_representation=source
    )
    pv.RepresentationConfig(
        intervention=made,
        low_rank_dimension=2,
        subspace_partition=[[0, 1]],
        source_representation=source.clone(),
        hidden_source_representation=True,
    )


def test_linked_representations_say_the_same(gpt2):
    first = {"intervention_type": pv.LowRankRotatedSpaceIntervention, "low_rank_dimension": 2}
    link = {"intervention_link_key": "a"}
    with pytest.raises(pv.ConfigError, match="links representations that differ in low_rank_dimension"):
        pv.IntervenableModel([{**first, **link}, {**first, **link, "layer": 1, "low_rank_dimension": 3}], gpt2)
    one, two = pv.IntervenableModel([{**first, **link}, {**first, **link, "layer": 1}], gpt2).places
    assert one.intervention is two.intervention


def test_bad_configs_are_refused():
    cases: list[tuple[Any, str]] = [
        ([{"layer": 1, "componentt": "mlp_output"}], "component"),
        ([3], "RepresentationConfig or a dict"),
        ([], "at least one"),
        ("block_output", "str"),
        ([{"group_key": 0}, {}], "group_key"),
    ]
    for representations, says in cases:
        with pytest.raises(pv.ConfigError, match=says):
            pv.IntervenableConfig(representations)
    with pytest.raises(pv.ConfigError, match="parallel"):
        pv.IntervenableConfig(mode="paralel")  # type: ignore[arg-type]
    with pytest.raises(pv.ConfigError, match="2 entries for 1"):
        pv.IntervenableConfig({}, intervention_types=[pv.VanillaIntervention] * 2)


def test_one_or_several_as_objects_or_dicts_are_the_same():
    first: dict[str, Any] = {"layer": 1, "component": "mlp_output", "intervention_type": pv.ZeroIntervention}
    as_object = pv.RepresentationConfig(**first)
    configs = [pv.IntervenableConfig(given) for given in (first, [first], as_object, [as_object], (as_object,))]
    assert all(config == configs[0] for config in configs)
    model = pv.tiny("gpt2")
    for given in (first, [first], {"representations": [first]}, configs[0]):
        assert list(pv.IntervenableModel(given, model).interventions) == ["layer.1.mlp_output"]


def test_types_come_from_the_representation_then_from_the_config():
    config = pv.IntervenableConfig(
        [{"layer": 0}, {"layer": 1, "intervention_type": pv.ZeroIntervention}], pv.AdditionIntervention
    )
    assert [config.type_of(i) for i in (0, 1)] == [pv.AdditionIntervention, pv.ZeroIntervention]
    config = pv.IntervenableConfig([{"layer": 0}, {"layer": 1}], [pv.ZeroIntervention, pv.VanillaIntervention])
    assert [config.type_of(i) for i in (0, 1)] == [pv.ZeroIntervention, pv.VanillaIntervention]


def test_goes_to_json_and_back():
    config = pv.IntervenableConfig(
        [
            pv.RepresentationConfig(
                layer=-1,
                component="head_value_output",
                unit="h.pos",
                intervention_type=pv.LowRankRotatedSpaceIntervention,
                low_rank_dimension=2,
                subspace_partition=[[0, 1], [1, 2]],
                group_key=0,
                intervention_link_key="tied",
            ),
            pv.RepresentationConfig(
                component="transformer.h.0.mlp.output",
                intervention_type=pv.AdditionIntervention,
                source_representation=torch.linspace(-1, 1, 7, dtype=torch.bfloat16),
                group_key=1,
            ),
        ],
        mode="serial",
        model_type="GPT2LMHeadModel",
    )
    again = pv.IntervenableConfig.from_json(config.to_json())
    assert again == config
    assert json.loads(config.to_json()) == config.to_dict()
    constant = again.representations[1].source_representation
    assert constant is not None
    assert constant.dtype is torch.bfloat16
    assert again != pv.IntervenableConfig(mode="serial")


@pytest.mark.parametrize(
    "instance",
    [
        pv.LowRankRotatedSpaceIntervention(embed_dim=6, low_rank_dimension=2).to(torch.bfloat16),
        pv.AdditionIntervention(source_representation=torch.linspace(0, 1, 6)),
        pv.PCARotatedSpaceIntervention(low_rank_dimension=2).fit(torch.randn(9, 6)),
        pv.BoundlessRotatedSpaceIntervention(embed_dim=6, temperature=3.0),
        pv.VanillaIntervention(),
    ],
    ids=lambda instance: type(instance).__name__,
)
def test_an_instance_goes_to_json_with_what_it_holds(instance):
    again = pv.IntervenableConfig.from_json(pv.IntervenableConfig({"intervention": instance}).to_json())
    made = again.representations[0].intervention
    assert type(made) is type(instance)
    assert made.spec() == instance.spec()
    state, found = instance.state_dict(), made.state_dict()
    assert list(state) == list(found)
    assert all(torch.equal(state[n], found[n]) and state[n].dtype == found[n].dtype for n in state)
    base, source = torch.randn(2, 3, 6), torch.randn(2, 3, 6)
    given = [source] if instance.needs_source else []
    assert torch.equal(made(base, *given), instance(base, *given))


def test_what_an_instance_cannot_be_is_refused():
    instance = pv.LowRankRotatedSpaceIntervention(embed_dim=6, low_rank_dimension=2)
    said = pv.IntervenableConfig({"intervention": instance}).to_dict()
    said["representations"][0]["intervention"]["spec"]["embed_dim"] = 5
    with pytest.raises(pv.ConfigError, match="says of a LowRankRotatedSpaceIntervention doesn't fit it"):
        pv.IntervenableConfig.from_dict(said)
    with pytest.raises(pv.ConfigError, match="derive a class"):
        pv.IntervenableConfig({"intervention": lambda base: base}).to_dict()


@pytest.mark.parametrize(
    ("component", "intervention", "wide", "there"),
    [
        ("block_output", pv.RotatedSpaceIntervention(embed_dim=32), 32, 24),
        ("mlp_activation", pv.VanillaIntervention(embed_dim=24), 24, 96),
        ("head_value_output", pv.CollectIntervention(embed_dim=24), 24, 8),
        ("block_output", pv.AdditionIntervention(source_representation=torch.zeros(3, 32)), 32, 24),
        ("block_output", pv.MeanIntervention().fit(torch.zeros(5, 32)), 32, 24),
        ("transformer.h.0.mlp.c_fc.output", pv.SigmoidMaskIntervention(embed_dim=24), 24, 96),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, pv.Intervention) else None,
)
def test_an_instance_for_another_width_is_refused_where_it_is_built(gpt2, component, intervention, wide, there):
    place = pv.RepresentationConfig(0, component, intervention=intervention)
    says = f"{component}: the {type(intervention).__name__} was made for {wide} features and this model has {there}"
    with pytest.raises(pv.ShapeMismatchError, match=says):
        pv.IntervenableModel(place, gpt2)


def test_linked_places_of_different_width_are_refused(gpt2):
    with pytest.raises(pv.ShapeMismatchError, match=r"layer.0.mlp_activation: .* 24 features and this model has 96"):
        pv.IntervenableModel(
            [
                pv.RepresentationConfig(
                    0, component, intervention_type=pv.RotatedSpaceIntervention, intervention_link_key=0
                )
                for component in ("block_output", "mlp_activation")
            ],
            gpt2,
        )


def test_one_number_or_a_forward_of_ones_own_may_have_any_constant_source(gpt2):
    class Scaled(pv.ConstantSourceIntervention):
        def forward(self, base, source=None, subspaces=None):
            assert self.source_representation is not None
            return base * self.source_representation.mean()

    for instance in (
        pv.AdditionIntervention(source_representation=torch.tensor(1.0)),
        pv.AdditionIntervention(source_representation=torch.ones(1)),
        Scaled(source_representation=torch.ones(7)),
    ):
        intervenable = pv.IntervenableModel(pv.RepresentationConfig(0, intervention=instance), gpt2)
        intervenable({"input_ids": torch.tensor([[1, 2]])})

"""Configs over every family that is installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import intervene as pv
from intervene.declarative.widths import width

from .installed import families, tiny


def drawn(name: str) -> tuple[Any, dict[str, Any]]:
    model = tiny(name)
    made = pv.families()[name].example_inputs(model, 2, 5, torch.Generator().manual_seed(0))
    return model, dict(made)


@pytest.mark.parametrize("name", families())
def test_every_component_can_be_named_and_has_the_width_that_is_said(name: str) -> None:
    model, inputs = drawn(name)
    adapted = pv.adapt(model)
    named = {(site.component, site.tower): site for site in adapted.sites if site.layer in (None, 0)}
    towers = adapted.adapter.load_spec().towers if adapted.adapter is not None else {}
    eager = any("eager" in tower.attention_implementations for tower in towers.values())
    attention = "eager" if eager else None
    for (component, tower), site in named.items():
        if component == "ssm_state":  # flows by in decoding alone
            continue
        spelled = component if tower is None else f"{tower}.{component}"
        collect = pv.RepresentationConfig(component=spelled, intervention_type=pv.CollectIntervention)
        intervenable = pv.IntervenableModel(collect, model, attention=attention)
        with torch.no_grad():
            (_, collected), _ = intervenable(inputs)
        assert list(intervenable.interventions) == [site.address]
        said = width(adapted, site)
        seen = collected[0]
        assert said in (None, seen.shape[-1]), (site.address, said, tuple(seen.shape))


@pytest.mark.parametrize("name", families())
def test_a_swap_changes_what_the_model_says_and_from_itself_does_not(name: str) -> None:
    model, inputs = drawn(name)
    component = next(c for c in ("block_output", "vision.block_output") if _has(model, c))
    other = {n: t.flip(0) if isinstance(t, torch.Tensor) else t for n, t in inputs.items()}
    intervenable = pv.IntervenableModel({"component": component}, model)
    with torch.no_grad():
        plain, same = intervenable(inputs, [inputs], output_original_output=True)
        _, swapped = intervenable(inputs, [other])
    one, two, three = (_first(output) for output in (plain, same, swapped))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def _has(model: Any, component: str) -> bool:
    tower, _, bare = component.rpartition(".")
    return any(s.component == bare and s.tower == (tower or None) for s in pv.adapt(model).sites)


def _first(output: Any) -> torch.Tensor:
    if isinstance(output, torch.Tensor):
        return output
    entries = output.values() if hasattr(output, "values") else output
    return next(t for t in entries if t.is_floating_point())


def test_one_expert_of_a_mixture() -> None:
    model = tiny("mixtral")
    inputs = {"input_ids": torch.arange(3, 23).reshape(2, 10)}
    zero = pv.RepresentationConfig(1, "expert_output", moe_key=2, intervention_type=pv.ZeroIntervention)
    intervenable = pv.IntervenableModel(zero, model)
    assert list(intervenable.interventions) == ["layer.1.expert_output[expert=2]"]
    site = pv.adapt(model)["layer.1.expert_output"].at(expert=2)
    with torch.no_grad(), pv.adapt(model).session(writes={site: 0.0}):
        expected = model(**inputs).logits
    with torch.no_grad():
        original, found = intervenable(inputs, output_original_output=True)
    assert torch.equal(found.logits, expected)
    assert not torch.equal(found.logits, original.logits)
    for component, says in (("mlp_output", "expert"), ("model.layers.0.mlp.output", "module path")):
        with pytest.raises(pv.InterveneError, match=says):
            pv.IntervenableModel({"component": component, "moe_key": 1}, model)


class Recurrent(torch.nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.rnn = torch.nn.LSTM(4, 6, batch_first=True, **options)


@pytest.mark.parametrize(
    ("model", "address"),
    [
        (tiny("gpt2"), "transformer.h.0.output"),
        (tiny("gpt2"), "transformer.h.0.input"),
        (tiny("gpt2"), "transformer.h.0.mlp.output"),
        (tiny("gpt2"), "transformer.h.0.attn.c_attn.output"),
        (tiny("gpt2"), "transformer.h.0.mlp.c_fc.input"),
        (tiny("gpt2"), "transformer.wte.output"),
        (tiny("gpt2"), "transformer.ln_f.output"),
        (tiny("llama"), "model.layers.1.output"),
        (tiny("llama"), "model.layers.1.mlp.down_proj.input"),
    ],
    ids=lambda given: given if isinstance(given, str) else type(given).__name__,
)
def test_a_rotation_by_module_path_finds_its_width(model: Any, address: str) -> None:
    rotation = {"component": address, "intervention_type": pv.RotatedSpaceIntervention}
    intervenable = pv.IntervenableModel(rotation, model)
    seen = pv.adapt(model).read([address], input_ids=torch.tensor([[5, 6, 7, 8]]))[address]
    found: Any = intervenable.interventions[address].intervention
    assert found.embed_dim == seen.shape[-1]


def test_recurrent_widths() -> None:
    for options, output, step in (({}, 6, 6), ({"bidirectional": True}, 12, None), ({"proj_size": 3}, 3, 3)):
        adapted = pv.adapt(Recurrent(**options))
        assert width(adapted, adapted["rnn.output"]) == output
        if step is not None:
            rotation = {"component": "rnn.output", "unit": "t", "intervention_type": pv.RotatedSpaceIntervention}
            made: Any = pv.IntervenableModel(rotation, Recurrent(**options)).places[0].intervention
            assert made.embed_dim == step


def test_a_width_that_nobody_says_is_asked_for() -> None:
    silent = torch.nn.Sequential(torch.nn.ReLU())
    with pytest.raises(pv.InterventionArgumentError, match=r"0\.output: RotatedSpaceIntervention.*embed_dim"):
        pv.IntervenableModel({"component": "0.output", "intervention_type": pv.RotatedSpaceIntervention}, silent)
    pv.IntervenableModel({"component": "0.output", "intervention": pv.RotatedSpaceIntervention(embed_dim=3)}, silent)

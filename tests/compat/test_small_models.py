"""pyvene's MLP and GRU: its arithmetic, its state dicts, and interventions by its component names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import intervene
import intervene.compat.pyvene as pv
from intervene.compat.small_models import GRUModel, MLPConfig

DATA = Path(__file__).parents[1] / "data" / "pyvene"
RECORDED = load_file(DATA / "small_models.safetensors")
CONFIGS = json.loads((DATA / "small_models.json").read_text())


def made(name: str) -> Any:
    """The model that pyvene ran, by its own state dict."""
    if name == "mlp":
        _, tokenizer, model = pv.create_mlp_classifier(MLPConfig(**CONFIGS[name]))
    else:
        _, tokenizer, model = pv.create_gru_classifier(pv.GRUConfig(**CONFIGS[name]))
    assert tokenizer is None
    prefix = f"{name}.weight."
    model.load_state_dict({n.removeprefix(prefix): t for n, t in RECORDED.items() if n.startswith(prefix)})
    return model.eval()


def embeds(name: str, which: str) -> dict[str, torch.Tensor]:
    return {"inputs_embeds": RECORDED[f"{name}.{which}"]}


@pytest.mark.parametrize("name", ["mlp", "gru"])
def test_says_what_pyvenes_says(name: str) -> None:
    logits = made(name)(**embeds(name, "base"))[0]
    torch.testing.assert_close(logits, RECORDED[f"{name}.plain"])


def test_an_mlps_block_is_patched_as_in_pyvene() -> None:
    model = made("mlp")
    for component in ("block_output", "mlp_activation", "block_input"):
        intervenable = pv.IntervenableModel(pv.RepresentationConfig(1, component), model)
        where = {"sources->base": ([[[0]] * 2], [[[0]] * 2])}
        _, found = intervenable(embeds("mlp", "base"), [embeds("mlp", "source")], where)
        torch.testing.assert_close(found[0], RECORDED[f"mlp.{component}"])
        assert list(intervenable.interventions) == [f"layer_1_comp_{component}_unit_pos_nunit_1#0"]


def test_a_grus_step_is_patched_and_with_zeros_elsewhere_as_in_pyvene() -> None:
    model = made("gru")
    base, source = embeds("gru", "base"), embeds("gru", "source")
    for component in ("cell_output", "update_gate_output", "cell_input"):
        swap = pv.RepresentationConfig(0, component, unit="t")
        # pyvene writes zeros at the steps that aren't named.
        zeros = swap._replace(intervention_type=pv.ZeroIntervention)
        where = {"sources->base": ([[[1]], [[0, 1, 3, 4]]], [[[2]], [[0, 1, 3, 4]]])}
        _, found = pv.IntervenableModel([swap, zeros], model)(base, [source, None], where)
        torch.testing.assert_close(found[0], RECORDED[f"gru.{component}"])
        _, alone = pv.IntervenableModel(swap, model)(base, [source], {"sources->base": ([[[1]]], [[[2]]])})
        assert not torch.allclose(alone[0], found[0])
        assert not torch.allclose(alone[0], RECORDED["gru.plain"])


def test_rotations_have_the_models_width() -> None:
    rotation = pv.RepresentationConfig(0, "block_output", intervention_type=pv.RotatedSpaceIntervention)
    (made_here,) = pv.IntervenableModel(rotation, made("mlp")).interventions.values()
    assert made_here.embed_dim == CONFIGS["mlp"]["h_dim"]


def test_a_model_of_ones_own_may_be_mapped() -> None:
    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.floors = torch.nn.ModuleList([torch.nn.Linear(3, 3) for _ in range(2)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for floor in self.floors:
                x = floor(x).relu()
            return x

    pv.type_to_module_mapping[Tower] = {
        "floor_output": ("floors[%s]", "register_forward_hook"),
        "half": ("floors[%s]", "register_forward_hook", (None, 0)),
    }
    try:
        model = Tower()
        zero = pv.RepresentationConfig(1, "floor_output", intervention_type=pv.ZeroIntervention)
        _, found = pv.IntervenableModel(zero, model)(torch.randn(2, 3))
        assert torch.equal(found, torch.zeros(2, 3))
        with pytest.raises(intervene.ConfigError, match="adapter"):
            pv.IntervenableModel(pv.RepresentationConfig(1, "half"), model)
    finally:
        del pv.type_to_module_mapping[Tower]
    with pytest.raises(intervene.UnknownSiteError):
        pv.RepresentationConfig(1, "floor_output")


@pytest.mark.parametrize("problem", ["regression", "single_label_classification", "multi_label_classification", None])
def test_losses(problem: str | None) -> None:
    classes = 1 if problem == "regression" else 3
    config = MLPConfig(n_layer=1, h_dim=4, num_classes=classes, problem_type=problem, pdrop=0.0)
    _, _, model = pv.create_mlp_classifier(config)
    single = problem in ("single_label_classification", None)
    labels = torch.tensor([0, 2]) if single else torch.rand(2, classes)
    loss, logits, states = model(inputs_embeds=torch.randn(2, 1, 4), labels=labels, output_hidden_states=True)
    assert loss.dim() == 0
    assert logits.shape == (2, classes)
    assert len(states) == 2
    named = model(inputs_embeds=torch.randn(2, 1, 4), return_dict=True)
    assert named.loss is None
    with pytest.raises(intervene.ConfigError, match="inputs_embeds"):
        model(input_ids=torch.tensor([[1]]))


def test_tokens_and_language_models() -> None:
    config = pv.GRUConfig(include_emb=True, vocab_size=11, h_dim=4, n_layer=1)
    tokens = torch.tensor([[1, 2, 3]])
    _, _, model = pv.create_gru_lm(config)
    loss, logits, _ = model(tokens, position_ids=torch.arange(3)[None], labels=tokens)
    assert logits.shape == (1, 3, 11)
    assert loss > 0
    assert config.to_dict()["h_dim"] == 4
    _, _, bare = pv.create_gru(config)
    assert isinstance(bare, GRUModel)
    states, last = bare(tokens)
    assert torch.equal(states[:, -1], last)
    again, _ = bare(tokens, hidden_states=last[None])
    assert not torch.equal(again, states)
    classifier = pv.create_gru_classifier(config)[2]
    mask = torch.tensor([[1, 1, 0]])
    assert torch.equal(classifier(tokens, attention_mask=mask)[0], classifier(tokens[:, :2])[0])

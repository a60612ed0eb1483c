"""Code in the way that pyvene's users write it, with nothing changed but the import."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import intervene
import intervene.compat.pyvene as pv


@pytest.fixture
def gpt2() -> Any:
    return intervene.tiny("gpt2", model="GPT2Model", attn_implementation="eager")


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([[5, 17, 9, 33, 21], [7, 3, 40, 2, 11]])}


@pytest.fixture
def other() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([[6, 18, 10, 34, 22], [8, 4, 41, 3, 12]])}


def test_zero_out_a_position_with_a_dict(gpt2, inputs) -> None:
    pv_gpt2 = pv.IntervenableModel(
        {"layer": 0, "component": "mlp_output", "source_representation": torch.zeros(gpt2.config.n_embd)}, model=gpt2
    )
    orig_outputs, intervened_outputs = pv_gpt2(base=inputs, unit_locations={"base": 3}, output_original_output=True)
    changed = (intervened_outputs.last_hidden_state - orig_outputs.last_hidden_state).abs().amax(-1) > 0
    assert changed.tolist() == [[False, False, False, True, True]] * 2


def test_collect_attention_values_of_some_heads(gpt2, inputs) -> None:
    pv_gpt2 = pv.IntervenableModel(
        {
            "layer": 1,
            "component": "head_attention_value_output",
            "unit": "h",
            "intervention_type": pv.CollectIntervention,
        },
        model=gpt2,
    )
    collected = pv_gpt2(base=inputs, unit_locations={"base": [0, 2, 1]})[0][-1][0]
    assert collected.shape == (2, 3, 5, 8)


def test_a_module_by_its_path(gpt2, inputs, other) -> None:
    config = pv.IntervenableConfig([{"component": "h[0].mlp.act.output"}, {"component": "h[1].output"}])
    _, patched = pv.IntervenableModel(config, gpt2)(
        inputs, [other, None], {"sources->base": ([[[3], [3]], None], [[[3], [3]], None])}
    )
    ours = intervene.IntervenableModel({"component": "h.0.mlp.act.output"}, gpt2)
    expected = ours(inputs, [other], unit_locations={"sources->base": 3})[1]
    assert torch.equal(patched.last_hidden_state, expected.last_hidden_state)


def test_a_class_of_ones_own_with_a_constant_in_it(gpt2, inputs) -> None:
    class MultiplierIntervention(pv.ConstantSourceIntervention):
        def __init__(self, embed_dim, **kwargs):
            super().__init__()
            self.register_buffer("mult_value", torch.zeros(embed_dim) + 0.5)

        def forward(self, base, source=None, subspaces=None):
            return base * self.mult_value

        def __str__(self):
            return "MultiplierIntervention()"

    config = pv.IntervenableConfig(
        model_type=type(gpt2),
        representations=[pv.RepresentationConfig(1, "block_output", "pos", 1)],
        intervention_types=MultiplierIntervention,
    )
    _, found = pv.IntervenableModel(config, gpt2)(inputs, unit_locations={"base": [[[1], [2]]]})
    halved = intervene.IntervenableModel({"layer": 1, "intervention": lambda base: base / 2}, gpt2)
    expected = halved(inputs, unit_locations={"base": [[1], [2]]})[1]
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)


def test_the_training_loop_of_boundless_das() -> None:
    model: Any = intervene.tiny("gpt2")
    config = pv.IntervenableConfig(
        model_type=type(model),
        representations=[pv.RepresentationConfig(1, "block_output")],
        intervention_types=pv.BoundlessRotatedSpaceIntervention,
    )
    intervenable = pv.IntervenableModel(config, model)
    intervenable.set_device("cpu")
    intervenable.disable_model_gradients()
    optimizer_params: list[Any] = []
    v: Any
    for _, v in intervenable.interventions.items():
        optimizer_params += [{"params": v.rotate_layer.parameters()}]
        optimizer_params += [{"params": v.intervention_boundaries, "lr": 1e-2}]
    optimizer = torch.optim.Adam(optimizer_params, lr=1e-3)
    schedule = torch.linspace(50.0, 0.1, 4).to(torch.bfloat16)
    intervenable.set_temperature(schedule[0])
    intervenable.model.train()
    before = [p.detach().clone() for p in intervenable.get_trainable_parameters()]
    tokens = torch.randint(3, 61, (4, 5), generator=torch.Generator().manual_seed(0))
    for step in range(3):
        _, counterfactual_outputs = intervenable(
            {"input_ids": tokens}, [{"input_ids": tokens.flip(0)}], {"sources->base": 4}
        )
        loss = torch.nn.functional.cross_entropy(counterfactual_outputs.logits[:, -1], tokens[:, 0])
        for _, v in intervenable.interventions.items():
            loss = loss + 0.1 * v.intervention_boundaries.sum()
        loss.backward()
        optimizer.step()
        intervenable.set_zero_grad()
        intervenable.set_temperature(schedule[step])
    after = intervenable.get_trainable_parameters()
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert intervenable.count_parameters() == sum(p.numel() for p in after)


def test_align_with_the_models_own_loop() -> None:
    model: Any = intervene.tiny("gpt2")
    intervenable = pv.IntervenableModel(
        pv.RepresentationConfig(
            1, "block_output", intervention_type=pv.LowRankRotatedSpaceIntervention, low_rank_dimension=1
        ),
        model,
    )
    tokens = torch.randint(3, 61, (4, 5), generator=torch.Generator().manual_seed(0))
    where = torch.full((4, 1), 4).tolist()
    batch = {
        "input_ids": tokens,
        "source_input_ids": tokens.flip(0),
        "labels": tokens[:, 0],
        "source_0->base.0.pos": where,
        "source_0->base.1.pos": where,
    }

    def compute_loss(logits, labels):
        return torch.nn.functional.cross_entropy(logits[:, -1] if logits.dim() == 3 else logits, labels)

    def compute_metrics(predictions, labels):
        logits = predictions[0]
        last = logits[:, -1] if logits.dim() == 3 else logits
        return (last.argmax(-1) == labels[0]).float().mean().item()

    before = intervenable.get_trainable_parameters()[0].detach().clone()
    intervenable.train_alignment([batch] * 3, compute_loss, compute_metrics, inputs_collator=None, epochs=1, lr=1e-2)
    assert not torch.equal(before, intervenable.get_trainable_parameters()[0])
    intervenable.eval_alignment([batch], compute_metrics, inputs_collator=None)

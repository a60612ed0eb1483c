"""The training loop: what it finds, what it leaves alone, and when it stops."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intervene
from intervene import (
    BoundlessRotatedSpaceIntervention,
    FitResult,
    IntervenableConfig,
    IntervenableModel,
    LowRankRotatedSpaceIntervention,
    RepresentationConfig,
    RotatedSpaceIntervention,
    TrainingError,
    VanillaIntervention,
    evaluate,
    fit,
    train_alignment,
)
from intervene.training import eval_alignment, interchange_accuracy, interchange_loss

from .planted import WIDTH, Planted, batches, intervenable


def rank_one(model: nn.Module) -> IntervenableModel:
    return intervenable(model, LowRankRotatedSpaceIntervention, low_rank_dimension=1)


def direction(found: IntervenableModel) -> Tensor:
    return found.interventions["inside.output"].rotate_layer.weight.detach()[:, 0]


def quietly(found: IntervenableModel, train: Any, **kwargs: Any) -> FitResult:
    return fit(found, train, progress=False, **kwargs)


def test_das_finds_the_direction_that_the_model_reads() -> None:
    torch.manual_seed(0)
    model = Planted()
    found = rank_one(model)
    before = evaluate(found, batches(model, 4, seed=1))
    result = quietly(found, batches(model, 60), validation=batches(model, 4, seed=1), epochs=5, lr=0.03)
    assert before["accuracy"] < 0.9 < 0.97 < result.accuracy
    assert abs(float(direction(found) @ model.direction)) > 0.99
    assert result.steps == 300
    assert [e["step"] for e in result.evaluations] == [60, 120, 180, 240, 300]


def test_the_model_is_left_alone() -> None:
    model = Planted().train()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = copy.deepcopy(model.state_dict())
    quietly(rank_one(model), batches(model, 3))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert model.inside.weight.grad is None
    assert all(p.requires_grad for p in model.parameters())
    assert not model.inside._forward_hooks


def test_embeddings_that_the_caller_hands_in_get_no_gradient() -> None:
    model = Planted()
    base, source, labels = batches(model, 1)[0]
    base.requires_grad_()
    quietly(rank_one(model), [(base, source, labels)])
    assert base.grad is None


def test_iit_trains_the_model_where_it_is_asked_to() -> None:
    torch.manual_seed(0)
    planted = Planted()
    model = copy.deepcopy(planted)
    with torch.no_grad():
        model.head.weight.normal_()
    found = rank_one(model)
    found.enable_model_gradients()
    result = quietly(found, batches(planted, 60), validation=batches(planted, 4, seed=1), epochs=4, lr=0.02)
    assert not torch.equal(model.head.weight, planted.head.weight)
    assert result.accuracy > 0.95


def test_the_best_weights_are_kept_with_those_of_the_model() -> None:
    torch.manual_seed(0)
    model = Planted()
    found = rank_one(model)
    found.enable_model_gradients()
    seen: list[Tensor] = []
    result = quietly(
        found,
        batches(model, 4),
        validation=batches(model, 2, seed=1),
        metric=lambda logits, labels: -len(seen),  # the first evaluation is the best
        evaluate_every=1,
        callback=lambda record: seen.append(model.head.weight.detach().clone()),
        lr=0.1,
    )
    assert result.kept == result.evaluations[0]
    assert torch.equal(model.head.weight, seen[0])
    assert not torch.equal(model.head.weight, seen[-1])


def test_the_rotation_stays_orthogonal() -> None:
    model = Planted()
    found = intervenable(model, RotatedSpaceIntervention, low_rank_dimension=2)
    quietly(found, batches(model, 30), lr=0.1)
    weight = found.interventions["inside.output"].rotate_layer.weight
    torch.testing.assert_close(weight.T @ weight, torch.eye(WIDTH), atol=1e-5, rtol=0)


def test_the_temperature_falls_from_start_to_end() -> None:
    model = Planted()
    found = intervenable(model, BoundlessRotatedSpaceIntervention)
    result = quietly(found, batches(model, 10), temperature=(8.0, 0.5))
    heats = [r["temperature"] for r in result.history]
    assert heats[0] == 8.0
    assert heats[-1] == pytest.approx(0.5)
    assert heats == sorted(heats, reverse=True)
    assert float(found.interventions["inside.output"].get_temperature()) == pytest.approx(0.5)
    assert quietly(found, batches(model, 2)).history[0]["temperature"] == 50.0
    assert quietly(found, batches(model, 2), temperature=lambda done: 2 - done).history[-1]["temperature"] == 1.0
    with pytest.raises(TrainingError, match="no intervention here has a temperature"):
        quietly(rank_one(model), batches(model, 2), temperature=(1.0, 0.1))
    with pytest.raises(TrainingError, match="both above zero"):
        quietly(found, batches(model, 2), temperature=(1.0, 0.0))


def test_a_penalty_counts_and_the_last_weights_are_kept_then() -> None:
    torch.manual_seed(0)
    model = Planted()
    found = intervenable(model, BoundlessRotatedSpaceIntervention)

    def boundary(it: IntervenableModel) -> Tensor:
        return it.interventions["inside.output"].get_boundary_parameters().sum()

    result = quietly(
        found,
        batches(model, 40),
        validation=batches(model, 2, seed=1),
        penalty=lambda it: 100 * boundary(it),
        temperature=(1.0, 0.1),
        lr=0.05,
        evaluate_every=10,
    )
    assert boundary(found).item() < 0.3
    assert result.kept == result.evaluations[-1]


def test_gradients_of_several_batches_are_their_mean() -> None:
    model = Planted()
    data = batches(model, 4, size=8)
    joined = [
        (torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]]), torch.cat([a[2], b[2]]))
        for a, b in zip(data[::2], data[1::2], strict=True)
    ]
    torch.manual_seed(3)
    one = rank_one(model)
    other = rank_one(model)
    other.load_state_dict(one.state_dict())
    result = quietly(one, data, accumulate=2)
    quietly(other, joined)
    assert result.steps == 2
    torch.testing.assert_close(direction(one), direction(other))


def test_schedules_rise_and_fall() -> None:
    model = Planted()
    rates = [r["lr"] for r in quietly(rank_one(model), batches(model, 20), warmup=0.2, lr=1.0).history]
    assert rates.index(max(rates)) == 4
    assert rates[-1] < 0.1
    flat = quietly(rank_one(model), batches(model, 5), warmup=0, schedule="constant", lr=0.5).history
    assert {r["lr"] for r in flat} == {0.5}
    with pytest.raises(TrainingError, match=r"no schedule 'linaer'\. Did you mean 'linear'"):
        quietly(rank_one(model), batches(model, 5), schedule="linaer")
    with pytest.raises(TrainingError, match="warmup is a share"):
        quietly(rank_one(model), batches(model, 5), warmup=10)


def test_an_optimizer_and_scheduler_of_ones_own() -> None:
    model = Planted()
    found = rank_one(model)
    optimizer = torch.optim.SGD(found.get_trainable_parameters(), lr=0.25)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    result = quietly(found, batches(model, 3), optimizer=optimizer, schedule=scheduler)
    assert {r["lr"] for r in result.history} == {0.25}
    made = quietly(rank_one(model), batches(model, 3), optimizer=lambda p: torch.optim.SGD(p, lr=0.1), warmup=0)
    assert made.history[0]["lr"] == 0.1


def test_it_stops_when_nothing_gets_better_or_the_target_is_met() -> None:
    model = Planted()
    data, check = batches(model, 10), batches(model, 1, seed=1)
    found = rank_one(model)
    flat = quietly(found, data, epochs=9, validation=check, metric=lambda a, b: 0.5, patience=2)
    assert (flat.stopped, flat.steps, len(flat.evaluations)) == ("patience", 30, 3)
    met = quietly(found, data, epochs=9, validation=check, metric=lambda a, b: 0.5, target=0.5)
    assert (met.stopped, met.steps) == ("target", 10)
    with pytest.raises(TrainingError, match="pass validation="):
        quietly(found, data, patience=1)


def test_an_interrupted_run_keeps_what_it_reached() -> None:
    model = Planted()

    def interrupt(record: Any) -> None:
        if record["step"] == 3:
            raise KeyboardInterrupt

    result = quietly(rank_one(model), batches(model, 10), callback=interrupt)
    assert (result.stopped, result.steps) == ("interrupted", 3)


def test_data_that_is_streamed_needs_a_number_of_steps() -> None:
    model = Planted()

    def stream() -> Iterator[Any]:
        yield from batches(model, 5)

    with pytest.raises(TrainingError, match="need max_steps="):
        quietly(rank_one(model), stream())
    assert quietly(rank_one(model), stream(), max_steps=4).steps == 4
    with pytest.raises(TrainingError, match="gone through only once"):
        quietly(rank_one(model), stream(), max_steps=6)


def test_bf16_autocast_trains_and_keeps_full_precision_weights() -> None:
    torch.manual_seed(0)
    model = Planted()
    found = rank_one(model)
    dtypes = set()

    def loss(logits: Tensor, labels: Any) -> Tensor:
        dtypes.add(logits.dtype)
        return interchange_loss(logits, labels)

    result = quietly(
        found, batches(model, 60), validation=batches(model, 2, seed=1), epochs=4, lr=0.03, autocast="bf16", loss=loss
    )
    assert dtypes == {torch.bfloat16}
    assert direction(found).dtype == torch.float32
    assert result.accuracy > 0.9
    with pytest.raises(TrainingError, match="autocast is"):
        quietly(found, batches(model, 1), autocast="int4")


def test_what_cannot_be_trained_is_refused() -> None:
    model = Planted()
    data = batches(model, 2)
    with pytest.raises(TrainingError, match=r"nothing to train.*VanillaIntervention"):
        quietly(intervenable(model, VanillaIntervention), data)
    with pytest.raises(TrainingError, match="no batches"):
        quietly(rank_one(model), [])
    with pytest.raises(TrainingError, match="a batch is a mapping with"):
        quietly(rank_one(model), [torch.zeros(2)])
    with pytest.raises(TrainingError, match="no labels"):
        quietly(rank_one(model), [{"base": data[0][0], "sources": [data[0][1]]}])
    with pytest.raises(TrainingError, match="the loss is nan at step 1"):
        quietly(rank_one(model), [(data[0][0] * torch.nan, *data[0][1:])])
    with pytest.raises(TrainingError, match="no batches to evaluate"):
        evaluate(rank_one(model), [])


def test_dropout_that_is_on_is_warned_of() -> None:
    model = nn.Sequential(Planted().inside, nn.Dropout(0.5), nn.Linear(WIDTH, 2))
    place = RepresentationConfig(component="0.output", intervention_type=RotatedSpaceIntervention)
    found = IntervenableModel(IntervenableConfig([place]), model)
    with pytest.warns(UserWarning, match="drops out activations"):
        quietly(found, batches(Planted(), 1))
    assert model.training


def test_the_history_can_be_tabulated_and_drawn(tmp_path: Path) -> None:
    model = Planted()
    result = quietly(rank_one(model), batches(model, 6), validation=batches(model, 1, seed=1), evaluate_every=3)
    frame = result.to_pandas()
    assert list(frame["step"]) == [1, 2, 3, 4, 5, 6]
    assert frame["validation_accuracy"].notna().sum() == 2
    result.plot(path=tmp_path / "fit.png")
    assert (tmp_path / "fit.png").stat().st_size > 1000
    assert "6 steps" in repr(result)
    with pytest.raises(TrainingError, match="no validation data"):
        _ = quietly(rank_one(model), batches(model, 1)).accuracy


def test_pyvenes_signature_does_the_same() -> None:
    model = Planted()
    data = batches(model, 10)
    torch.manual_seed(0)
    one = rank_one(model)
    other = rank_one(model)
    other.load_state_dict(one.state_dict())
    train_alignment(
        one,
        data,
        lambda logits, labels: interchange_loss(logits, labels),
        lambda logits, labels: {"accuracy": interchange_accuracy(logits[0], labels[0])},
        lambda batch: batch,
        epochs=2,
        lr=0.01,
        gradient_accumulation_steps=2,
        progress=False,
    )
    quietly(other, data, epochs=2, lr=0.01, accumulate=2)
    torch.testing.assert_close(direction(one), direction(other))
    metrics = eval_alignment(one, data, lambda logits, labels: interchange_accuracy(logits[0], labels[0]))
    assert metrics["accuracy"] == evaluate(one, data)["accuracy"]
    with pytest.raises(TrainingError, match=r"takes no 'epoch'\. Did you mean 'epochs'"):
        train_alignment(one, data, epoch=3)


def test_a_language_models_last_position_is_what_counts() -> None:
    model = intervene.tiny("gpt2")
    place = RepresentationConfig(
        layer=1, component="block_output", intervention_type=LowRankRotatedSpaceIntervention, low_rank_dimension=2
    )
    found = IntervenableModel(IntervenableConfig([place]), model)
    ids = torch.randint(0, 40, (4, 5), generator=torch.Generator().manual_seed(0))
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "source_input_ids": ids.flip(0)[:, None],
        "source_attention_mask": torch.ones_like(ids)[:, None],
        "labels": torch.tensor([1, 2, 3, 4]),
        "source_0->base.0.pos": torch.full((4, 1), 4),
        "source_0->base.1.pos": torch.full((4, 1), 4),
    }
    losses = [r["loss"] for r in quietly(found, [batch] * 20, lr=0.1).history]
    assert losses[-1] < losses[0]


def test_gradient_checkpointing_trains_alike() -> None:
    still = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    weights = []
    for checkpoint in (False, True):
        model: Any = intervene.tiny("gpt2", **still).train()  # type: ignore[arg-type]
        if checkpoint:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        torch.manual_seed(0)
        place = RepresentationConfig(
            layer=1, component="mlp_output", intervention_type=LowRankRotatedSpaceIntervention, low_rank_dimension=1
        )
        found = IntervenableModel(place, model)
        tokens = torch.arange(20).reshape(4, 5) + 1
        batch = {"input_ids": tokens, "source_input_ids": tokens.flip(0), "labels": tokens[:, 0]}
        quietly(found, [batch], max_steps=3)
        weights.append(found.interventions["layer.1.mlp_output"].rotate_layer.weight.detach().clone())
        assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(weights[0], weights[1])

"""transformers' Trainer trains an alignment."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import intervene
from intervene import IntervenableConfig, IntervenableModel, LowRankRotatedSpaceIntervention, RepresentationConfig
from intervene.training import AlignmentModule

transformers = pytest.importorskip("transformers")


def test_trainer_trains_the_interventions_and_saves_them_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = intervene.tiny("gpt2")
    place = RepresentationConfig(
        layer=1, component="block_output", intervention_type=LowRankRotatedSpaceIntervention, low_rank_dimension=2
    )
    intervenable = IntervenableModel(IntervenableConfig([place]), model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    module = AlignmentModule(intervenable)
    generator = torch.Generator().manual_seed(0)
    data = [
        {
            "input_ids": torch.randint(0, 40, (5,), generator=generator),
            "source_input_ids": torch.randint(0, 40, (5,), generator=generator),
            "labels": torch.tensor(3),
        }
        for _ in range(16)
    ]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        num_train_epochs=10,
        learning_rate=0.05,
        logging_steps=1,
        save_strategy="epoch",
        report_to=[],
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = transformers.Trainer(module, arguments, train_dataset=data)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    weight = intervenable.interventions["layer.1.block_output"].rotate_layer.weight
    torch.testing.assert_close(weight.T @ weight, torch.eye(2), atol=1e-5, rtol=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    # Trainer saves state dicts; ours has the interventions and not the model.
    from safetensors.torch import load_file

    saved = load_file(
        max(tmp_path.glob("checkpoint-*"), key=lambda p: int(p.name.partition("-")[2])) / "model.safetensors"
    )
    assert set(saved) == set(module.state_dict())
    assert all("rotate_layer" in name for name in saved)
    again = AlignmentModule(IntervenableModel(IntervenableConfig([place]), model))
    again.load_state_dict(saved)
    assert torch.equal(again.intervenable.interventions["layer.1.block_output"].rotate_layer.weight, weight)


def test_trainer_takes_calls_and_accumulates_means(tmp_path: Path) -> None:
    """Batches that say base, sources and labels; two halves accumulated make the step that the whole batch makes."""
    model = intervene.tiny("gpt2")
    place = RepresentationConfig(
        layer=1, component="block_output", intervention_type=LowRankRotatedSpaceIntervention, low_rank_dimension=2
    )
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 40, (2, 4, 5), generator=generator)
    data = [{"base": base, "source": source, "labels": torch.tensor(3)} for base, source in zip(*ids, strict=True)]

    def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, object]:
        base, source, labels = (torch.stack([row[name] for row in rows]) for name in ("base", "source", "labels"))
        return {"base": {"input_ids": base}, "sources": [{"input_ids": source}], "labels": labels}

    def trained(size: int, accumulated: int) -> torch.Tensor:
        torch.manual_seed(0)
        module = AlignmentModule(IntervenableModel(IntervenableConfig([place]), model))
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
            max_steps=1,
            learning_rate=1.0,
            optim="sgd",
            max_grad_norm=0.0,
            save_strategy="no",
            report_to=[],
            remove_unused_columns=False,
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = transformers.Trainer(module, arguments, train_dataset=data, eval_dataset=data, data_collator=collate)
        trainer.train()
        batch = collate(data)
        with torch.no_grad():
            assert trainer.evaluate()["eval_loss"] == pytest.approx(float(module(**batch)["loss"]), rel=1e-5)
        return next(module.parameters()).detach()

    torch.testing.assert_close(trained(2, 2), trained(4, 1))

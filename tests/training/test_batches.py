"""Batches as calls, losses and accuracies of every shape of labels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from intervene import TrainingError
from intervene.training import Call, call_of, interchange_accuracy, interchange_loss, logits_of


def test_tuples_stand_for_base_source_and_labels() -> None:
    ids, floats = torch.tensor([[1, 2]]), torch.zeros(1, 2)
    call = call_of((ids, ids + 1, torch.tensor([0])))
    assert torch.equal(call.base["input_ids"], ids)
    assert torch.equal(call.sources[0]["input_ids"], ids + 1)
    several = call_of((floats, [floats, floats + 1], torch.tensor([0])))
    assert several.base is floats
    assert len(several.sources) == 2


def test_mappings_are_read_by_their_names() -> None:
    ids = torch.zeros(2, 3, dtype=torch.long)
    two = call_of({"input_ids": ids, "source_input_ids": torch.stack([ids, ids + 1], 1), "labels": ids[:, 0]})
    assert [int(s["input_ids"][0, 0]) for s in two.sources] == [0, 1]
    located = call_of(
        {
            "input_ids": ids,
            "source_input_ids": ids,
            "labels": ids[:, 0],
            "source_0->base.0.h": [[1], [1]],
            "source_0->base.0.pos": torch.tensor([[0], [1]]),
            "source_0->base.1.h": [[1], [1]],
            "source_0->base.1.pos": [[2], [2]],
        }
    )
    assert located.unit_locations == {"source_0->base": ([[[[1], [1]], [[0], [1]]]], [[[[1], [1]], [[2], [2]]]])}
    given = call_of({"base": ids, "sources": [None], "labels": ids, "subspaces": [[0]]})
    assert given.subspaces == [[0]]
    with pytest.raises(TrainingError, match="a batch with 'base' has no 'source'"):
        call_of({"base": ids, "source": ids})


def test_moving_a_call_leaves_what_was_handed_in() -> None:
    base = {"input_ids": torch.zeros(1, 2)}
    call = Call(base, [base, None], torch.zeros(1), {"base": 0})
    moved = call.to(torch.device("meta"))
    assert moved.base["input_ids"].device.type == "meta"
    assert moved.sources[0]["input_ids"].device.type == "meta"
    assert moved.sources[1] is None
    assert moved.unit_locations == {"base": 0}
    assert base["input_ids"].device.type == "cpu"


def test_logits_are_found_in_outputs_of_every_kind() -> None:
    logits = torch.zeros(1, 2)
    for output in (logits, SimpleNamespace(logits=logits), {"logits": logits}, (logits, 1)):
        assert logits_of(output) is logits
    with pytest.raises(TrainingError, match="has no logits"):
        logits_of(SimpleNamespace())


@pytest.mark.parametrize(
    ("logits", "labels", "accuracy"),
    [
        ([[0.0, 1.0], [1.0, 0.0]], [1, 1], 0.5),
        ([[0.0, 1.0], [1.0, 0.0]], [[1.0], [0.0]], 1.0),
        ([[[9.0, 0.0], [0.0, 1.0]], [[9.0, 0.0], [0.0, 1.0]]], [1, 0], 0.5),
        ([[[0.0, 1.0], [9.0, 0.0], [9.0, 0.0]]], [[-100, 1, -100]], 1.0),
    ],
)
def test_accuracy_is_how_often_the_label_comes_out(logits: Any, labels: Any, accuracy: float) -> None:
    assert interchange_accuracy(torch.tensor(logits), torch.tensor(labels)) == accuracy
    assert interchange_loss(torch.tensor(logits), torch.tensor(labels)) >= 0


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ((2, 3), [0.5, 1.0], "whole numbers"),
        ((2, 3), [0, 3], "between 0 and 3, and there are 3 classes"),
        ((2, 3), [0, 1, 2], r"logits \(2, 3\) and labels \(3,\) don't go together"),
        ((2, 4, 3), [[0], [0], [1]], "don't go together"),
    ],
)
def test_labels_that_cannot_be_are_named(logits: Any, labels: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        interchange_loss(torch.zeros(logits), torch.tensor(labels))

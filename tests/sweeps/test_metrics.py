"""Metrics: what they say about logits, and which logits they get to see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import intervene
from intervene import SweepError
from intervene.sweeps import KLDivergence, LogitDifference, LogProbability, Metric, OnAllPositions, Probability
from intervene.sweeps.metrics import describe, measure

LOGITS = torch.tensor([[0.0, 1.0, 2.0], [3.0, 3.0, 3.0]])
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


@pytest.fixture(scope="module")
def model() -> Any:
    return intervene.tiny("gpt2", initializer_range=0.3)


def sweep(model: Any, metric: Metric, base: dict[str, Tensor] | None = None, **options: Any) -> intervene.SweepResult:
    base = {"input_ids": IDS} if base is None else base
    options = {"source": {"input_ids": IDS + 20}, "layers": [1], "positions": [2], "progress": False, **options}
    return intervene.sweep(model, base=base, metric=metric, **options)


def test_probability() -> None:
    expected = LOGITS.exp() / LOGITS.exp().sum(-1, keepdim=True)
    assert measure(Probability(2), LOGITS).tolist() == pytest.approx(expected[:, 2].tolist())
    assert measure(Probability(torch.tensor([0, 2])), LOGITS).tolist() == pytest.approx(
        [float(expected[0, 0]), float(expected[1, 2])]
    )


def test_log_probability_is_the_logarithm() -> None:
    assert measure(LogProbability(1), LOGITS).tolist() == pytest.approx(measure(Probability(1), LOGITS).log().tolist())


def test_logit_difference() -> None:
    assert measure(LogitDifference(2, 0), LOGITS).tolist() == [2.0, 0.0]
    assert measure(LogitDifference(torch.tensor([2, 1]), torch.tensor([1, 2])), LOGITS).tolist() == [1.0, 0.0]


def test_kl_divergence() -> None:
    reference = torch.tensor([1.0, 0.0, 0.5])
    p, q = reference.softmax(-1), LOGITS.softmax(-1)
    expected = (p * (p / q).log()).sum(-1)
    assert measure(KLDivergence(reference), LOGITS).tolist() == pytest.approx(expected.tolist())
    assert measure(KLDivergence(LOGITS), LOGITS).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    with pytest.raises(SweepError, match="needs a reference"):
        KLDivergence()(LOGITS)


def test_low_precision_logits_are_measured_in_float32() -> None:
    found = measure(Probability(2), LOGITS.bfloat16())
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(measure(Probability(2), LOGITS).tolist())


@pytest.mark.parametrize("token", [-1, 3])
def test_token_outside_the_vocabulary(token: int) -> None:
    with pytest.raises(SweepError, match=r"vocabulary of 3 \(0 to 2\)"):
        measure(Probability(token), LOGITS)


def test_a_number_counts_for_every_example() -> None:
    assert measure(lambda logits: 2.5, LOGITS).tolist() == [2.5, 2.5]
    assert measure(lambda logits: logits.sum(), LOGITS).tolist() == [12.0, 12.0]


def test_wrong_shape() -> None:
    def broken(logits: Tensor) -> Tensor:
        return logits

    with pytest.raises(SweepError, match=r"metric broken gave shape \(2, 3\) for logits \(2, 3\).*the 2 examples"):
        measure(broken, LOGITS)


def test_names() -> None:
    assert [describe(m) for m in (Probability(1), LogProbability(1), LogitDifference(1, 2), KLDivergence())] == [
        "probability",
        "log probability (nats)",
        "logit difference",
        "KL divergence (nats)",
    ]
    assert describe(OnAllPositions(Probability(1))) == "probability"
    assert describe(torch.sum) == "sum"


def test_a_metric_sees_the_last_position(model: Any) -> None:
    seen: list[tuple[int, ...]] = []

    def last(logits: Tensor) -> Tensor:
        seen.append(tuple(logits.shape))
        return logits[:, 7]

    result = sweep(model, last)
    with torch.no_grad():
        expected = model(input_ids=IDS).logits[:, -1, 7]
    assert set(seen) == {(2, 61)}
    assert result.base == pytest.approx(float(expected.mean()), abs=1e-5)
    assert result.metric == "last"


def test_padded_rows_are_measured_at_their_own_last_position(model: Any) -> None:
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    result = sweep(model, lambda logits: logits[:, 7], {"input_ids": IDS, "attention_mask": mask})
    with torch.no_grad():
        logits = model(input_ids=IDS, attention_mask=mask).logits
    assert result.base == pytest.approx(float((logits[0, 1, 7] + logits[1, 2, 7]) / 2), abs=1e-5)


def test_on_all_positions(model: Any) -> None:
    seen: list[tuple[int, ...]] = []

    def mean_at_all(logits: Tensor) -> Tensor:
        seen.append(tuple(logits.shape))
        return logits[..., 7].mean(1)

    result = sweep(model, OnAllPositions(mean_at_all))
    with torch.no_grad():
        expected = model(input_ids=IDS).logits[..., 7].mean()
    assert set(seen) == {(2, 4, 61)}
    assert result.base == pytest.approx(float(expected), abs=1e-5)
    assert result.metric == "mean_at_all"


def test_kl_is_measured_from_the_source_run(model: Any) -> None:
    every = sweep(model, KLDivergence(), layers=[2], positions=None, axes=("layer",))
    assert every.source == pytest.approx(0.0, abs=1e-6)
    assert every.base > 0.01
    # All of the last layer's output taken from the source is the source run.
    assert every.values.tolist() == pytest.approx([0.0], abs=1e-6)


def test_kl_from_logits_that_were_given(model: Any) -> None:
    with torch.no_grad():
        reference = model(input_ids=IDS).logits[:, -1]
    result = sweep(model, KLDivergence(reference))
    assert result.base == pytest.approx(0.0, abs=1e-6)
    assert result.source is not None
    assert result.source > 0.01


def test_kl_without_a_source_run(model: Any) -> None:
    with pytest.raises(SweepError, match="no source run"):
        sweep(model, KLDivergence(), source=0.0)


def test_a_metric_of_the_wrong_shape_in_a_sweep(model: Any) -> None:
    with pytest.raises(SweepError, match="it must give a number"):
        sweep(model, lambda logits: logits[:, :2])

"""Directions, probes, ablations and strength sweeps, against the same done by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import intervene
from intervene.errors import ShapeMismatchError
from intervene.steering import (
    ablate,
    ablation_writes,
    difference_of_means,
    last_positions,
    probe_heads,
    sweep_strengths,
)


@pytest.fixture(scope="module")
def model() -> Any:
    return intervene.tiny("gpt2")


@pytest.fixture(scope="module")
def adapted(model: Any) -> intervene.Adapted:
    return intervene.adapt(model)


def tokens(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randint(3, 61, (rows, columns), generator=torch.Generator().manual_seed(seed))


def padded(side: str) -> dict[str, Any]:
    ids, mask = tokens(3, 5, 1), torch.ones(3, 5, dtype=torch.long)
    if side == "right":
        mask[0, 3:] = mask[2, 4:] = 0
    elif side == "left":
        mask[0, :2] = mask[2, :1] = 0
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


@pytest.mark.parametrize(
    ("side", "last"), [("right", [[2], [4], [3]]), ("left", [[4], [4], [4]]), ("none", [[4], [4], [4]])]
)
def test_the_last_real_token(side: str, last: list[list[int]]) -> None:
    assert last_positions(padded(side)).tolist() == last
    assert last_positions({"input_ids": tokens(2, 3, 0)}).tolist() == [[2], [2]]


def test_a_row_of_padding_alone() -> None:
    with pytest.raises(ShapeMismatchError, match=r"rows \[1\] have no real token"):
        last_positions({"input_ids": tokens(2, 3, 0), "attention_mask": torch.tensor([[1, 1, 0], [0, 0, 0]])})


@pytest.mark.parametrize("component", ["block_output", "head_attention_value_output"])
def test_difference_of_means(adapted: intervene.Adapted, component: str) -> None:
    site = adapted.site(component, 1)
    positive, negative = padded("right"), {"input_ids": tokens(4, 6, 2)}
    found = difference_of_means(adapted, [site], positive, negative)[site]
    rows = []
    for inputs in (positive, negative):
        value = adapted.read(site, **inputs)[site]
        last = last_positions(inputs).flatten().tolist()
        rows.append(torch.stack([value[row, ..., column, :] for row, column in enumerate(last)]).mean(0))
    assert torch.allclose(found, rows[0] - rows[1], atol=1e-6)
    assert found.shape == value.shape[1:-2] + value.shape[-1:]


def test_ablate() -> None:
    generator = torch.Generator().manual_seed(0)
    direction, x = (torch.randn(n, generator=generator, dtype=torch.float64) for n in ((6,), (2, 3, 6)))
    write = ablate(direction)
    once = write(x)
    assert torch.allclose(once @ direction, torch.zeros(2, 3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(write(once), once, atol=1e-6)
    across = x - once
    assert torch.allclose(across, (across @ direction / direction.norm()).unsqueeze(-1) * direction / direction.norm())
    assert torch.allclose(ablate(3 * direction)(x), once, atol=1e-6)


@pytest.mark.parametrize("direction", [torch.zeros(4), torch.randn(2, 4), torch.tensor(1.0)])
def test_what_is_no_direction(direction: Tensor) -> None:
    with pytest.raises(ValueError, match="one vector that isn't zero"):
        ablate(direction)


def test_a_direction_of_another_width(adapted: intervene.Adapted, model: Any) -> None:
    writes = ablation_writes(adapted, torch.ones(5))
    message = "the direction has 5 features, the activation 24"
    with pytest.raises(ShapeMismatchError, match=message), adapted.session(writes=writes):
        model(input_ids=tokens(1, 3, 0))


def test_an_ablated_direction_is_gone_from_every_layer(adapted: intervene.Adapted, model: Any) -> None:
    direction, ids = torch.randn(24, generator=torch.Generator().manual_seed(1)), tokens(2, 4, 3)
    outputs = adapted.sites.filter(component="block_output")
    assert adapted.read(outputs, input_ids=ids)[outputs[2]].matmul(direction).abs().max() > 0.1
    with adapted.session(reads=outputs, writes=ablation_writes(adapted, direction)) as session:
        model(input_ids=ids)
    for site in outputs:
        assert session.values[site].matmul(direction).abs().max() < 1e-4


def labelled(adapted: intervene.Adapted, layer: int, head: int) -> tuple[dict[str, Any], Tensor]:
    """Inputs, and labels that one head's first feature decides."""
    inputs: dict[str, Any] = {"input_ids": tokens(120, 4, 5)}
    site = adapted.site("head_attention_value_output", layer)
    feature = adapted.read(site, **inputs)[site][:, head, -1, 0]
    return inputs, (feature > feature.median()).long()


def test_probes_find_the_head_that_knows(adapted: intervene.Adapted) -> None:
    inputs, labels = labelled(adapted, 1, 2)
    probes = probe_heads(adapted, inputs, labels)
    assert probes.accuracy.shape == (3, 3)
    assert probes.best(1) == [(1, 2)]
    assert probes.accuracy[1, 2] >= 0.9
    assert torch.allclose(probes.directions.norm(dim=-1), torch.ones(3, 3))
    site = adapted.site("head_attention_value_output", 1)
    values = adapted.read(site, **inputs)[site][:, 2, -1]
    mean = values[labels == 1].mean(0) - values[labels == 0].mean(0)
    assert torch.allclose(probes.directions[1, 2], mean / mean.norm(), atol=1e-5)
    assert torch.allclose(probes.spread[1, 2], (values @ mean / mean.norm()).std(), atol=1e-5)


def test_shifts_move_the_best_heads_alone(adapted: intervene.Adapted, model: Any) -> None:
    inputs, labels = labelled(adapted, 1, 2)
    probes = probe_heads(adapted, inputs, labels)
    site = adapted.site("head_attention_value_output", 1)
    plain = adapted.read(site, **inputs)[site]
    with adapted.session(reads=[site], writes=probes.shifts(1, 2.0)) as session:
        model(**inputs)
    moved = session.values[site] - plain
    assert torch.allclose(
        moved[:, 2], (2.0 * probes.spread[1, 2] * probes.directions[1, 2]).expand(120, 4, -1), atol=1e-5
    )
    assert torch.equal(moved[:, :2], torch.zeros_like(moved[:, :2]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(120), "four or more of each"),
        (torch.arange(120), "a vector of 0 and 1"),
        (torch.tensor([0, 1] * 5), "10 labels for 120 rows"),
    ],
)
def test_labels_that_are_none(adapted: intervene.Adapted, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probe_heads(adapted, {"input_ids": tokens(120, 4, 5)}, labels)


def test_what_has_no_heads(adapted: intervene.Adapted) -> None:
    with pytest.raises(ValueError, match="block_output has no heads"):
        probe_heads(adapted, {"input_ids": tokens(10, 4, 5)}, torch.tensor([0, 1] * 5), component="block_output")
    probes = probe_heads(adapted, *labelled(adapted, 0, 0))
    with pytest.raises(ValueError, match="there are 9 heads"):
        probes.best(10)


def test_strengths(adapted: intervene.Adapted, model: Any, tmp_path: Any) -> None:
    ids, vector = tokens(3, 4, 7), torch.randn(24, generator=torch.Generator().manual_seed(2))
    site = adapted.site("block_output", 2)

    def metric(output: Any) -> Tensor:
        found: Tensor = output.logits[:, -1, 7]
        return found

    sweep = sweep_strengths(
        adapted,
        {"input_ids": ids},
        lambda s: {site: lambda part: part + s * vector},
        [0.0, 2.0, -1.0],
        {"token 7": metric},
    )
    with torch.no_grad():
        assert torch.equal(sweep.values["token 7"][0], metric(model(input_ids=ids)).mean())
        with adapted.session(writes={site: lambda part: part - vector}):
            assert torch.equal(sweep.values["token 7"][2], metric(model(input_ids=ids)).mean())
    axes = sweep.plot(path=tmp_path / "strengths.png", title="toward token 7")
    assert axes.get_legend_handles_labels()[1] == ["token 7"]
    assert (tmp_path / "strengths.png").stat().st_size > 1000
    assert sweep.plot(axes) is axes
    assert axes.get_title() == "toward token 7"

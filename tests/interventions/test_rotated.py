"""Learned rotations: orthogonal through training, exact at the ends of their masks, the formula they claim."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import intervene as pv
from intervene.errors import InterventionArgumentError, ShapeMismatchError

from .kinds import close

ROTATED = {
    "rotated": lambda n: pv.RotatedSpaceIntervention(embed_dim=n),
    "low-rank": lambda n: pv.LowRankRotatedSpaceIntervention(embed_dim=n, low_rank_dimension=(n + 1) // 2),
    "boundless": lambda n: pv.BoundlessRotatedSpaceIntervention(embed_dim=n),
    "mask-rotated": lambda n: pv.SigmoidMaskRotatedSpaceIntervention(embed_dim=n),
}


def pair(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


@pytest.mark.parametrize("name", ROTATED)
@pytest.mark.parametrize(("optimizer", "rate"), [(torch.optim.Adam, 0.3), (torch.optim.SGD, 3.0)])
def test_it_stays_orthogonal_while_it_is_trained(name: str, optimizer: Any, rate: float) -> None:
    torch.manual_seed(0)
    intervention = ROTATED[name](6)
    if isinstance(intervention, pv.TemperedIntervention):
        intervention.set_temperature(0.5)
    if isinstance(intervention, pv.SigmoidMaskRotatedSpaceIntervention):
        torch.nn.init.normal_(intervention.masks)
    before = intervention.rotate_layer.weight.detach().clone()
    steps = optimizer(intervention.parameters(), lr=rate)
    base, source = pair(8, 3, 6)
    for _ in range(20):
        steps.zero_grad()
        (intervention(base, source) - base.flip(-1)).square().mean().backward()
        steps.step()
    weight = intervention.rotate_layer.weight
    torch.testing.assert_close(weight.T @ weight, torch.eye(weight.shape[1]), rtol=0, atol=1e-6)
    if name != "rotated":  # a full swap is the source whatever the rotation: nothing to learn
        assert (weight - before).abs().max() > 0.05


@pytest.mark.parametrize("name", ROTATED)
def test_trained_weights_survive_saving(name: str) -> None:
    torch.manual_seed(1)
    intervention = ROTATED[name](5)
    base, source = pair(4, 5)
    steps = torch.optim.Adam(intervention.parameters(), lr=0.1)
    for _ in range(3):
        steps.zero_grad()
        (intervention(base, source) * base.flip(0)).sum().backward()
        steps.step()
    again = type(intervention)(**intervention.spec())
    again.load_state_dict(intervention.state_dict())
    assert torch.equal(again.rotate_layer.weight, intervention.rotate_layer.weight)
    assert torch.equal(again(base, source), intervention(base, source))


@given(st.integers(1, 7), st.integers(0, 99))
def test_a_full_rotation_gives_the_source(width: int, seed: int) -> None:
    base, source = pair(3, 2, width, seed=seed)
    close(pv.RotatedSpaceIntervention(embed_dim=width)(base, source), source)


@given(st.integers(2, 7), st.data())
def test_the_first_k_directions_are_swapped(width: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, width))
    base, source = pair(3, width, seed=data.draw(st.integers(0, 99)))
    rotated = pv.RotatedSpaceIntervention(embed_dim=width, low_rank_dimension=rank)
    rotation = rotated.rotate_layer.weight
    features = base @ rotation
    features[:, :rank] = (source @ rotation)[:, :rank]
    close(rotated(base, source), features @ rotation.T)


def test_gradients_are_those_of_the_formula() -> None:
    base, source = pair(4, 6)
    intervention = pv.LowRankRotatedSpaceIntervention(embed_dim=6, low_rank_dimension=2)
    original = next(intervention.parameters())
    target = base.flip(0)
    (intervention(base, source) * target).sum().backward()
    found, original.grad = original.grad, None
    weight = intervention.rotate_layer.weight
    ((base + (source - base) @ weight @ weight.T) * target).sum().backward()
    assert found is not None
    torch.testing.assert_close(found, original.grad)


@given(st.integers(1, 8), st.data())
def test_a_cold_boundary_swaps_exactly_its_share(width: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, width))
    boundless = pv.BoundlessRotatedSpaceIntervention(embed_dim=width)
    boundless.set_intervention_boundaries(count / width)
    boundless.set_temperature(1e-4)
    assert torch.equal(boundless.soft_mask(), (torch.arange(width) < count).float())
    assert boundless.boundary().item() == pytest.approx(count)
    base, source = pair(2, width)
    rotation = boundless.rotate_layer.weight[:, :count]
    close(boundless(base, source), base + (source - base) @ rotation @ rotation.T)
    if count == 0:
        assert torch.equal(boundless(base, source), base)


@given(st.integers(1, 6))
def test_masks_at_0_and_1_are_base_and_source(width: int) -> None:
    base, source = pair(2, 3, width)
    neurons = pv.SigmoidMaskIntervention(embed_dim=width)
    rotated = pv.SigmoidMaskRotatedSpaceIntervention(embed_dim=width, temperature=0.01)
    for value, wanted in ((-100.0, base), (100.0, source)):
        with torch.no_grad():
            neurons.mask.fill_(value)
            rotated.masks.fill_(value)
        assert torch.equal(neurons(base, source), wanted)
        close(rotated(base, source), wanted)
    with torch.no_grad():
        neurons.mask.fill_(-100.0)[0] = 100.0
    assert torch.equal(neurons(base, source), torch.cat([source[..., :1], base[..., 1:]], -1))


@pytest.mark.parametrize("kind", [pv.SigmoidMaskIntervention, pv.SigmoidMaskRotatedSpaceIntervention])
def test_a_mask_hardens_as_the_temperature_falls(kind: Any) -> None:
    intervention = kind(embed_dim=3)
    logits = next(p for name, p in intervention.named_parameters() if name in ("mask", "masks"))
    with torch.no_grad():
        logits.copy_(torch.tensor([-1.0, 0.0, 2.0]))
    for temperature in (10.0, 1.0, 0.1):
        intervention.set_temperature(temperature)
        close(intervention.soft_mask(), torch.sigmoid(torch.tensor([-1.0, 0.0, 2.0]) / temperature))


def test_temperatures_are_positive_saved_and_not_trained() -> None:
    mask = pv.SigmoidMaskIntervention(embed_dim=3, temperature=2.0)
    assert "temperature" not in dict(mask.named_parameters())
    mask.set_temperature(torch.tensor(0.25))
    assert mask.state_dict()["temperature"] == mask.get_temperature() == 0.25
    with pytest.raises(InterventionArgumentError, match="positive"):
        mask.set_temperature(0.0)
    with pytest.raises(InterventionArgumentError, match="between 0 and 1"):
        pv.BoundlessRotatedSpaceIntervention(embed_dim=3).set_intervention_boundaries(3)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(InterventionArgumentError, match="needs embed_dim="):
        pv.RotatedSpaceIntervention()
    with pytest.raises(InterventionArgumentError, match="needs low_rank_dimension="):
        pv.LowRankRotatedSpaceIntervention(embed_dim=4)
    with pytest.raises(InterventionArgumentError, match="low_rank_dimension=5 is not between 1 and the site's 4"):
        pv.RotatedSpaceIntervention(embed_dim=4, low_rank_dimension=5)
    with pytest.raises(InterventionArgumentError, match="takes no keyword 'low_rank_dimension'"):
        pv.VanillaIntervention(low_rank_dimension=5)


def test_the_rotation_is_computed_in_full_precision_under_autocast() -> None:
    rotated = pv.RotatedSpaceIntervention(embed_dim=16, low_rank_dimension=4)
    wanted = rotated.rotate_layer.weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rotated.rotate_layer.weight, wanted)
        base, source = pair(2, 16)
        assert rotated(base, source).dtype == torch.float32
        assert torch.equal(rotated(base, base), base)


@pytest.mark.parametrize(("width", "count"), [(5, 5), (5, 2)])
def test_weights_that_torch_parametrized_load(width: int, count: int) -> None:
    # As pyvene saves them: a matrix exponential for a square weight, reflections for another.
    torch.manual_seed(0)
    theirs = torch.nn.Module()
    theirs.weight = torch.nn.Parameter(torch.nn.init.orthogonal_(torch.empty(width, count)))
    torch.nn.utils.parametrizations.orthogonal(theirs)
    with torch.no_grad():
        next(theirs.parameters()).add_(torch.randn(width, count).tril(-1) / 3)
    state = {f"rotate_layer.{name}": tensor for name, tensor in theirs.state_dict().items()}
    ours = pv.LowRankRotatedSpaceIntervention(embed_dim=width, low_rank_dimension=count)
    ours.load_state_dict(state)
    torch.testing.assert_close(ours.rotate_layer.weight, theirs.weight, rtol=1e-5, atol=1e-5)


def test_a_rotation_can_be_set() -> None:
    layer = pv.LowRankRotatedSpaceIntervention(embed_dim=4, low_rank_dimension=2).rotate_layer
    wanted = torch.eye(4)[:, [2, 0]] * torch.tensor([1.0, -1.0])
    layer.weight = wanted
    assert torch.equal(layer.weight, wanted)
    assert torch.equal(layer(torch.eye(4)), wanted)
    with pytest.raises(InterventionArgumentError, match="orthonormal"):
        layer.weight = wanted * 2
    with pytest.raises(ShapeMismatchError, match=r"\(4, 2\) can't be set to one of shape \(4, 4\)"):
        layer.weight = torch.eye(4)


def test_a_rotation_in_bfloat16_is_copied_and_pickled() -> None:
    rotated = pv.RotatedSpaceIntervention(embed_dim=4, low_rank_dimension=2).bfloat16()
    base, source = pair(3, 4)
    result = rotated(base.bfloat16(), source.bfloat16())
    assert result.dtype == torch.bfloat16
    for other in (copy.deepcopy(rotated), pickle.loads(pickle.dumps(rotated))):
        assert torch.equal(other(base.bfloat16(), source.bfloat16()), result)
        assert other.spec() == rotated.spec()

"""What each remaining type does: sums, means, noise, principal components, LoRA, collecting."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import intervene as pv
from intervene.errors import InterventionArgumentError, InterventionError, ShapeMismatchError

from .kinds import close


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


SHAPES = st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple)


@given(SHAPES, st.integers(0, 99))
def test_addition_undoes_subtraction(shape: tuple[int, ...], seed: int) -> None:
    base, source = drawn(*shape, seed=seed), drawn(*shape, seed=seed + 1)
    close(pv.AdditionIntervention()(pv.SubtractionIntervention()(base, source), source), base)
    assert torch.equal(pv.AdditionIntervention()(base, source), base + source)


@given(SHAPES)
def test_zero_is_the_swap_with_zeros(shape: tuple[int, ...]) -> None:
    base = drawn(*shape)
    first = [[0]] * shape[0]
    for subspaces in (None, first):
        swapped = pv.VanillaIntervention()(base, torch.zeros(()), subspaces)
        assert torch.equal(pv.ZeroIntervention()(base, None, subspaces), swapped)


@given(SHAPES)
def test_collect_gives_what_is_there(shape: tuple[int, ...]) -> None:
    base = drawn(*shape)
    collect = pv.CollectIntervention()
    assert collect.collects
    assert torch.equal(collect(base), base)
    assert torch.equal(pv.CollectIntervention(interchange_dim=1)(base), base[..., :1])
    with pytest.raises(InterventionError, match="takes no source"):
        collect(base, base)


# Noise


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_noise_of_a_position_does_not_depend_on_how_many_there_are(few: int, more: int, heads: int) -> None:
    noise = pv.NoiseIntervention(seed=3)
    for between in ((), (heads,)):
        long = noise(torch.zeros(2, *between, few + more, 5))
        assert torch.equal(noise(torch.zeros(1, *between, few, 5))[0], long[0, ..., :few, :])
        assert torch.equal(long[0], long[1])


def test_noise_is_seeded_standard_normal_at_its_level() -> None:
    base = torch.zeros(1, 400, 50)
    noise = pv.NoiseIntervention(noise_level=0.5, seed=7)(base)
    assert torch.equal(noise, pv.NoiseIntervention(noise_level=0.5, seed=7)(base))
    assert not torch.equal(noise, pv.NoiseIntervention(noise_level=0.5, seed=8)(base))
    assert noise.std().item() == pytest.approx(0.5, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert torch.equal(pv.NoiseIntervention(noise_level=0.0)(base), base)
    with pytest.raises(InterventionArgumentError, match="not negative"):
        pv.NoiseIntervention(noise_level=-1.0)


def test_noise_is_what_pyvene_adds() -> None:
    # pyvene 0.1.8: NoiseIntervention(embed_dim=4)(torch.zeros(1, 4, 4).double())[0, 0]
    found = pv.NoiseIntervention()(torch.zeros(1, 4, 4))[0, 0]
    wanted = [0.218685317132984, -0.08236065329450426, -0.07110766572690742, -0.14445356797817596]
    assert found.tolist() == pytest.approx(wanted)


# Mean


def test_the_mean_is_taken_over_all_axes_but_the_last() -> None:
    batches = [drawn(2, 3, 4), drawn(1, 5, 4, seed=1)]
    wanted = torch.cat([b.reshape(-1, 4) for b in batches]).mean(0)
    for mean in (pv.MeanIntervention().fit(batches), pv.MeanIntervention().fit(iter(batches))):
        close(mean(drawn(2, 2, 4)), wanted.expand(2, 2, 4))
    close(pv.MeanIntervention(source_representation=batches[0])(drawn(1, 4))[0], batches[0].mean((0, 1)))
    with pytest.raises(InterventionError, match="no mean yet"):
        pv.MeanIntervention()(drawn(1, 4))
    with pytest.raises(InterventionError, match="at least one"):
        pv.MeanIntervention().fit([])


def test_the_mean_over_a_dataset_leaves_padding_out() -> None:
    model = pv.tiny("gpt2")
    long, short = torch.tensor([[3, 9, 4, 11]]), torch.tensor([[7, 2]])
    padded = torch.cat([long, torch.tensor([[7, 2, 0, 0]])])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    batch = {"input_ids": padded, "attention_mask": mask}
    mean = pv.MeanIntervention.from_dataset(model, "layer.1.block_output", [batch], progress=False)
    apart = pv.MeanIntervention.from_dataset(model, "layer.1.block_output", [long, short], progress=False)
    base = drawn(1, 24)
    torch.testing.assert_close(mean(base), apart(base), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("component", "over", "wanted"),
    [
        ("block_output", ("batch", "position"), lambda x: x.mean((0, 1)).expand(4, 24)),
        ("block_output", ("batch",), lambda x: x.mean(0)),
        ("head_value_output", ("batch", "position"), lambda x: x.mean((0, 2), keepdim=True)[0].expand(3, 4, 8)),
        ("head_value_output", ("batch",), lambda x: x.mean(0)),
        ("head_value_output", ("batch", "head", "position"), lambda x: x.mean((0, 1, 2)).expand(3, 4, 8)),
        ("attention_pattern", ("batch", "position"), lambda x: x.mean((0, 2), keepdim=True)[0].expand(3, 4, 4)),
    ],
)
def test_the_mean_over_a_dataset_is_taken_over_the_named_axes(component: str, over: Any, wanted: Any) -> None:
    model = pv.tiny("gpt2", attn_implementation="eager")
    batches = [torch.tensor([[3, 9, 4, 11], [7, 2, 8, 1]]), torch.tensor([[5, 5, 1, 30]])]
    address = f"layer.1.{component}"
    mean = pv.MeanIntervention.from_dataset(model, address, batches, over=over, progress=False)
    whole = torch.cat([pv.adapt(model).read([address], input_ids=ids)[address] for ids in batches])
    torch.testing.assert_close(mean(torch.zeros_like(whole)), wanted(whole).expand_as(whole), rtol=1e-5, atol=1e-6)
    # What was saved is met again as it was.
    again = pv.MeanIntervention(**mean.spec())
    again.load_state_dict(mean.state_dict())
    assert torch.equal(again(whole), mean(whole))


def test_a_mean_by_position_is_for_the_positions_it_was_taken_from() -> None:
    model = pv.tiny("gpt2")
    ids = torch.tensor([[3, 9, 4, 11], [7, 2, 8, 1]])
    site = pv.adapt(model)["layer.1.block_output"].at(positions=[1, 3])
    mean = pv.MeanIntervention.from_dataset(model, site, [ids], over=("batch",), progress=False)
    intervenable = pv.IntervenableModel({"layer": 1, "intervention": mean}, model)
    value = pv.adapt(model).read([site], input_ids=ids)[site].mean(0, keepdim=True).expand(2, -1, -1)
    with torch.no_grad(), pv.adapt(model).session(writes={site: value}):
        expected = model(input_ids=ids).logits
    _, ablated = intervenable({"input_ids": ids}, unit_locations={"base": [1, 3]})
    torch.testing.assert_close(ablated.logits, expected)
    with pytest.raises(pv.ShapeMismatchError, match=r"\(2, 24\) does not broadcast"):
        intervenable({"input_ids": ids})


def test_a_mean_by_position_leaves_padding_out() -> None:
    model = pv.tiny("gpt2")
    long, short = torch.tensor([[3, 9, 4]]), torch.tensor([[7, 2, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    address = "layer.1.block_output"
    batch: dict[str, Any] = {"input_ids": torch.cat([long, short]), "attention_mask": mask}
    mean = pv.MeanIntervention.from_dataset(model, address, [batch], over=("batch",), progress=False)
    read = pv.adapt(model).read([address], **batch)[address]
    assert mean.source_representation is not None
    torch.testing.assert_close(mean.source_representation[2], read[0, 2])
    torch.testing.assert_close(mean.source_representation[:2], read[:, :2].mean(0))
    nowhere = {**batch, "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 0]])}
    with pytest.raises(InterventionError, match="one never was"):
        pv.MeanIntervention.from_dataset(model, address, [nowhere], over=("batch",), progress=False)


@pytest.mark.parametrize(
    ("address", "over", "says", "error"),
    [
        ("layer.1.block_output", ("position",), '"batch"', pv.InterventionArgumentError),
        ("layer.1.block_output", "batch", '"batch"', pv.InterventionArgumentError),
        ("layer.1.block_output", ("batch", "head"), r"no axis 'head'.*\('batch', 'position'\)", TypeError),
        ("layer.1.head_value_output", ("batch", "feature"), "no axis 'feature'", TypeError),
        ("transformer.h.1.output", ("batch", "head"), "module path", TypeError),
        ("layer.1.block_output", ("batch",), r"\(1, 2, 24\) and \(1, 3, 24\)", pv.ShapeMismatchError),
    ],
)
def test_means_that_cannot_be_are_refused(address: str, over: Any, says: str, error: type[Exception]) -> None:
    batches = [torch.tensor([[1, 2]]), torch.tensor([[1, 2, 3]])]
    with pytest.raises(error, match=says):
        pv.MeanIntervention.from_dataset(pv.tiny("gpt2"), address, batches, over=over, progress=False)


def test_a_mean_of_tensors_over_chosen_axes() -> None:
    whole = drawn(3, 2, 5, 4)
    close(pv.MeanIntervention().fit(whole, over=[0, 2])(whole), whole.mean((0, 2), keepdim=True).expand_as(whole))
    for over in ([1], [0, 3], [0, 4]):
        with pytest.raises(pv.InterventionArgumentError, match="axis 0"):
            pv.MeanIntervention().fit(whole, over=over)


# Principal components


def test_components_are_those_of_the_data() -> None:
    direction = torch.tensor([0.6, 0.8, 0.0])
    data = drawn(200, 1) * 5 * direction + drawn(200, 3, seed=1) * 0.01 + 7
    pca = pv.PCARotatedSpaceIntervention(low_rank_dimension=1).fit(data)
    assert pca.pca_components is not None
    assert (pca.pca_components[0] @ direction).abs().item() == pytest.approx(1, abs=1e-3)
    base, source = drawn(4, 3), drawn(4, 3, seed=1)
    along = torch.outer((source - base) @ pca.pca_components[0], pca.pca_components[0])
    close(pca(base, source), base + along)


@given(st.booleans())
def test_all_components_swap_everything(standardize: bool) -> None:
    data = drawn(50, 4) * torch.tensor([1.0, 2.0, 3.0, 4.0]) + 1
    pca = pv.PCARotatedSpaceIntervention().fit([data[:20], data[20:]], standardize=standardize)
    base, source = drawn(2, 3, 4), drawn(2, 3, 4, seed=1)
    close(pca(base, source), source)
    features = pca.featurizer().get(data)
    # Principal components of the data they come from are uncorrelated.
    covariance = features.T @ features / len(data)
    close(covariance, torch.diag(covariance.diagonal()))


def test_components_come_from_scikit_learns_object_too() -> None:
    fitted = SimpleNamespace(components_=[[0.0, 1.0, 0.0]], mean_=[1.0, 2.0, 3.0])
    pca = pv.PCARotatedSpaceIntervention(pca=fitted, embed_dim=3)
    base, source = drawn(2, 3), drawn(2, 3, seed=1)
    assert torch.equal(pca(base, source)[:, [0, 2]], base[:, [0, 2]])
    close(pca(base, source)[:, 1], source[:, 1])
    assert pca.spec() == {"embed_dim": 3}
    both = SimpleNamespace(components_=[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    first = pv.PCARotatedSpaceIntervention(pca=both, embed_dim=3, low_rank_dimension=1)
    assert torch.equal(first(base, source)[:, [0, 2]], base[:, [0, 2]])
    with pytest.raises(InterventionArgumentError, match="low_rank_dimension=3, and pca has 2 components"):
        pv.PCARotatedSpaceIntervention(pca=both, embed_dim=3, low_rank_dimension=3)
    with pytest.raises(InterventionError, match="no components yet"):
        pv.PCARotatedSpaceIntervention()(base, source)
    with pytest.raises(InterventionArgumentError, match="need as many"):
        pv.PCARotatedSpaceIntervention().fit(drawn(2, 3))
    with pytest.raises(InterventionArgumentError, match="go with pca="):
        pv.PCARotatedSpaceIntervention(pca_mean=[0.0])
    with pytest.raises(InterventionArgumentError, match="standard deviation 0"):
        pv.PCARotatedSpaceIntervention(pca=fitted, pca_std=[1.0, 0.0, 1.0])


# LoRA, Skip, autoencoder


def test_lora_is_a_linear_module_with_another_weight() -> None:
    linear, x = nn.Linear(5, 3), drawn(2, 4, 5)
    lora = pv.LoRAIntervention(embed_dim=3, input_dim=5, low_rank_dimension=2, lora_alpha=8.0)
    assert not lora.needs_source
    assert torch.equal(lora(linear(x), x), linear(x))  # B begins at 0
    nn.init.normal_(lora.lora_B)
    with torch.no_grad():
        adapted = nn.functional.linear(x, linear.weight + 4 * lora.lora_B @ lora.lora_A, linear.bias)
    close(lora(linear(x), x), adapted)
    with pytest.raises(ShapeMismatchError, match="say input_dim=3"):
        lora(linear(x), drawn(2, 4, 3))
    with pytest.raises(InterventionError, match="input of the site's module"):
        lora(linear(x))


@pytest.mark.parametrize(
    ("family", "component", "module"),
    [
        ("llama", "key_output", "model.layers.1.self_attn.k_proj"),
        ("llama", "head_value_output", "model.layers.1.self_attn.v_proj"),
        ("gpt2", "mlp_output", "transformer.h.1.mlp.c_proj"),
    ],
)
def test_lora_at_a_projection_is_that_projection_adapted(family: str, component: str, module: str) -> None:
    model: Any = pv.tiny(family)
    inputs = {"input_ids": torch.tensor([[5, 17, 9], [4, 4, 30]])}
    place = {"component": module + ".output"} if component == "mlp_output" else {"layer": 1, "component": component}
    config = pv.RepresentationConfig(**place, intervention_type=pv.LoRAIntervention, low_rank_dimension=2)
    intervenable = pv.IntervenableModel(config, model)
    (placed,) = intervenable.interventions.values()
    lora: Any = placed.intervention
    nn.init.normal_(lora.lora_B)
    _, found = intervenable(base=inputs)
    projection = model.get_submodule(module)
    change = lora.lora_B @ lora.lora_A
    change = change.repeat(len(projection.weight) // len(change), 1) if component.startswith("head") else change
    with torch.no_grad():
        projection.weight += change.T if family == "gpt2" else change
    torch.testing.assert_close(found.logits, model(**inputs).logits, rtol=1e-4, atol=1e-4)


def test_skip_gives_the_input() -> None:
    skip = pv.SkipIntervention()
    assert skip.source_is_input
    assert not skip.needs_source
    output, x = drawn(2, 3), drawn(2, 3, seed=1)
    assert torch.equal(skip(output, x), x)


@given(st.integers(2, 5), st.integers(0, 99))
def test_swapped_latents_change_what_they_decode_to(width: int, seed: int) -> None:
    torch.manual_seed(seed)
    base, source = drawn(3, width, seed=seed), drawn(3, width, seed=seed + 1)
    kept = pv.AutoencoderIntervention(embed_dim=width, latent_dim=4)
    coder = kept.autoencoder
    close(kept(base, source), base + coder(source) - coder(base))
    bare = pv.AutoencoderIntervention(embed_dim=width, latent_dim=4, use_error_term=False)
    bare.load_state_dict(kept.state_dict())
    close(bare(base, source), coder(source))
    mixed = coder.encode(base)
    mixed[:, 2] = coder.encode(source)[:, 2]
    close(bare(base, source, [2]), coder.decode(mixed))

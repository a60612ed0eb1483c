"""mamba_ssm's own models: the same values as transformers' with the same weights, and what no law says."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intervene
from intervene.errors import NeverFiredError, UnsupportedModelError

IDS = torch.tensor([[5, 17, 9, 33, 21], [40, 3, 8, 8, 50]])
EVERYWHERE = [name for name in intervene.families()["mamba_ssm"].load_spec().components if name != "ssm_state"]
MIXERS = [name for name in EVERYWHERE if name.startswith(("conv", "ssm", "mixer"))]


@pytest.fixture(scope="module")
def model() -> Any:
    return intervene.tiny("mamba_ssm")


@pytest.fixture(scope="module")
def adapted(model: nn.Module) -> intervene.Adapted:
    return intervene.adapt(model)


class FromTheLeft(nn.Linear):
    """A linear layer that multiplies as mamba_ssm does with in_proj's weights: the weights times the columns of tokens.

    How torch rounds a product depends on which factor comes first.
    """

    def forward(self, x: Tensor) -> Tensor:
        product = self.weight @ x.flatten(0, 1).T
        return product.unflatten(1, x.shape[:2]).permute(1, 2, 0)


@pytest.fixture(scope="module")
def transformers_own(model: nn.Module) -> Any:
    """transformers' model with the same weights."""
    twin = intervene.tiny("mamba", vocab_size=64)
    weights = {name.replace("embedding.", "embeddings."): value for name, value in model.state_dict().items()}
    twin.load_state_dict(weights)
    return twin


@pytest.fixture(scope="module")
def twin(transformers_own: nn.Module) -> Any:
    """The same with in_proj's product made in mamba_ssm's order."""
    twin: Any = copy.deepcopy(transformers_own)
    for block in twin.backbone.layers:
        block.mixer.in_proj.__class__ = FromTheLeft
    return twin


@pytest.fixture(scope="module")
def the_same_dt(model: nn.Module, twin: nn.Module) -> dict[intervene.Site, Tensor]:
    """What to write in the twin so that dt has mamba_ssm's bits: a product, too, and made inside the mixer."""
    found, theirs = intervene.adapt(model), intervene.adapt(twin)
    values = found.read([f"layer.{layer}.ssm_dt" for layer in range(3)], input_ids=IDS)
    return {theirs[site.address]: value for site, value in values.items()}


def cache() -> Any:
    from mamba_ssm.utils.generation import InferenceParams

    return InferenceParams(max_seqlen=8, max_batch_size=2)


def stepwise(model: nn.Module, ids: Tensor, prompt: int) -> Tensor:
    """The model called on the first columns, then on each other one with the cache; all logits."""
    params, logits = cache(), []
    for part in (ids[:, :prompt], *ids[:, prompt:].split(1, dim=1)):
        logits.append(model(part, inference_params=params).logits)
        params.seqlen_offset += part.shape[1]
    return torch.cat(logits, 1)


def test_logits_are_transformers(model: Any, transformers_own: Any) -> None:
    torch.testing.assert_close(model(IDS).logits, transformers_own(IDS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("component", EVERYWHERE)
def test_values_are_transformers_bit_for_bit(
    model: Any, twin: Any, the_same_dt: dict[intervene.Site, Tensor], component: str
) -> None:
    """Of every component but the state, which a whole sequence lacks, in every layer."""
    found, wanted = intervene.adapt(model), intervene.adapt(twin)
    theirs = [site for site in wanted.sites if site.component == component]
    ours = [found.site(component, site.layer) for site in theirs]
    values = found.read(ours, input_ids=IDS)
    writes = {} if component == "ssm_dt" else the_same_dt
    with torch.no_grad(), wanted.session(reads=theirs, writes=writes) as session:
        twin(IDS)
    assert len(ours) == (3 if theirs[0].layer is not None else 1)
    for mine, other in zip(ours, theirs, strict=True):
        if component == "ssm_dt":
            torch.testing.assert_close(values[mine], session.values[other], rtol=1e-5, atol=1e-7)
        else:
            assert torch.equal(values[mine], session.values[other]), mine


def test_both_claim_the_same(twin: Any, adapted: intervene.Adapted) -> None:
    assert [s.address for s in adapted.sites] == [s.address for s in intervene.adapt(twin).sites]


@pytest.mark.parametrize("component", MIXERS)
def test_writes_do_what_transformers_do(model: Any, transformers_own: Any, component: str) -> None:
    found = []
    for each in (model, transformers_own):
        with torch.no_grad(), intervene.adapt(each).session(writes={f"layer.1.{component}": 0.7}):
            found.append(each(IDS).logits)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[0], model(IDS).logits, rtol=1e-3, atol=1e-4)


def test_states_and_steps_are_transformers(model: Any, twin: Any, adapted: intervene.Adapted) -> None:
    """Up to rounding, for the two convolve a step in other ways."""
    names = [*MIXERS, "ssm_state"]
    other = intervene.adapt(twin)
    with torch.no_grad(), adapted.session(reads=[f"layer.2.{n}" for n in names], keep="all") as session:
        stepwise(model, IDS, prompt=3)
    with torch.no_grad(), other.session(reads=[f"layer.2.{n}" for n in names], keep="all") as theirs:
        past = twin(IDS[:, :3], use_cache=True).cache_params
        for column in (3, 4):
            twin(IDS[:, column : column + 1], cache_params=past, use_cache=True)
    for name in names:
        found, wanted = (s.values[f"layer.2.{name}"] for s in (session, theirs))
        assert len(found) == (2 if name == "ssm_state" else 3)
        for mine, expected in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("component", [name for name in EVERYWHERE if name != "logits"])
def test_a_written_step_is_the_whole_sequences(model: Any, adapted: intervene.Adapted, component: str) -> None:
    """Positions are those of the prompt, whether a column comes by alone or with all others."""
    layered = component not in ("embedding_output", "final_norm_output")
    site = adapted.site(component, 1 if layered else None).at(positions=3)
    with torch.no_grad():
        with adapted.session(writes={site: 0.5}):
            wanted = model(IDS).logits
        with adapted.session(writes={site: 0.5}):
            found = stepwise(model, IDS, prompt=2)
        plain = model(IDS).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[:, 3], plain[:, 3], rtol=1e-3, atol=1e-4)


def test_a_written_state_is_remembered(model: Any, adapted: intervene.Adapted) -> None:
    site, seen = adapted.site("ssm_state", layer=0), []

    def once(state: Tensor) -> Tensor | None:
        seen.append(state.clone())
        return torch.zeros_like(state) if len(seen) == 1 else None

    with torch.no_grad(), adapted.session(writes={site: once}):
        stepwise(model, IDS, prompt=3)
    with torch.no_grad(), adapted.session(reads=[site], keep="all") as session:
        stepwise(model, IDS, prompt=3)
    plain = session.values[site]
    assert torch.equal(seen[0], plain[0])
    assert float((seen[1] - plain[1]).abs().max()) > 0.01


def test_last_tokens_alone(model: Any, adapted: intervene.Adapted) -> None:
    """`num_last_tokens` cuts the logits, whose positions stay the prompt's."""
    with torch.no_grad(), adapted.session(writes={adapted["logits"].at(positions=4): 0.0}):
        cut = model(IDS, num_last_tokens=2).logits
    assert not cut[:, 1].any()
    assert cut[:, 0].any()


def test_sweeps(adapted: intervene.Adapted) -> None:
    """A stream handed on in two parts doesn't grow: the sweep says so and makes its runs one by one."""
    from intervene.sweeps import Probability, SweepWarning

    asked: dict[str, Any] = {"base": {"input_ids": IDS}, "source": {"input_ids": IDS.flip(1)}, "progress": False}
    with pytest.warns(SweepWarning, match="made by itself"):
        found = intervene.sweep(adapted, metric=Probability(7), **asked)
    loop = intervene.sweep(adapted, metric=Probability(7), method="loop", **asked)
    torch.testing.assert_close(found.values, loop.values)
    assert float(found.values.std()) > 0


def test_with_causal_conv1d(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its functions, played by transformers' in torch, take the place of convolution and SiLU."""
    import mamba_ssm.modules.mamba_simple as package
    from transformers.models.mamba import modeling_mamba

    model: Any = intervene.tiny("mamba_ssm", ssm_cfg={"d_state": 5, "dt_rank": 3, "use_fast_path": False})
    plain = intervene.adapt(model)
    site = plain.site("conv_output", layer=1)
    with torch.no_grad(), plain.session(reads=[site], keep="all") as session:
        stepwise(model, IDS, prompt=3)

    def convolve(x: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
        return modeling_mamba.causal_conv1d_fn(x, weight, bias, activation)

    def update(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
        return modeling_mamba.causal_conv1d_update(x[..., None], state, weight, bias, activation)[..., 0]

    monkeypatch.setattr(package, "causal_conv1d_fn", convolve)
    monkeypatch.setattr(package, "causal_conv1d_update", update)
    kernels = intervene.adapt(model)
    with torch.no_grad(), kernels.session(reads=["layer.1.conv_output"], keep="all") as second:
        stepwise(model, IDS, prompt=3)
    for mine, wanted in zip(second.values["layer.1.conv_output"], session.values[site], strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-6)


def test_what_a_kernel_fuses_is_an_error(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    import mamba_ssm.modules.mamba_simple as package

    def fused(xz: Tensor, *rest: Any, **kwargs: Any) -> Tensor:
        return torch.zeros(xz.shape[0], xz.shape[2], 24)

    monkeypatch.setattr(package, "causal_conv1d_fn", lambda **_: None)
    monkeypatch.setattr(package, "causal_conv1d_update", lambda *_: None)
    monkeypatch.setattr(package, "mamba_inner_fn", fused)
    with pytest.raises(NeverFiredError, match=r"layer\.0\.ssm_output"):
        intervene.adapt(model).read(["layer.0.ssm_output"], input_ids=IDS)


def test_other_blocks_work_by_module_path() -> None:
    """Blocks with an MLP beside the mixer, say, whose stream the table would miss."""
    other: Any = intervene.tiny("mamba_ssm", d_intermediate=16)
    adapted = intervene.adapt(other)
    assert adapted.adapter is None
    path = "backbone.layers.0.mlp.output"
    assert adapted.read([path], IDS)[path].shape == (2, 5, 24)
    with pytest.raises(UnsupportedModelError, match="Mamba-1 blocks"):
        intervene.adapt(other, adapter=intervene.families()["mamba_ssm"])


def test_mamba2_blocks_are_not_taken_for_mamba1s() -> None:
    other = intervene.tiny("mamba_ssm", ssm_cfg={"layer": "Mamba2", "headdim": 8})
    assert intervene.adapt(other).adapter is None


def test_tiny_is_seeded() -> None:
    before = torch.get_rng_state()
    first, second = intervene.tiny("mamba_ssm"), intervene.tiny("mamba_ssm")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), before)
    assert not first.training


def test_its_sites_are_listed() -> None:
    from typer.testing import CliRunner

    from intervene.cli import app

    result = CliRunner().invoke(app, ["sites", "tiny:mamba_ssm", "--json"])
    assert result.exit_code == 0, result.output
    listed = [row["component"] for row in json.loads(result.stdout)["sites"]]
    assert sorted(listed) == sorted([*EVERYWHERE, "ssm_state"]), "one row for each, with the layers in it"


def test_transformers_models_run_beside_it() -> None:
    for family in ("mamba", "mamba2"):
        assert intervene.tiny(family)(IDS).logits.isfinite().all()

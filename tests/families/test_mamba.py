"""What no law says about Mamba and Mamba-2: positions under a cache without a length, its state, and sweeps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import intervene
from intervene.errors import NeverFiredError, SelectionError
from intervene.sweeps import Probability

IDS = torch.tensor([[5, 17, 9, 33, 21], [40, 3, 8, 8, 50]])
WITHOUT_STATE = ("conv_input", "ssm_gate", "conv_output", "ssm_dt", "ssm_b", "ssm_c", "ssm_output", "ssm_gated_output")


@pytest.fixture(scope="module", params=["mamba", "mamba2"])
def model(request: pytest.FixtureRequest) -> Any:
    return intervene.tiny(request.param)


@pytest.fixture(scope="module")
def adapted(model: Any) -> intervene.Adapted:
    return intervene.adapt(model)


def stepwise(model: Any, ids: Tensor, prompt: int) -> Any:
    """The model called on the first columns, then on each other one with the cache; the last output."""
    output = model(ids[:, :prompt], use_cache=True)
    for column in range(prompt, ids.shape[1]):
        output = model(input_ids=ids[:, column : column + 1], cache_params=output.cache_params, use_cache=True)
    return output


@pytest.mark.parametrize("component", WITHOUT_STATE)
def test_a_step_shows_what_the_whole_sequence_shows(adapted: Any, model: Any, component: str) -> None:
    """In the scan's one-step form, too, and in each layer."""
    sites = [adapted.site(component, layer) for layer in range(3)]
    whole = adapted.read(sites, input_ids=IDS, use_cache=False)
    with torch.no_grad(), adapted.session(reads=sites, keep="all") as session:
        stepwise(model, IDS, prompt=2)
    for site in sites:
        torch.testing.assert_close(torch.cat(session.values[site], 1), whole[site], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("component", WITHOUT_STATE)
def test_a_written_step_is_the_whole_sequences(adapted: Any, model: Any, component: str) -> None:
    """A write at a column is the same one, whether the column comes by alone or with all others."""
    site = adapted.site(component, layer=1).at(positions=3)
    with torch.no_grad():
        with adapted.session(writes={site: 0.5}):
            wanted = model(input_ids=IDS, use_cache=False).logits[:, -1]
        with adapted.session(writes={site: 0.5}):
            found = stepwise(model, IDS, prompt=2).logits[:, -1]
        plain = model(input_ids=IDS).logits[:, -1]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, plain, rtol=1e-3, atol=1e-4)


# What transformers' models can't do is shown by them alone; where they learn it, the test says so by passing.
_FORGETS = "transformers' MambaMixer begins several columns at once from a state of zeros, whatever the cache holds"
_BIASED = "transformers masks what enters in_proj, whose bias then enters the convolution at padded columns"


@pytest.mark.parametrize(
    "family",
    [pytest.param("mamba", marks=pytest.mark.xfail(raises=AssertionError, strict=True, reason=_FORGETS)), "mamba2"],
)
def test_transformers_goes_on_from_a_cache_with_several_columns(family: str) -> None:
    plain: Any = intervene.tiny(family)
    with torch.no_grad():
        whole = plain(IDS, use_cache=False).logits
        cache = plain(IDS[:, :2], use_cache=True).cache_params
        rest = plain(IDS[:, 2:], cache_params=cache, use_cache=True).logits
    torch.testing.assert_close(rest, whole[:, 2:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
@pytest.mark.parametrize(
    "biased", [False, pytest.param(True, marks=pytest.mark.xfail(raises=AssertionError, strict=True, reason=_BIASED))]
)
def test_transformers_left_padding_moves_nothing(family: str, biased: bool) -> None:
    """With the cache in use, too: the states behind the padding are those of no padding."""
    plain: Any = intervene.tiny(family, use_bias=biased)
    biases = [parameter for name, parameter in plain.named_parameters() if name.endswith("in_proj.bias")]
    assert bool(biases) == biased
    with torch.no_grad():
        for bias in biases:
            bias.fill_(0.5)
    padded = torch.cat([torch.zeros(2, 2, dtype=torch.long), IDS], 1)
    mask = torch.cat([torch.zeros(2, 2, dtype=torch.long), torch.ones_like(IDS)], 1)
    fixed = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    logits: dict[str, Any] = {"output_logits": True, "return_dict_in_generate": True}
    alone = plain.generate(IDS, **fixed, **logits)
    behind = plain.generate(padded, attention_mask=mask, **fixed, **logits)
    torch.testing.assert_close(torch.stack(behind.logits), torch.stack(alone.logits), rtol=1e-4, atol=1e-5)


def test_transformers_prefills_no_state_space_model_in_chunks(model: Any) -> None:
    """It looks for the cache under another name than these models'."""
    with pytest.raises(ValueError, match="Cannot use prefill chunking without a cache"):
        model.generate(IDS, prefill_chunk_size=2, max_new_tokens=2, do_sample=False, pad_token_id=0)


@pytest.mark.parametrize("component", ["block_output", "conv_input", "ssm_dt", "ssm_output"])
@pytest.mark.parametrize("cuts", [(2,), (1, 4), (3, 4)])
@pytest.mark.parametrize("position", [0, 2, 3, 4])
def test_a_prompt_in_chunks_is_the_whole_one(component: str, cuts: tuple[int, ...], position: int) -> None:
    """Of Mamba-2, which transformers lets go on with several columns, though not by `generate`."""
    chunked: Any = intervene.tiny("mamba2")
    site = intervene.adapt(chunked).site(component, layer=1).at(positions=position)
    found, cache = [], None
    with torch.no_grad():
        with intervene.adapt(chunked).session(writes={site: 0.5}, reads=[site]) as session:
            for part in torch.tensor_split(IDS, cuts, dim=1):
                output = chunked(input_ids=part, cache_params=cache, use_cache=True)
                cache = output.cache_params
                found.append(output.logits)
        with intervene.adapt(chunked).session(writes={site: 0.5}):
            wanted = chunked(IDS, use_cache=False).logits
    assert bool((session.values[site] == 0.5).all())
    torch.testing.assert_close(torch.cat(found, 1), wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(wanted, chunked(IDS).logits, rtol=1e-3, atol=1e-4)


def test_positions_in_a_cache_that_nobody_counted(adapted: Any, model: Any) -> None:
    with torch.no_grad():
        cache = model(IDS[:, :4], use_cache=True).cache_params
    last = {"input_ids": IDS[:, 4:], "cache_params": cache}
    with pytest.raises(SelectionError, match="open the session before the first call"):
        adapted.read([adapted.site("ssm_output", 0).at(positions=4)], **last)
    assert adapted.read(["layer.0.ssm_output"], **last)["layer.0.ssm_output"].shape == (2, 1, 48)


def test_the_state_of_a_cache(adapted: Any, model: Any) -> None:
    """It is the cache's own, one row of numbers for each feature."""
    with torch.no_grad():
        cache = model(IDS[:, :4], use_cache=True).cache_params
    state = cache.layers[1].recurrent_states[0].flatten(1, -2).clone()
    found = adapted.read(["layer.1.ssm_state"], input_ids=IDS[:, 4:], cache_params=cache)
    assert torch.equal(found["layer.1.ssm_state"], state)
    assert state.shape == (2, 48, 5)


def test_a_cache_that_is_used_again(adapted: Any, model: Any) -> None:
    """`reset` empties a cache, and counting starts again."""
    site = adapted.site("conv_output", layer=0).at(positions=1)
    with torch.no_grad(), adapted.session(reads=[site], keep="all") as session:
        cache = model(IDS, use_cache=True).cache_params
        cache.reset()
        model(IDS, cache_params=cache, use_cache=True)
    first, second = session.values[site]
    torch.testing.assert_close(first, second)


def test_the_state_is_what_the_recurrence_gives() -> None:
    """Each step's state comes from the one before it, decayed, and from what entered."""
    model: Any = intervene.tiny("mamba")
    adapted = intervene.adapt(model)
    wanted = ["ssm_state", "ssm_dt", "ssm_b", "conv_output"]
    sites = {name: adapted.site(name, layer=2) for name in wanted}
    with adapted.session(reads=sites.values(), keep="all") as session:
        model.generate(IDS, max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0)
    first, second = session.values[sites["ssm_state"]]
    dt, b, x = (session.values[sites[name]][1][:, 0] for name in wanted[1:])
    mixer = model.backbone.layers[2].mixer
    dt = torch.nn.functional.softplus(dt + mixer.dt_proj.bias)[..., None]
    torch.testing.assert_close(second, (-dt * mixer.A_log.exp()).exp() * first + dt * b[:, None] * x[..., None])


def test_a_written_state_is_remembered(adapted: Any, model: Any) -> None:
    """What a step starts from is what all later ones have: the write goes into the cache."""
    site = adapted.site("ssm_state", layer=0)
    seen: list[Tensor] = []

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


def test_a_whole_sequence_has_no_state(adapted: Any, model: Any) -> None:
    with pytest.raises(NeverFiredError, match=r"layer\.0\.ssm_state"):
        adapted.read(["layer.0.ssm_state"], input_ids=IDS)


@pytest.mark.parametrize("use_cache", [True, False])
def test_prompt_positions_from_the_end(adapted: Any, model: Any, use_cache: bool) -> None:
    """-1 is the prompt's last column, and no generated one."""
    site = adapted.site("ssm_dt", layer=0).at(positions=-1)
    given = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    with adapted.session(reads=[site], keep="all") as session:
        model.generate(IDS, use_cache=use_cache, **given)
    wanted = adapted.read([site], input_ids=IDS)[site]
    for value in session.values[site]:
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5)
    assert len(session.values[site]) == (1 if use_cache else 3)


@pytest.mark.parametrize("component", ["block_output", "conv_output", "ssm_b", "ssm_output", "mixer_output"])
@pytest.mark.parametrize("masked", [False, True])
def test_sweeps_grow(adapted: Any, component: str, masked: bool) -> None:
    """A batch that grows on its way equals the loop of single runs, a padded one too."""
    mask = torch.ones_like(IDS)
    mask[0, :2] = 0
    base = {"input_ids": IDS, "attention_mask": mask} if masked else {"input_ids": IDS}
    asked: dict[str, Any] = {
        "base": base,
        "source": {**base, "input_ids": IDS.flip(1)},
        "component": component,
        "progress": False,
    }
    found = intervene.sweep(adapted, metric=Probability(7), **asked)
    loop = intervene.sweep(adapted, metric=Probability(7), method="loop", **asked)
    assert found.method == "growing batch"
    torch.testing.assert_close(found.values, loop.values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("component", ["conv_output", "ssm_b", "ssm_output"])
def test_gradients_under_checkpointing(model: Any, component: str) -> None:
    """A block computed again in the backward pass is written again, inside its scan, too."""
    grads = []
    for checkpointed in (False, True):
        trained = copy.deepcopy(model).train()
        if checkpointed:
            trained.gradient_checkpointing_enable({"use_reentrant": False})
        with intervene.adapt(trained).session(writes={f"layer.1.{component}": lambda part: 0.5 * part}):
            trained(IDS, use_cache=False).logits.sum().backward()
        grads.append([p.grad for p in trained.parameters()])
    for plain, again in zip(*grads, strict=True):
        torch.testing.assert_close(plain, again)


def test_offloaded_weights(adapted: Any, model: Any) -> None:
    """accelerate moves weights in that the mixer uses without calling their modules."""
    from accelerate import cpu_offload  # type: ignore[import-untyped]

    moved = intervene.adapt(cpu_offload(copy.deepcopy(model), torch.device("cpu")))
    addresses = [f"layer.1.{component}" for component in WITHOUT_STATE]
    found, wanted = (each.read(addresses, input_ids=IDS, use_cache=False) for each in (moved, adapted))
    for address in addresses:
        assert torch.equal(found[address], wanted[address])


def test_the_fields_own_names(adapted: Any) -> None:
    assert adapted.site("ssm_B", layer=0) == adapted.site("ssm_b", layer=0)
    assert adapted.site("ssm_delta", layer=0) == adapted.site("ssm_dt", layer=0)


def test_what_mamba_has_not(adapted: Any) -> None:
    with pytest.raises(intervene.AbsentComponentError, match="no MLP; its mixer adds mixer_output"):
        adapted.site("mlp_output", layer=0)
    with pytest.raises(intervene.AbsentComponentError, match="no attention that is split into heads"):
        adapted.site("attention_pattern", layer=0)
    with pytest.raises(intervene.AbsentComponentError, match="no state-space model"):
        intervene.adapt(intervene.tiny("gpt2")).site("ssm_output", layer=0)

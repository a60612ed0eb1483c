"""GPT-2's table: every head class, every site, and the configs that change what is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import intervene
from intervene.specs import load

CLASSES = (
    "GPT2Model",
    "GPT2LMHeadModel",
    "GPT2DoubleHeadsModel",
    "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification",
    "GPT2ForQuestionAnswering",
)
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "upcast": {"reorder_and_upcast_attn": True},
    "inverse": {"scale_attn_by_inverse_layer_idx": True},
    "unscaled": {"scale_attn_weights": False},
    "inner": {"n_inner": 40},
    "one head": {"n_head": 1},
    "cross": {"add_cross_attention": True},
}
CASES = [(c, "plain") for c in CLASSES] + [("GPT2LMHeadModel", c) for c in CONFIGS if c != "plain"]


def build(model: str, config: str, dtype: torch.dtype = torch.float32) -> Any:
    return intervene.tiny("gpt2", model, n_layer=2, attn_implementation="eager", **CONFIGS[config]).to(dtype)


def inputs(model: Any, ids: Tensor, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    made = {"input_ids": ids}
    if model.config.add_cross_attention:
        other = torch.randn(2, 4, 24, generator=torch.Generator().manual_seed(9))
        made["encoder_hidden_states"] = other.to(dtype)
    if type(model).__name__ == "GPT2DoubleHeadsModel":
        made["input_ids"] = ids.view(1, 2, 6)
    return made


def tensors(output: Any) -> list[Tensor]:
    """Every tensor of a model's output, the cache's keys and values included."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, transformers.Cache):
        if isinstance(output, transformers.EncoderDecoderCache):
            return tensors(output.self_attention_cache) + tensors(output.cross_attention_cache)
        layers: Any = output.layers
        return [t for layer in layers for t in (layer.keys, layer.values)]
    if isinstance(output, dict):
        return [t for value in output.values() for t in tensors(value)]
    return [t for value in output for t in tensors(value)] if isinstance(output, (tuple, list)) else []


def equal(a: Any, b: Any) -> bool:
    left, right = tensors(a), tensors(b)
    assert left
    return len(left) == len(right) and all(map(torch.equal, left, right))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("model_class", "config"), CASES)
def test_every_site(model_class: str, config: str, dtype: torch.dtype, ids: Tensor) -> None:
    """Identity is bitwise, what is written is read, a wrong value is seen, and axes and shapes are the spec's."""
    model = build(model_class, config, dtype)
    adapted = intervene.adapt(model)
    spec = load("gpt2")
    call = inputs(model, ids, dtype)
    sizes = {"batch": 2, "position": 6, "query_position": 6, "key_position": 6}
    with torch.no_grad():
        plain = model(**call)
        values = adapted.read(list(adapted.sites), **call)  # type: ignore[arg-type]
        for site in adapted.sites:
            own = values[site]
            claimed = spec.components[site.component].resolve(model_class, model.config)
            shape = spec.components[site.component].shape(model_class, model.config)
            assert site.axes == tuple(claimed.axes)
            assert list(own.shape) == [sizes[a] if s is None else s for a, s in zip(site.axes, shape, strict=True)]
            upcast = config == "upcast" and site.component in ("attention_scores", "attention_pattern")
            assert own.dtype == (torch.float32 if upcast else dtype)

            with adapted.session(writes={site: own}):
                assert equal(model(**call), plain), site.address
            with adapted.session(writes={site: lambda h: h}):
                assert equal(model(**call), plain), site.address
            wrong = torch.randn(own.shape, generator=torch.Generator().manual_seed(3)).to(own.dtype)
            with adapted.session(reads=[site], writes={site: wrong}) as session:
                changed = model(**call)
            assert torch.equal(session.values[site], wrong), site.address
            assert not equal(changed, plain), site.address
        assert equal(model(**call), plain)


@pytest.mark.parametrize(("model_class", "config"), CASES)
def test_the_sites_of_a_class(model_class: str, config: str) -> None:
    adapted = intervene.adapt(build(model_class, config))
    assert adapted.layers == 2
    outside = [s.address for s in adapted.sites if s.layer is None]
    heads = [] if model_class == "GPT2Model" else ["logits"]
    assert outside == ["embedding_output", "final_norm_output", *heads]
    assert len(adapted.sites) == 2 * 17 + len(outside)
    for site in adapted.sites:
        adapted.model.get_submodule(site.port.path)


@given(st.data())
def test_heads_are_the_models_own(adapted_eager: Any, ids: Tensor, data: st.DataObject) -> None:
    """Without an attention output of its own a head's column of W_o contributes nothing: the oracle."""
    layer, head = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))
    model = adapted_eager.model
    site = adapted_eager.site("head_attention_value_output", layer=layer).at(heads=head)
    with torch.no_grad():
        with adapted_eager.session(writes={site: 0.0}):
            out = model(ids).logits
        weight = model.transformer.h[layer].attn.c_proj.weight
        before = weight.clone()
        try:
            weight[head * 8 : (head + 1) * 8] = 0
            expected = model(ids).logits
        finally:
            weight.copy_(before)
    assert torch.allclose(out, expected, atol=1e-5)


def test_scores_are_masked_and_scaled_the_way_the_softmax_takes_them(adapted_eager: Any, ids: Tensor) -> None:
    values = adapted_eager.read(
        [
            "layer.1.attention_scores",
            "layer.1.attention_pattern",
            "layer.1.head_query_output",
            "layer.1.head_key_output",
        ],
        input_ids=ids,
    )
    scores, pattern = values["layer.1.attention_scores"], values["layer.1.attention_pattern"]
    assert torch.equal(torch.softmax(scores, -1), pattern)
    raw = values["layer.1.head_query_output"] @ values["layer.1.head_key_output"].transpose(-1, -2) / 8**0.5
    lower = torch.ones(6, 6, dtype=torch.bool).tril()
    assert torch.allclose(scores[..., lower], raw[..., lower], atol=1e-5)
    assert not pattern[..., ~lower].any()


def test_positions_and_dims_of_a_pattern_are_query_and_key(adapted_eager: Any, ids: Tensor) -> None:
    site = adapted_eager["layer.0.attention_pattern"].at(heads=1, positions=4, dims=[0, 2])
    whole = adapted_eager["layer.0.attention_pattern"]
    values = adapted_eager.read([site, whole], input_ids=ids)
    assert torch.equal(values[site], values[whole][:, 1:2, 4:5][..., [0, 2]])


def test_choices_of_double_heads_are_rows(ids: Tensor) -> None:
    """(batch, choices) is flattened within the model."""
    model = build("GPT2DoubleHeadsModel", "plain")
    adapted = intervene.adapt(model)
    with adapted.session(writes={adapted["logits"].at(rows=1): 0.0}):
        logits = model(ids.view(1, 2, 6)).logits
    assert logits.flatten(0, 1)[1].abs().sum() == 0
    assert logits.flatten(0, 1)[0].abs().sum() > 0


def test_a_session_around_a_loss_and_its_backward(ids: Tensor) -> None:
    for model_class, labels in [
        ("GPT2LMHeadModel", {"labels": ids}),
        ("GPT2ForSequenceClassification", {"labels": torch.tensor([0, 2])}),
        ("GPT2ForTokenClassification", {"labels": ids % 3}),
        ("GPT2ForQuestionAnswering", {"start_positions": ids[:, 0] % 6, "end_positions": ids[:, 1] % 6}),
    ]:
        model = build(model_class, "plain")
        source = torch.zeros(2, 1, 24, requires_grad=True)
        site = intervene.adapt(model)["layer.0.block_output"].at(positions=2)
        with intervene.adapt(model).session(writes={site: source}):
            model(ids, **labels).loss.backward()
        assert source.grad is not None
        assert source.grad.abs().sum() > 0
        before = model.transformer.h[0].mlp.c_fc.weight.grad
        assert before.abs().sum() > 0

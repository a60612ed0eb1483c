"""A compiled model is traced in each session, with every site's reads and writes, and is plain afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor

import intervene

pytestmark = [
    pytest.mark.usefixtures("from_scratch"),
    pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`"),
]

# How often torch compiles one function; its name changed after torch 2.6.
LIMIT = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
PROMPT = torch.tensor([[5, 17, 9, 33], [21, 3, 8, 40]])


def halved(part: Tensor) -> Tensor:
    return part * 0.5


# One block is compiled faster than three, and has every site.
@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "opt", "pythia"])
def test_compiled_inside_the_session(family: str) -> None:
    """Reads of all sites at once, fused projections, rotary embeddings and attention patterns among them."""
    model: Any = intervene.tiny(family, attn_implementation="eager", num_hidden_layers=1)
    compiled: Any = torch.compile(model, backend="eager")
    adapted = intervene.adapt(model)
    written = ["key_output", "attention_scores", "head_attention_value_output", "mlp_activation"]
    writes = {adapted.site(name, 0).at(dims=0): halved for name in written}
    results = []
    with torch.no_grad():
        plain = model(PROMPT).logits
        for called in (model, compiled):
            with adapted.session(reads=adapted.sites, writes=writes) as session:
                logits = called(PROMPT).logits
            results.append(dict[Any, Tensor](session.values) | {"output": logits})
        uncompiled, found = results
        for site, value in uncompiled.items():
            assert torch.equal(found[site], value), site
        assert not torch.equal(found["output"], plain)
        # The hooks are gone, and torch compiles again without them.
        assert torch.equal(compiled(PROMPT).logits, plain)


def test_one_compiled_model_in_one_session_after_another() -> None:
    model: Any = intervene.tiny("llama", num_hidden_layers=1)
    compiled: Any = torch.compile(model, backend="eager")
    adapted = intervene.adapt(model)
    for factor in (0.5, 2.0):
        found = []
        for called in (model, compiled):
            with torch.no_grad(), adapted.session(writes={"layer.0.mlp_output": lambda part, f=factor: part * f}):
                found.append(called(PROMPT).logits)
        assert torch.equal(*found)


@pytest.mark.slow
def test_calls_of_one_module_are_counted_in_a_compiled_forward() -> None:
    """BLIP's image model calls its last norm twice, the second time for the class token alone."""
    model: Any = intervene.tiny("blip", "BlipVisionModel", num_hidden_layers=1)
    compiled: Any = torch.compile(model, backend="eager")
    adapted = intervene.adapt(model)
    image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for called in (model, compiled, compiled):
        site = adapted["vision.final_norm_output"]
        second = adapted["post_layernorm.output"].at(call=1)
        with torch.no_grad(), adapted.session(reads=[site, second]) as session:
            called(pixel_values=image)
        found.append((session.values[site], session.values[second]))
    assert found[0][0].shape == (2, 5, 24)
    assert found[0][1].shape == (2, 24)
    for values in found[1:]:
        assert all(torch.equal(value, wanted) for value, wanted in zip(values, found[0], strict=True))


def test_compiled_before_its_sessions() -> None:
    """Each session is traced anew, up to torch's limit; after that the model runs uncompiled within them."""
    model: Any = intervene.tiny("llama", num_hidden_layers=1)
    compiled: Any = torch.compile(model, backend="eager")
    with torch.no_grad(), torch._dynamo.config.patch({LIMIT: 3}):
        plain = compiled(PROMPT).logits
        for number in range(5):
            found = []
            for called in (model, compiled):
                value = torch.full((model.config.hidden_size,), float(number))
                with intervene.adapt(called).session(writes={"layer.0.mlp_output": value}):
                    found.append(called(PROMPT).logits)
            assert torch.equal(*found)
            assert torch.equal(compiled(PROMPT).logits, plain)


@pytest.mark.parametrize("positions", [-1, [0, -1], [[-1], [2]], slice(-2, None)], ids=str)
def test_prompts_of_several_lengths(positions: Any) -> None:
    """From the second on, a length is a symbol to the compiler."""
    model: Any = intervene.tiny("gpt2", n_layer=1)
    compiled: Any = torch.compile(model, backend="eager")
    site = intervene.adapt(model)["layer.0.block_output"].at(positions=positions)
    found: dict[Any, list[Tensor]] = {}
    for called in (model, compiled):
        with torch.no_grad(), intervene.adapt(model).session(writes={site: 3.0}):
            found[called] = [called(PROMPT[:, :length]).logits for length in (4, 3, 4, 3)]
    for plain, same in zip(*found.values(), strict=True):
        torch.testing.assert_close(plain, same)


def test_gradients_through_a_compiled_model() -> None:
    """To a value that is written, to what is read, and to the weights."""
    model: Any = intervene.tiny("gpt2", n_layer=1)
    compiled: Any = torch.compile(model, backend="aot_eager")
    site = intervene.adapt(model)["layer.0.mlp_output"].at(positions=[1, -1])
    found = []
    for called in (model, compiled):
        added = torch.full((model.config.n_embd,), 0.3, requires_grad=True)
        session = intervene.adapt(called).session(
            reads=["layer.0.attention_output"], writes={site: lambda part, by=added: part + by}, grad=True
        )
        with session:
            loss = called(PROMPT, labels=PROMPT).loss
            loss = loss + session.values["layer.0.attention_output"].pow(2).sum()
        found.append(torch.autograd.grad(loss, [added, model.transformer.wte.weight]))
    assert found[0][0].abs().sum() > 0
    torch.testing.assert_close(*found)

"""Models that hooks cannot tell the truth about are refused, with what to do; the others work."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import intervene
from intervene.errors import GradientCheckpointingError, UnsupportedModelError

# transformers calls its method by another name from version 6 on; torch warns of inputs that need no gradients, and of
# a cache that it traces through.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing_enable", "ignore:None of the inputs have", "ignore:Dynamo detected a call to a"
)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_torchscript_is_refused() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.Tanh()))
    with pytest.raises(UnsupportedModelError, match=r"^RecursiveScriptModule is TorchScript, .* that was scripted"):
        intervene.adapt(scripted)
    model = nn.Sequential(scripted, nn.Tanh())
    for path in ("0", "0.1"):
        with pytest.raises(UnsupportedModelError, match=rf"^'{path}' is TorchScript"):
            intervene.adapt(model)[f"{path}.output"]
    with intervene.adapt(model).session(writes={"1.output": 2.0}):
        assert model(torch.ones(1, 2)).tolist() == [[2.0, 2.0]]


def test_only_modules_are_adapted() -> None:
    with pytest.raises(UnsupportedModelError, match=r"expected a torch.nn.Module, found dict"):
        intervene.adapt({})  # type: ignore[arg-type]


# torch.compile


def test_a_compiled_model_is_the_model_that_was_compiled(gpt2: nn.Module) -> None:
    assert intervene.adapt(torch.compile(gpt2, backend="eager")).model is gpt2  # type: ignore[arg-type]


def compiled_at(model: Any, path: str, in_place: bool) -> Any:
    """The model with the module at ``path`` compiled and in its place, or, of the whole, what was compiled."""
    module = model.get_submodule(path)
    if in_place:
        module.compile(backend="eager")
        return model
    compiled = torch.compile(module, backend="eager")
    if not path:
        return compiled
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = compiled
    return model


@pytest.mark.usefixtures("from_scratch")
@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("path", ["", "1", "1.0", "1.0.0"])
def test_what_was_compiled_before(path: str, in_place: bool) -> None:
    """It is traced again in each session, and knows the plain forward afterwards; so is what a read stops in."""

    def made() -> nn.Module:
        torch.manual_seed(0)
        inner = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 4))
        return nn.Sequential(nn.Linear(4, 4), inner, nn.Linear(4, 4))

    x, sites = torch.randn(2, 4), ["1.0.0.output", "1.0.1.input", "1.output"]
    plain, called = made(), compiled_at(made(), path, in_place)
    with torch.no_grad():
        expected = plain(x)
        assert torch.equal(called(x), expected)
        for site, value in product(sites, (0.0, 1.0)):
            seen = []
            for model in (plain, called):
                with intervene.adapt(model).session(reads=sites, writes={site: value}) as session:
                    seen.append([model(x), *session.values.values()])
            assert all(torch.equal(*pair) for pair in zip(*seen, strict=True))
            assert torch.equal(called(x), expected)
        read = [intervene.adapt(model).read(sites[:2], x) for model in (plain, called)]
        assert all(torch.equal(read[0][site], read[1][site]) for site in sites[:2])
        assert torch.equal(called(x), expected)


class Interrupted(nn.Module):
    """Two modules, between which torch.compile breaks its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        torch._dynamo.graph_break()
        broken: Tensor = self.second(x)
        return broken


@pytest.mark.usefixtures("from_scratch")
@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("what", ["model", "method", "function"])
def test_a_broken_graph(what: str, early: bool) -> None:
    """Its parts are compiled one by one, and each is traced again in each session."""
    model, x = Interrupted(), torch.randn(2, 4)
    called: Any = {"model": model, "method": model.forward, "function": lambda x: model(x) + 0}[what]
    compiled = torch.compile(called, backend="eager")
    adapted, plain = intervene.adapt(model), model(x)
    with torch.no_grad():
        if early:
            compiled(x)
        for factor, site in product((2.0, 3.0), ("first.output", "second.input")):
            found = []
            for each in (model, compiled):
                with adapted.session(writes={site: lambda part, by=factor: part * by}):
                    found.append(each(x))
            assert torch.equal(*found)
            assert not torch.equal(found[1], plain)
            assert torch.equal(compiled(x), plain)


@pytest.mark.usefixtures("from_scratch")
def test_compiling_within_a_session(toy: nn.Module, x: Tensor) -> None:
    """The hooks are traced with the model: as uncompiled. Afterwards torch compiles again, without them."""
    adapted = intervene.adapt(toy)
    plain = toy(x)
    compiled = torch.compile(toy, backend="eager")
    site = adapted["first.output"].at(dims=[1, 3])
    with torch.no_grad():
        with adapted.session(reads=["second.input"], writes={site: lambda h: h * 2}) as eager:
            expected = toy(x)
        with adapted.session(reads=["second.input"], writes={site: lambda h: h * 2}) as session:
            assert torch.equal(compiled(x), expected)
        assert torch.equal(session.values["second.input"], eager.values["second.input"])
        assert torch.equal(compiled(x), plain)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.usefixtures("from_scratch")
def test_compiling_in_one_graph_within_a_session(ids: Tensor) -> None:
    """Nothing of a session breaks the graph: positions, several sites, reads and functions."""
    model = intervene.tiny("gpt2")
    adapted = intervene.adapt(model)
    writes: dict[Any, Any] = {
        adapted.site("block_output", 1).at(positions=-1): 0.0,
        "layer.0.attention_output": lambda h: h * 2,
    }
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        with adapted.session(reads=["layer.0.mlp_output"], writes=writes) as eager:
            expected = model(ids).logits
        with adapted.session(reads=["layer.0.mlp_output"], writes=writes) as session:
            assert torch.equal(compiled(ids).logits, expected)
        assert torch.equal(session.values["layer.0.mlp_output"], eager.values["layer.0.mlp_output"])
        assert torch.equal(compiled(ids).logits, model(ids).logits)


# Wrappers for several devices.


def test_data_parallel_is_refused(toy: nn.Module) -> None:
    with pytest.raises(UnsupportedModelError, match=r"DataParallel runs copies .* pass model.module"):
        intervene.adapt(nn.DataParallel(toy))


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """A group of this process alone, over a file."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")
def test_distributed_data_parallel_is_unwrapped(toy: nn.Module, x: Tensor, process_group: None) -> None:
    """The wrapper calls the module, so that hooks on it fire; gradients are the plain ones."""
    wrapped = nn.parallel.DistributedDataParallel(toy)
    adapted = intervene.adapt(wrapped)
    assert adapted.model is toy
    with adapted.session(reads=["first.output"], writes={"second.input": lambda h: h * 2}) as session:
        wrapped(x).sum().backward()
    got = [p.grad.clone() for p in toy.parameters() if p.grad is not None]
    assert torch.equal(session.values["first.output"], toy.first(x))  # type: ignore[operator]
    toy.zero_grad()
    toy.second(torch.tanh(toy.first(x)) * 2).sum().backward()  # type: ignore[operator]
    for a, p in zip(got, toy.parameters(), strict=True):
        assert p.grad is not None
        assert torch.allclose(a, p.grad, atol=1e-6)


# Gradient checkpointing: backward computes layers a second time.


SITES = [
    "layer.0.block_input",
    "layer.1.block_output",
    "layer.1.mlp_output",
    "layer.1.mlp_input",
    "layer.0.query_output",
    "layer.2.attention_output",
    "layer.0.attention_pattern",
    "embedding_output",
    "logits",
]
# In layers, whose forward is the one that is computed again.
WITHIN = ["layer.1.mlp_output", "layer.1.mlp_input", "layer.0.query_output", "layer.2.attention_output"]


def training(reentrant: bool | None) -> Any:
    """A model in training, without dropout; with either kind of checkpointing, or none."""
    model: Any = intervene.tiny(
        "gpt2", attn_implementation="eager", attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0
    ).train()
    if reentrant is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()
    return model


def gradients(model: Any, ids: Tensor, writes: Any, source: Tensor | None = None) -> list[Tensor]:
    with intervene.adapt(model).session(reads=["layer.1.mlp_activation"], writes=writes, keep="all") as session:
        model(ids, labels=ids, use_cache=False).loss.backward()
    # What a backward pass computes again is no second value.
    assert len(session.values["layer.1.mlp_activation"]) == 1
    got = [p.grad.clone() if p.grad is not None else torch.zeros(1) for p in model.parameters()]
    model.zero_grad()
    return got + ([source.grad] if source is not None and source.grad is not None else [])


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("address", SITES)
@pytest.mark.parametrize("how", ["function", "tensor", "part"])
def test_backward_inside_gives_the_gradients_of_no_checkpointing(
    address: str, reentrant: bool, how: str, ids: Tensor
) -> None:
    results = []
    for kind in (None, reentrant):
        model = training(kind)
        site = intervene.adapt(model)[address]
        source = None
        written: Any = lambda h: h * 1.5  # noqa: E731
        if how != "function":
            own = intervene.adapt(model).read(site, input_ids=ids)[site]
            site = site.at(positions=[1, 3]) if how == "part" else site
            own = own if how == "tensor" else own.narrow(own.dim() - 2, 0, 2)
            source = written = torch.rand(own.shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
        results.append(gradients(model, ids, {site: written}, source))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("address", WITHIN)
def test_closing_before_backward_is_refused(address: str, reentrant: bool, ids: Tensor) -> None:
    model = training(reentrant)
    session = intervene.adapt(model).session(writes={address: 1.0})
    message = rf"{address} was written .* Call backward\(\) inside"
    with pytest.raises(GradientCheckpointingError, match=message), session:
        model(ids, labels=ids, use_cache=False)


@pytest.mark.parametrize("reentrant", [False, True])
def test_each_forward_wants_its_backward(reentrant: bool, ids: Tensor) -> None:
    model = training(reentrant)
    session = intervene.adapt(model).session(writes={"layer.1.mlp_input": lambda h: h * 2})
    session.__enter__()
    model(ids, labels=ids, use_cache=False).loss.backward()
    model(ids, labels=ids, use_cache=False)
    with pytest.raises(GradientCheckpointingError):
        session.__exit__(None, None, None)
    with intervene.adapt(model).session(writes={"layer.1.mlp_input": lambda h: h * 2}):
        losses = [model(ids, labels=ids, use_cache=False).loss for _ in range(2)]
        for loss in losses:
            loss.backward()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("address", ["layer.1.block_output", "embedding_output", "logits"])
def test_what_lies_outside_the_checkpoints_may_close_early(address: str, reentrant: bool, ids: Tensor) -> None:
    """transformers checkpoints a layer's forward, and its hooks stand around that."""
    if not _hooks_stand_outside():
        pytest.skip("this transformers checkpoints __call__, hooks included")
    results = []
    for kind in (None, reentrant):
        model = training(kind)
        with intervene.adapt(model).session(writes={address: lambda h: h * 1.5}):
            loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        results.append([p.grad for p in model.parameters()])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def _hooks_stand_outside() -> bool:
    from transformers.modeling_layers import GradientCheckpointingLayer

    return "__call__" not in vars(GradientCheckpointingLayer)


@pytest.mark.parametrize("reentrant", [False, True])
def test_reads_may_close_early(reentrant: bool, ids: Tensor) -> None:
    model = training(reentrant)
    with intervene.adapt(model).session(reads=["layer.1.mlp_output"]):
        loss = model(ids, labels=ids, use_cache=False).loss
    loss.backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_no_backward_will_come(reentrant: bool, ids: Tensor) -> None:
    """Without gradients, or in eval mode."""
    model = training(reentrant)
    adapted = intervene.adapt(model)
    with torch.no_grad(), adapted.session(writes={"layer.1.mlp_output": 0.0}):
        model(ids, use_cache=False)
    with adapted.session(writes={"layer.1.mlp_output": 0.0}):
        model.eval()(ids)


def test_a_frozen_model_needs_no_backward() -> None:
    """And its output comes to need gradients no more than without the session."""
    model, x = Checkpointed(False), torch.randn(2, 4)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with intervene.adapt(model).session(writes={"first.output": lambda h: h * 2}):
        assert not model(x).requires_grad


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_constant_in_a_frozen_model_between_inputs_that_need_gradients(reentrant: bool) -> None:
    """What flows around the written tensor is computed again with it."""
    model, x = Checkpointed(reentrant), torch.randn(2, 4, requires_grad=True)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(GradientCheckpointingError), intervene.adapt(model).session(writes={"first.output": 0.5}):
        model(x)


class Checkpointed(nn.Module):
    """torch's own checkpoint, with nothing of transformers about it."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.reentrant = reentrant

    def inner(self, x: Tensor) -> Any:
        return self.second(torch.tanh(self.first(x)))

    def forward(self, x: Tensor) -> Any:
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
def test_torchs_own_checkpoint(reentrant: bool) -> None:
    model, x = Checkpointed(reentrant), torch.randn(2, 4, requires_grad=True)
    adapted = intervene.adapt(model)
    with pytest.raises(GradientCheckpointingError), adapted.session(writes={"first.output": 0.5}):
        model(x)
    with adapted.session(writes={"first.output": lambda h: h * 2}):
        model(x).square().sum().backward()
    got = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    model.second(torch.tanh(model.first(x) * 2)).square().sum().backward()
    for a, p in zip(got, model.parameters(), strict=True):
        assert p.grad is not None
        assert torch.allclose(a, p.grad, atol=1e-6)


def test_a_numbered_call_under_checkpointing_is_refused() -> None:
    """A layer that is computed again doesn't say which of its calls that is."""
    model, x = Checkpointed(False), torch.randn(2, 4, requires_grad=True)
    adapted = intervene.adapt(model)
    session = adapted.session(writes={adapted["first.output"].at(call=0): 0.5})
    with pytest.raises(GradientCheckpointingError, match="which call"), session:
        model(x).sum().backward()

"""Sessions: what is read, what is written, in which order, and what the model never gets to see."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import intervene
from intervene.errors import AmbiguousCallError, NeverFiredError, SessionError, ShapeMismatchError


class InPlace(nn.Module):
    """Changes what its layer returned, in place and after the hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.layer(x)
        h += 1
        h.mul_(2)
        return h


class Repeated(nn.Module):
    """One layer in two places of a list, and again by itself."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(3, 3)
        self.layers = nn.ModuleList([layer] * 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_reads_see_this_sessions_writes(adapted: intervene.Adapted, ids: Tensor) -> None:
    new = torch.randn(2, 6, 24)
    site = "layer.1.block_output"
    with adapted.session(reads=[site, "layer.2.block_input"], writes={site: new}) as session:
        adapted.model(ids)
    assert torch.equal(session.values[site], new)
    assert torch.equal(session.values["layer.2.block_input"], new)


def test_several_sites_at_one_port(adapted: intervene.Adapted, ids: Tensor) -> None:
    """Query, key and value of one projection, whole and by head, and the module itself."""
    value = adapted["layer.0.value_output"]
    reads: list[Any] = ["layer.0.query_output", "layer.0.head_key_output", value, "transformer.h.0.attn.c_attn.output"]
    plain = adapted.read(reads, input_ids=ids)
    writes: dict[Any, Any] = {value: 1.5, "layer.0.head_key_output": lambda k: -k}
    with adapted.session(reads=reads, writes=writes) as session:
        adapted.model(ids)
        hooks = [len(m._forward_hooks) for m in [adapted.model.get_submodule("transformer.h.0.attn.c_attn")]]
    got = session.values
    assert hooks == [1]
    assert torch.equal(got["layer.0.query_output"], plain["layer.0.query_output"])
    assert torch.equal(got["layer.0.head_key_output"], -plain["layer.0.head_key_output"])
    assert torch.equal(got[value], torch.full((2, 6, 24), 1.5))
    fused = got["transformer.h.0.attn.c_attn.output"]
    assert torch.equal(fused[..., 24:48], -plain["transformer.h.0.attn.c_attn.output"][..., 24:48])
    assert torch.equal(fused[..., 48:], got[value])


@pytest.mark.parametrize("turned", [False, True])
def test_of_pairs_that_write_one_site_the_last_wins(adapted: intervene.Adapted, ids: Tensor, turned: bool) -> None:
    a, b = torch.randn(2, 6, 24), torch.randn(2, 6, 24)
    site = adapted["layer.1.mlp_output"]
    pairs: list[Any] = [(site, a), ("layer.1.mlp_output", b)]
    with adapted.session(reads=[site], writes=pairs[::-1] if turned else pairs) as session:
        adapted.model(ids)
    assert torch.equal(session.values[site], a if turned else b)


def test_functions_see_what_was_written_before_them(adapted: intervene.Adapted, ids: Tensor) -> None:
    site = "layer.1.mlp_output"
    with adapted.session(reads=[site], writes=[(site, 2.0), (site, lambda h: h * 3), (site, lambda h: h + 1)]) as s:
        adapted.model(ids)
    assert torch.equal(s.values[site], torch.full((2, 6, 24), 7.0))


@pytest.mark.parametrize(
    "value",
    [2, 2.0, torch.tensor(2.0), torch.full((24,), 2.0), torch.full((6, 1), 2.0), torch.full((2, 1, 24), 2.0)],
    ids=lambda v: str(getattr(v, "shape", v)),
)
def test_values_that_broadcast(adapted: intervene.Adapted, ids: Tensor, value: Any) -> None:
    site = adapted["layer.0.block_output"]
    for written in (value, lambda h: torch.as_tensor(value)):
        with adapted.session(reads=[site], writes={site: written}) as session:
            adapted.model(ids)
        assert torch.equal(session.values[site], torch.full((2, 6, 24), 2.0))


@pytest.mark.parametrize("positions", [slice(None), [1, 2], [1, 4], [[1, 4], [2, 3]]])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_a_value_takes_the_activations_dtype(
    adapted: intervene.Adapted, ids: Tensor, dtype: torch.dtype, positions: Any
) -> None:
    site = adapted["layer.0.block_output"].at(positions=positions)
    for written in (torch.ones(24, dtype=dtype), lambda h: torch.ones(24, dtype=dtype)):
        with adapted.session(reads=[site], writes={site: written}) as session:
            adapted.model(ids)
        kept = session.values[site]
        assert kept.dtype == torch.float32
        assert torch.equal(kept, torch.ones_like(kept))
        assert kept.shape[::2] == (2, 24)


@pytest.mark.parametrize("positions", [slice(None), [1, 2], [1, 4], [[1, 4], [2, 3]]])
def test_gradients_reach_a_value_that_broadcasts_in_another_dtype(
    adapted: intervene.Adapted, ids: Tensor, positions: Any
) -> None:
    site = adapted["layer.0.block_output"].at(positions=positions)
    value = torch.ones(24, dtype=torch.float64, requires_grad=True)
    with adapted.session(reads=[site], writes={site: value}, grad=True) as session:
        adapted.model(ids)
    session.values[site].sum().backward()
    assert value.grad is not None
    assert torch.equal(value.grad, torch.full_like(value, session.values[site].numel() / 24))


def test_reads_take_the_dtype_and_device_that_are_asked_for(adapted: intervene.Adapted, ids: Tensor) -> None:
    values = adapted.read("layer.0.block_output", input_ids=ids, dtype=torch.float64, device="meta")
    assert values["layer.0.block_output"].dtype == torch.float64
    assert values["layer.0.block_output"].device.type == "meta"


def test_a_function_that_returns_none_leaves_the_activation(adapted: intervene.Adapted, ids: Tensor) -> None:
    seen: list[Tensor] = []
    with torch.no_grad():
        plain = adapted.model(ids).logits
        with adapted.session(writes={"layer.0.block_output": lambda h: seen.append(h)}):
            out = adapted.model(ids).logits
    assert len(seen) == 1
    assert torch.equal(out, plain)


def test_a_function_that_works_in_place_and_returns_none_changes_nothing(
    adapted: intervene.Adapted, ids: Tensor
) -> None:
    def scribble(h: Tensor) -> None:
        h.zero_()

    with torch.no_grad():
        plain = adapted.model(ids).logits
        sites = ["layer.0.block_output", "layer.1.block_input", "layer.0.query_output", "layer.1.head_key_output"]
        with adapted.session(writes=dict.fromkeys(sites, scribble)):
            assert torch.equal(adapted.model(ids).logits, plain)


def test_a_function_that_returns_no_tensor(adapted: intervene.Adapted, ids: Tensor) -> None:
    with (
        pytest.raises(TypeError, match=r"layer.0.block_output: the written function returned float"),
        adapted.session(writes={"layer.0.block_output": lambda h: 1.0}),  # type: ignore[arg-type]
    ):
        adapted.model(ids)


@pytest.mark.parametrize("value", ["zero", None, [1.0]])
def test_a_value_that_is_none_of_the_three(adapted: intervene.Adapted, value: Any) -> None:
    with pytest.raises(TypeError, match=r"layer.0.block_output: a written value is a tensor, a number, or a function"):
        adapted.session(writes={"layer.0.block_output": value})


# Models that change their activations in place.


@pytest.mark.parametrize("grad", [False, True])
def test_a_read_keeps_what_it_saw(grad: bool) -> None:
    model, x = InPlace(), torch.randn(2, 4)
    expected = model.layer(x).detach()
    with intervene.adapt(model).session(reads=["layer.output"], grad=grad) as session:
        model(x)
    assert torch.equal(session.values["layer.output"].detach(), expected)


@pytest.mark.parametrize(
    "how", ["tensor", "function", "broadcast tensor", "broadcast function", "leaf", "leaf function"]
)
def test_what_the_caller_wrote_stays_the_callers(how: str) -> None:
    value = torch.zeros(4) if "broadcast" in how else torch.zeros(2, 4)
    value.requires_grad_("leaf" in how)
    model = InPlace()
    written: Any = (lambda h: value) if "function" in how else value
    with intervene.adapt(model).session(writes={"layer.output": written}):
        out = model(torch.randn(2, 4))
    assert torch.equal(out, torch.full((2, 4), 2.0))
    assert not value.any()
    if "leaf" in how:
        out.sum().backward()
        assert value.grad is not None
        assert torch.equal(value.grad, torch.full((2, 4), 2.0))


def test_a_part_of_an_activation_that_changes_in_place() -> None:
    model, x = InPlace(), torch.randn(2, 4)
    with torch.no_grad():
        plain = model(x)
        site = intervene.adapt(model)["layer.output"].at(dims=[3, 0])
        with intervene.adapt(model).session(writes={site: 0.0}):
            out = model(x)
    assert torch.equal(out[:, 1:3], plain[:, 1:3])
    assert torch.equal(out[:, [0, 3]], torch.full((2, 2), 2.0))


# Gradients, against plain PyTorch.


def test_gradients_through_a_written_part(toy: Any, x: Tensor) -> None:
    source = torch.randn(2, 2, requires_grad=True)
    site = intervene.adapt(toy)["first.output"].at(dims=[4, 1])
    given_x = x.clone().requires_grad_()
    with intervene.adapt(toy).session(writes={site: source}):
        toy(given_x).square().sum().backward()
    got = [p.grad.clone() for p in toy.parameters()]
    assert source.grad is not None
    got += [source.grad.clone(), given_x.grad]

    toy.zero_grad()
    plain_source, plain_x = source.detach().clone().requires_grad_(), x.clone().requires_grad_()
    h = toy.first(plain_x)
    h = torch.stack([h[:, 0], plain_source[:, 1], h[:, 2], h[:, 3], plain_source[:, 0]], dim=1)
    toy.second(torch.tanh(h)).square().sum().backward()
    expected = [p.grad for p in toy.parameters()] + [plain_source.grad, plain_x.grad]
    for a, b in zip(got, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_gradients_through_a_written_function(toy: Any, x: Tensor) -> None:
    scale = torch.tensor(0.5, requires_grad=True)
    with intervene.adapt(toy).session(writes={"second.input": lambda h: h * scale}):
        toy(x).square().sum().backward()
    got = [p.grad.clone() for p in toy.parameters()] + [scale.grad]
    toy.zero_grad()
    plain = scale.detach().clone().requires_grad_()
    toy.second(torch.tanh(toy.first(x)) * plain).square().sum().backward()
    for a, b in zip(got, [*[p.grad for p in toy.parameters()], plain.grad], strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_gradients_through_a_read(toy: Any, x: Tensor) -> None:
    given_x = x.clone().requires_grad_()
    values = intervene.adapt(toy).read("second.input", given_x, grad=True)
    values["second.input"].square().sum().backward()
    plain_x = x.clone().requires_grad_()
    torch.tanh(toy.first(plain_x)).square().sum().backward()
    assert given_x.grad is not None
    assert plain_x.grad is not None
    assert torch.allclose(given_x.grad, plain_x.grad, atol=1e-6)


def test_reads_have_no_graph_unless_asked(toy: Any, x: Tensor) -> None:
    with intervene.adapt(toy).session(reads=["first.output"]) as session:
        toy(x)
    assert not session.values["first.output"].requires_grad
    with intervene.adapt(toy).session(reads=["first.output"], grad=True) as session:
        toy(x)
    assert session.values["first.output"].grad_fn is not None


def test_gradients_of_the_model_with_only_reads_are_the_models_own(toy: Any, x: Tensor) -> None:
    toy(x).sum().backward()
    expected = [p.grad.clone() for p in toy.parameters()]
    toy.zero_grad()
    with intervene.adapt(toy).session(reads=["first.output", "second.input", "output"], grad=True):
        toy(x).sum().backward()
    for a, p in zip(expected, toy.parameters(), strict=True):
        assert torch.equal(a, p.grad)


def test_no_grad_around_the_model_stays(toy: Any, x: Tensor) -> None:
    with torch.no_grad(), intervene.adapt(toy).session(reads=["first.output"], grad=True) as session:
        assert not toy(x).requires_grad
    assert not session.values["first.output"].requires_grad


def test_inference_mode(toy: Any, x: Tensor) -> None:
    site = intervene.adapt(toy)["first.output"].at(dims=[0])
    with torch.inference_mode(), intervene.adapt(toy).session(reads=[site], writes={site: 3.0}) as session:
        toy(x)
    assert torch.equal(session.values[site], torch.full((2, 1), 3.0))


# Several forwards, several sessions.


def test_keep_last_and_all(adapted: intervene.Adapted, ids: Tensor) -> None:
    site = "layer.0.block_output"
    with adapted.session(reads=[site], keep="all") as every, adapted.session(reads=[site]) as last:
        for row in ids:
            adapted.model(row[None])
    assert len(every.values[site]) == 2
    assert torch.equal(every.values[site][1], last.values[site])
    assert not torch.equal(every.values[site][0], last.values[site])


def test_keep_is_one_of_two(adapted: intervene.Adapted) -> None:
    with pytest.raises(SessionError, match="'last' or 'all', not 'first'"):
        adapted.session(keep="first")  # type: ignore[arg-type]


def test_nested_sessions_on_one_model(adapted: intervene.Adapted, ids: Tensor) -> None:
    """The outer session's write comes first, the inner one sees it; afterwards the outer one is alone."""
    site = "layer.1.block_output"
    with adapted.session(reads=[site], writes={site: 2.0}, keep="all") as outer:
        with adapted.session(reads=[site], writes={site: lambda h: h + 1}) as inner:
            adapted.model(ids)
        after = adapted.model(ids).logits
    assert torch.equal(inner.values[site], torch.full((2, 6, 24), 3.0))
    assert [t.unique().tolist() for t in outer.values[site]] == [[2.0], [2.0]]
    with adapted.session(writes={site: 2.0}):
        assert torch.equal(adapted.model(ids).logits, after)


def test_a_read_inside_a_session_sees_its_writes(adapted: intervene.Adapted, ids: Tensor) -> None:
    """And the early stop of the read neither ends nor disturbs the session."""
    with adapted.session(reads=["logits"], writes={"layer.0.block_output": 1.0}, keep="all") as session:
        values = adapted.read("layer.1.block_input", input_ids=ids)
        adapted.model.transformer(ids)  # type: ignore[operator]
        adapted.model(ids)
        adapted.model(ids)
    assert torch.equal(values["layer.1.block_input"], torch.ones(2, 6, 24))
    assert len(session.values["logits"]) == 2


def test_sessions_that_overlap_without_nesting(adapted_eager: intervene.Adapted, ids: Tensor) -> None:
    model = adapted_eager.model
    sites = ["layer.0.attention_pattern", "layer.0.block_output"]
    plain = model(ids).logits
    first = adapted_eager.session(writes=dict.fromkeys(sites, 0.5))
    second = adapted_eager.session(reads=sites)
    first.__enter__()
    second.__enter__()
    model(ids)
    first.__exit__(None, None, None)
    assert second.values[sites[0]].unique().tolist() == [0.5]
    model(ids)
    second.__exit__(None, None, None)
    assert second.values[sites[0]].unique().numel() > 1
    assert torch.equal(model(ids).logits, plain)
    assert "forward" not in vars(model.get_submodule("transformer.h.0.attn"))


def test_sessions_on_two_models_do_not_see_each_other(ids: Tensor) -> None:
    models = [intervene.adapt(intervene.tiny("gpt2", seed=s)) for s in (0, 1)]
    plain = [m.model(ids).logits for m in models]
    site = "layer.1.block_output"
    with models[0].session(writes={site: 0.0}) as _, models[1].session(reads=[site]) as other:
        changed = [m.model(ids).logits for m in models]
    assert not torch.equal(changed[0], plain[0])
    assert torch.equal(changed[1], plain[1])
    assert torch.equal(other.values[site], models[1].read(site, input_ids=ids)[site])


def test_threads_on_separate_models(ids: Tensor) -> None:
    count, rounds = 3, 8
    models = [intervene.adapt(intervene.tiny("gpt2", seed=s, attn_implementation="eager")) for s in range(count)]
    sites = ["layer.1.attention_pattern", "layer.2.block_output"]
    writes = [{"layer.0.attention_pattern": 0.1 * (s + 1), "layer.1.mlp_output": float(s)} for s in range(count)]

    def once(index: int) -> list[Tensor]:
        with models[index].session(reads=sites, writes=writes[index]) as session:
            models[index].model(ids)
        return [session.values[s] for s in sites]

    alone = [once(i) for i in range(count)]
    together: list[list[list[Tensor]]] = [[] for _ in range(count)]
    barrier = threading.Barrier(count)

    def work(index: int) -> None:
        barrier.wait()
        for _ in range(rounds):
            together[index].append(once(index))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(count):
        assert len(together[index]) == rounds
        for got in together[index]:
            assert all(torch.equal(a, b) for a, b in zip(got, alone[index], strict=True))


def test_a_session_is_entered_once(adapted: intervene.Adapted, ids: Tensor) -> None:
    session = adapted.session(reads=["layer.0.block_output"])
    with session:
        adapted.model(ids)
        with pytest.raises(SessionError, match="entered once"):
            session.__enter__()
    with pytest.raises(SessionError, match="entered once"), session:
        pass


def test_values_before_they_exist(adapted: intervene.Adapted, ids: Tensor) -> None:
    session = adapted.session(reads=["layer.0.block_output"])
    with pytest.raises(SessionError, match="no values yet"):
        _ = session.values
    with session:
        assert len(session.values) == 0
        with pytest.raises(KeyError, match=r"layer.0.block_output was not read; these were: none"):
            _ = session.values["layer.0.block_output"]
        adapted.model(ids)
        assert len(session.values) == 1


def test_values_by_every_name(adapted: intervene.Adapted, ids: Tensor) -> None:
    """By site, by address, and as the caller spelled it."""
    spellings: list[Any] = ["layer.-1.block_output", "layer.0.attention_weight", adapted["logits"].at(positions=[-1])]
    values: Any = adapted.read(spellings, input_ids=ids, attention="eager")
    for spelling in [*spellings, "layer.2.block_output", "layer.0.attention_pattern", "logits[positions=-1]"]:
        assert spelling in values
        assert isinstance(values[spelling], Tensor)
    assert values["layer.-1.block_output"] is values[adapted["layer.2.block_output"]]
    assert "layer.1.block_output" not in values
    assert [s.address for s in values] == ["layer.0.attention_pattern", "layer.2.block_output", "logits[positions=-1]"]


# What never happened is said.


def test_no_forward_at_all(adapted: intervene.Adapted) -> None:
    session = adapted.session(reads=["layer.0.block_output"])
    with pytest.raises(NeverFiredError, match=r"layer.0.block_output .* no forward of the model ran"), session:
        pass


def test_a_module_that_the_forward_leaves_out(x: Tensor) -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Any:
            return self.used(x)

    model = Skips()
    session = intervene.adapt(model).session(writes={"unused.output": 0.0, "used.output": 0.0})
    session.__enter__()
    model(x)
    model(x)
    with pytest.raises(NeverFiredError, match=r"unused.output .* 2 forward\(s\) ran and none passed there"):
        session.__exit__(None, None, None)
    with pytest.raises(NeverFiredError, match=r"unused.input"):
        intervene.adapt(model).read(["used.output", "unused.input"], x)


@pytest.mark.parametrize("positions", [9, [2, 9], -7, [[9], [8]], slice(7, 9)])
def test_a_position_that_is_never_reached(adapted: intervene.Adapted, ids: Tensor, positions: Any) -> None:
    site = adapted["layer.0.block_output"].at(positions=positions)
    message = r"layer.0.block_output\[positions=.*\]: position\(s\) .* never came by; .* columns 0 to 5"
    with pytest.raises(NeverFiredError, match=message):
        adapted.read(site, input_ids=ids)
    with pytest.raises(NeverFiredError, match=message), adapted.session(writes={site: 0.0}):
        adapted.model(ids)


def test_an_exception_of_the_callers_is_not_covered_by_never_fired(adapted: intervene.Adapted) -> None:
    with pytest.raises(ZeroDivisionError), adapted.session(reads=["layer.0.block_output"]):
        _ = 1 / 0


# Modules that run several times in one forward.


@pytest.mark.parametrize("address", ["layers.0.output", "layers.1.output", "layers.0.input"])
def test_a_shared_module_is_ambiguous(address: str) -> None:
    model, x = Repeated(), torch.randn(2, 3)
    adapted = intervene.adapt(model)
    path = address.rpartition(".")[0]
    with pytest.raises(AmbiguousCallError, match=rf"{path} ran 2 times in one forward; say which with .at\(call=0\)"):
        adapted.read(address, x)
    with pytest.raises(AmbiguousCallError), adapted.session(writes={address: 0.0}):
        model(x)


def test_which_call_of_a_shared_module() -> None:
    model, x = Repeated(), torch.randn(2, 3)
    adapted = intervene.adapt(model)
    layer = model.layers[0]
    site = adapted["layers.0.output"]
    values = adapted.read([site.at(call=0), site.at(call=1)], x)
    assert torch.equal(values[site.at(call=0)], layer(x))
    assert torch.equal(values[site.at(call=1)], layer(layer(x)))
    expected = layer(torch.zeros(2, 3))
    with adapted.session(writes={site.at(call=0): 0.0}):
        assert torch.equal(model(x), expected)
    with adapted.session(writes={site.at(call=1): 0.0}):
        assert torch.equal(model(x), torch.zeros(2, 3))
        assert torch.equal(model(x), torch.zeros(2, 3))
    with pytest.raises(NeverFiredError, match="call=2"):
        adapted.read(site.at(call=2), x)


def test_calls_are_counted_in_each_forward() -> None:
    """Also after one that ended in an exception or an interrupt."""
    model, x = Repeated(), torch.randn(2, 3)
    adapted = intervene.adapt(model)
    site = adapted["layers.0.output"].at(call=1)

    with adapted.session(reads=[site], keep="all") as session:
        for error in (RuntimeError, KeyboardInterrupt):
            with pytest.raises(error):
                model(torch.randn(2, 7)) if error is RuntimeError else _interrupted(model, x)
            model(x)
    assert len(session.values[site]) == 2
    assert torch.equal(session.values[site][0], session.values[site][1])


def _interrupted(model: Any, x: Tensor) -> None:
    def interrupt(*args: Any) -> None:
        handle.remove()
        raise KeyboardInterrupt

    handle = model.layers[0].register_forward_pre_hook(interrupt)
    model(x)


def test_a_head_that_runs_twice_outside_the_base(gpt2: Any, ids: Tensor) -> None:
    """transformers' base model ends before the head begins; both are one forward."""
    from transformers import GPT2LMHeadModel

    class Twice(GPT2LMHeadModel):
        def forward(self, input_ids: Tensor) -> Any:
            hidden = self.transformer(input_ids).last_hidden_state
            return self.lm_head(hidden), self.lm_head(hidden * 2)

    model = Twice(gpt2.config).eval()
    adapted = intervene.adapt(model)
    with pytest.raises(AmbiguousCallError, match="lm_head ran 2 times"):
        adapted.read("lm_head.output", ids)
    site = adapted["lm_head.output"].at(call=1)
    assert torch.equal(adapted.read(site, ids)[site], model(ids)[1])


def test_two_forwards_of_the_bare_base_are_two(adapted: intervene.Adapted, ids: Tensor) -> None:
    with adapted.session(reads=["layer.0.block_output"], keep="all") as session:
        adapted.model.transformer(ids)  # type: ignore[operator]
        adapted.model.transformer(ids)  # type: ignore[operator]
        adapted.model(ids)
    assert len(session.values["layer.0.block_output"]) == 3


# Shapes.


@pytest.mark.parametrize("shape", [(2, 6, 23), (6, 23), (3, 6, 24), (2, 7, 24), (1, 2, 6, 24), (2, 5, 24)])
@pytest.mark.parametrize("function", [False, True])
def test_a_value_that_does_not_fit(
    adapted: intervene.Adapted, ids: Tensor, shape: tuple[int, ...], function: bool
) -> None:
    value = torch.zeros(shape)
    message = rf"layer.1.block_output: the value has shape \({', '.join(map(str, shape))}\), .* \(2, 6, 24\) \(batch, "
    session = adapted.session(writes={"layer.1.block_output": (lambda h: value) if function else value})
    with pytest.raises(ShapeMismatchError, match=message), session:
        adapted.model(ids)


@given(st.data())
def test_a_write_leaves_everything_else_at_its_site_alone(adapted: Any, ids: Tensor, data: st.DataObject) -> None:
    """And is read back, whatever was selected, by tensor as by function."""
    component = data.draw(st.sampled_from(["head_query_output", "head_attention_value_output"]))
    site = adapted.site(component, layer=data.draw(st.integers(0, 2)))
    size = {"rows": 2, "heads": 3, "positions": 6, "dims": 8}
    chosen = {
        n: data.draw(st.lists(st.integers(0, s - 1), min_size=1, unique=True))
        for n, s in size.items()
        if data.draw(st.booleans())
    }
    narrow = site.at(**chosen) if chosen else site
    plain = adapted.read([site, narrow], input_ids=ids)
    new = torch.randn(plain[narrow].shape, generator=torch.Generator().manual_seed(7))
    written: Any = data.draw(st.sampled_from([new, lambda part: part * 0 + new]))
    with torch.no_grad(), adapted.session(reads=[site, narrow], writes={narrow: written}) as session:
        adapted.model(ids)
    assert torch.equal(session.values[narrow], new)
    mask = torch.ones(2, 3, 6, 8, dtype=torch.bool)
    index = [chosen.get(n, list(range(s))) for n, s in size.items()]
    mask[torch.meshgrid(*(torch.tensor(i) for i in index), indexing="ij")] = False
    assert torch.equal(session.values[site][mask], plain[site][mask])


@given(st.permutations(["layer.0.query_output", "layer.0.mlp_output", "layer.1.block_input", "layer.2.key_output"]))
def test_the_order_of_distinct_sites_does_not_matter(adapted: Any, ids: Tensor, order: list[str]) -> None:
    with torch.no_grad():
        with adapted.session(writes={s: lambda h: h * 2 + 1 for s in sorted(order)}):
            expected = adapted.model(ids).logits
        with adapted.session(writes=[(s, lambda h: h * 2 + 1) for s in order]):
            assert torch.equal(adapted.model(ids).logits, expected)


@pytest.mark.parametrize("first", ["whole", "failed"])
def test_the_base_after_the_whole_model(adapted: intervene.Adapted, ids: Tensor, first: str) -> None:
    """Each is a forward of its own, though both get the same tensor; one that failed doesn't count for the next."""
    model: Any = adapted.model
    base = model.base_model
    site = adapted.site("block_output", 1).at(positions=-1)
    wanted = [adapted.read(site, input_ids=i)[site] for i in (ids, ids[:, :4])]
    with adapted.session(reads=[site], keep="all") as session:
        if first == "whole":
            model(input_ids=ids)
        else:
            with pytest.raises(IndexError):
                model(input_ids=ids, position_ids=ids + 10**6)
        base(input_ids=ids)
        base(input_ids=ids[:, :4])
    expected = [wanted[0], *wanted] if first == "whole" else wanted
    assert all(torch.equal(a, b) for a, b in zip(session.values[site], expected, strict=True))


def test_a_written_activation_keeps_its_layout() -> None:
    """The same numbers in another order in memory make a kernel round otherwise."""

    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.transpose(1, 2)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turned = Turned()
            self.strides: list[tuple[int, ...]] = []

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.turned(x)
            self.strides.append(out.stride())
            return out * 1

    model, x = Outer(), torch.randn(2, 3, 4)
    adapted = intervene.adapt(model)
    site = adapted["turned.output"]
    value = adapted.read(site, x)[site].contiguous()
    for chosen, new in ((site, value), (site.at(dims=[0, 2]), value[..., [0, 2]]), (site, lambda part: part + 1)):
        with adapted.session(writes={chosen: new}):
            model(x)
    assert set(model.strides) == {x.transpose(1, 2).stride()}


class Crossed(nn.Module):
    """A layer whose output is handed on with its axes exchanged, as attention hands on its heads."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Exchanged()
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.layer(x)
        self.seen.append(h.stride())
        return h.flatten(1).cumsum(1)


class Exchanged(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


@pytest.mark.parametrize("selection", [{}, {"rows": [0]}, {"dims": [0, 2]}, {"dims": slice(1, 3)}])
def test_what_is_written_lies_in_memory_as_what_it_replaces(selection: dict[str, Any]) -> None:
    """Fused attention sums in another order when it doesn't, so that an identity is none bit for bit."""
    model = Crossed()
    site = intervene.adapt(model)["layer.output"].at(**selection)
    x = torch.randn(2, 3, 4)
    value = torch.randn(1, dtype=torch.float64, requires_grad=True)
    with intervene.adapt(model).session(reads=[site], writes={site: lambda part: value.expand(part.shape)}) as session:
        output = model(x)
    assert (session.values[site] == value.float()).all()
    model(x)
    assert model.seen[0] == model.seen[1] == (12, 1, 4)
    output[:, -1].sum().backward()
    assert value.grad == session.values[site].numel()


class Windows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.unfold(1, 3, 1)


@pytest.mark.parametrize("selection", [{}, {"dims": 0}, {"dims": [0, 2]}, {"rows": 1}])
@pytest.mark.parametrize("value", [-1.0, torch.tensor(-1.0), lambda part: part - 10])
def test_entries_that_share_a_place_in_memory_are_written_each_for_itself(
    selection: dict[str, Any], value: Any
) -> None:
    model = nn.Sequential(Windows(), nn.Identity())
    site = intervene.adapt(model)["0.output"].at(**selection)
    x = torch.arange(10.0).reshape(2, 5)
    expected = x.unfold(1, 3, 1).clone()
    index: Any = (selection.get("rows", slice(None)), slice(None), selection.get("dims", slice(None)))
    expected[index] = expected[index] - 10 if callable(value) else -1
    with intervene.adapt(model).session(reads=["1.output"], writes={site: value}) as session:
        assert torch.equal(model(x), expected)
    assert torch.equal(session.values["1.output"], expected)
    assert torch.equal(x, torch.arange(10.0).reshape(2, 5))

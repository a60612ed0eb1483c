"""Ports: arguments by position and keyword, every shape of output, functions inside a forward, and hook order."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.modeling_outputs import BaseModelOutput

import intervene
from intervene.calls import SOFTMAX, Attention, Function
from intervene.errors import AmbiguousCallError, PortError
from intervene.ports import Input, Output, Port

Pair = namedtuple("Pair", ["left", "right"])


class Through(nn.Module):
    """Adds its two arguments; both by position or keyword."""

    def forward(self, first: Tensor, second: Any = 0.0, *, third: Any = 0.0) -> Any:
        return first + 10 * second + 100 * third


class Variadic(nn.Module):
    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        return sum(args) + sum(kwargs.values())


class KeywordOnly(nn.Module):
    def forward(self, *, first: Tensor) -> Tensor:
        return first


ONE = torch.ones(2)


def run(module: nn.Module, port: Port, *args: Any, new: Any = None, **kwargs: Any) -> tuple[list[Any], Any]:
    """What a port's callback saw, and what the module returned while the callback answered ``new``."""
    seen: list[Any] = []

    def callback(value: Tensor) -> Tensor | None:
        seen.append(value.clone())
        return new

    handle = port.attach(module, callback)
    try:
        return seen, module(*args, **kwargs)
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("port", "args", "kwargs", "expected"),
    [
        (Input(), (ONE,), {}, 7.0),
        (Input(), (), {"first": ONE}, 7.0),
        (Input(name="first"), (ONE,), {}, 7.0),
        (Input(name="first"), (), {"first": ONE}, 7.0),
        (Input(name="second"), (ONE, ONE), {}, 71.0),
        (Input(name="second"), (ONE,), {"second": ONE}, 71.0),
        (Input(name="third"), (ONE,), {"third": ONE}, 701.0),
    ],
    ids=str,
)
def test_an_argument_by_position_or_keyword(port: Input, args: Any, kwargs: Any, expected: float) -> None:
    seen, output = run(Through(), port, *args, new=torch.full((2,), 7.0), **kwargs)
    assert torch.equal(seen[0], ONE)
    assert output.tolist() == [expected] * 2


def test_the_first_argument_of_forwards_that_name_none() -> None:
    assert torch.equal(run(KeywordOnly(), Input(), first=ONE)[0][0], ONE)
    assert torch.equal(run(Variadic(), Input(), ONE, ONE * 2)[0][0], ONE)
    assert torch.equal(run(Variadic(), Input(), any=ONE)[0][0], ONE)
    assert torch.equal(run(Variadic(), Input(name="b"), a=ONE, b=ONE * 2)[0][0], ONE * 2)


def test_an_argument_that_was_not_passed() -> None:
    with pytest.raises(PortError, match=r"no argument 'second'; it passed 1 positional and \[\] by keyword"):
        run(Through(), Input(name="second"), ONE)


def test_an_argument_that_is_no_tensor() -> None:
    with pytest.raises(PortError, match="expected a tensor there, found float"):
        run(Through(), Input(name="second"), ONE, 0.5)


def test_arguments_of_the_caller_are_not_changed() -> None:
    given = {"first": ONE, "second": ONE}
    run(Through(), Input(name="second"), new=ONE * 3, **given)
    assert given["second"] is ONE


class Returns(nn.Module):
    def __init__(self, make: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, a: Tensor, b: Tensor) -> Any:
        return self.make(a, b)


A, B, NEW = torch.full((2,), 1.0), torch.full((2,), 2.0), torch.full((2,), 9.0)

SHAPES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda a, b: (a, b),
    "list": lambda a, b: [a, b],
    "namedtuple": Pair,
    "dict": lambda a, b: {"z": a, "a": b},
    "ordered": lambda a, b: OrderedDict(z=a, a=b),
    "ModelOutput": lambda a, b: BaseModelOutput(last_hidden_state=a, attentions=b),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("index", [0, 1, -1])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_entry_by_number(shape: str, index: int) -> None:
    seen, output = run(Returns(SHAPES[shape]), Output(index=index), A, B, new=NEW)
    expected = [A, B]
    assert torch.equal(seen[0], expected[index])
    expected[index] = NEW
    held = list(output.values()) if isinstance(output, dict) else list(output)
    assert [t.tolist() for t in held] == [t.tolist() for t in expected]
    assert type(output) is type(SHAPES[shape](A, B))


def test_an_entry_by_name() -> None:
    seen, output = run(Returns(SHAPES["dict"]), Output(index="a"), A, B, new=NEW)
    assert torch.equal(seen[0], B)
    assert list(output) == ["z", "a"]
    assert torch.equal(output["a"], NEW)
    seen, output = run(Returns(SHAPES["ModelOutput"]), Output(index="attentions"), A, B, new=NEW)
    assert torch.equal(seen[0], B)
    # By attribute, by key and by number alike.
    assert output.attentions is output["attentions"] is output[1] is output.to_tuple()[1] is NEW
    assert torch.equal(output.last_hidden_state, A)


def test_names_of_a_namedtuple_and_of_torchs_own_results_stay() -> None:
    _, pair = run(Returns(Pair), Output(index=1), A, B, new=NEW)
    assert isinstance(pair, Pair)
    assert pair.right is NEW
    _, largest = run(Returns(lambda a, b: torch.max(a, dim=0)), Output(), A, B, new=torch.tensor(5.0))
    assert largest.values.item() == 5.0
    assert largest.indices.item() == 0


def test_the_modules_own_return_value_is_not_changed() -> None:
    held = {"x": A}
    _, output = run(Returns(lambda a, b: held), Output(), A, B, new=NEW)
    assert held["x"] is A
    assert output["x"] is NEW


@pytest.mark.parametrize(
    ("shape", "index", "message"),
    [
        ("tuple", 2, "found tuple, without the entry"),
        ("tuple", "a", "found tuple, without the entry"),
        ("dict", "b", r"found \['z', 'a'\], without the entry"),
        ("dict", 2, r"found \['z', 'a'\], without the entry"),
    ],
)
def test_an_entry_that_is_missing(shape: str, index: Any, message: str) -> None:
    with pytest.raises(PortError, match=message):
        run(Returns(SHAPES[shape]), Output(index=index), A, B)


def test_an_output_that_holds_no_tensor() -> None:
    for returned in ((None, A), [None]):
        with pytest.raises(PortError, match="expected a tensor there, found NoneType"):
            run(Returns(lambda a, b, r=returned: r), Output(), A, B)  # type: ignore[misc]


def test_keys_that_do_not_sort_are_named_all_the_same() -> None:
    with pytest.raises(PortError, match="without the entry"):
        run(Returns(lambda a, b: {1: a, "b": b}), Output(index="c"), A, B)


class Softmax(nn.Module):
    def __init__(self, spelling: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.spelling = spelling

    def forward(self, x: Tensor) -> Tensor:
        return self.spelling(x)


SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.softmax": lambda x: F.softmax(x, dim=-1),
    "torch.softmax": lambda x: torch.softmax(x, -1),
    "Tensor.softmax": lambda x: x.softmax(dim=-1),
}
RESULT = Function("", SOFTMAX, None, "pattern")
ARGUMENT = Function("", SOFTMAX, 0, "scores")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_softmax(spelling: str) -> None:
    module, x = Softmax(SPELLINGS[spelling]), torch.randn(3, 4)
    seen, output = run(module, ARGUMENT, x, new=torch.zeros(3, 4))
    assert torch.equal(seen[0], x)
    assert torch.equal(output, torch.full((3, 4), 0.25))
    seen, output = run(module, RESULT, x, new=torch.zeros(3, 4))
    assert len(seen) == 1
    assert torch.equal(seen[0], torch.softmax(x, -1))
    assert torch.equal(output, torch.zeros(3, 4))
    assert vars(module).get("forward") is None


@pytest.mark.parametrize("order", [(ARGUMENT, RESULT), (RESULT, ARGUMENT)])
def test_scores_and_pattern_of_one_module(order: tuple[Function, Function]) -> None:
    """The pattern is that of the written scores, whichever was attached first."""
    module, x = Softmax(SPELLINGS["F.softmax"]), torch.randn(3, 4)
    seen: dict[Port, Tensor] = {}

    def keep(port: Port, new: Tensor | None) -> Callable[[Tensor], Tensor | None]:
        return lambda value: (seen.update({port: value}), new)[1]

    handles = [port.attach(module, keep(port, torch.zeros(3, 4) if port is ARGUMENT else None)) for port in order]
    module(x)
    assert torch.equal(seen[ARGUMENT], x)
    assert torch.equal(seen[RESULT], torch.full((3, 4), 0.25))
    for handle in handles:
        handle.remove()
    assert "forward" not in vars(module)
    assert torch.equal(module(x), torch.softmax(x, -1))


@pytest.mark.parametrize("first", [0, 1])
def test_function_ports_are_removed_in_any_order(first: int) -> None:
    module = Softmax(SPELLINGS["F.softmax"])
    calls: list[int] = []
    handles = [RESULT.attach(module, lambda v, i=i: calls.append(i)) for i in range(2)]  # type: ignore[misc]
    handles[first].remove()
    module(torch.zeros(1, 2))
    assert calls == [1 - first]
    handles[1 - first].remove()
    assert "forward" not in vars(module)


def test_a_forward_that_was_shadowed_before_stays_shadowed() -> None:
    """As accelerate does."""
    module = Softmax(SPELLINGS["F.softmax"])
    own = module.forward
    shadow = lambda x: own(x) * 2  # noqa: E731
    module.forward = shadow  # type: ignore[method-assign]
    seen, output = run(module, RESULT, torch.zeros(1, 2))
    assert torch.equal(seen[0], torch.full((1, 2), 0.5))
    assert torch.equal(output, torch.ones(1, 2))
    assert vars(module)["forward"] is shadow


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_no_mode_behind(error: type[BaseException]) -> None:
    def fails(x: Tensor) -> Tensor:
        raise error

    for module, callback in ((Softmax(fails), lambda v: None), (Softmax(SPELLINGS["F.softmax"]), fails)):
        handle = RESULT.attach(module, callback)
        with pytest.raises(error):
            module(torch.zeros(1, 2))
        assert torch.overrides._get_current_function_mode_stack() == []
        handle.remove()
        assert "forward" not in vars(module)


class Doubling(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return result * 2 if func in SOFTMAX else result


def test_the_callers_own_mode_goes_on() -> None:
    module = Softmax(SPELLINGS["F.softmax"])
    with Doubling():
        seen, output = run(module, RESULT, torch.zeros(1, 2))
    assert torch.equal(seen[0], torch.ones(1, 2))
    assert torch.equal(output, torch.ones(1, 2))


def test_a_callback_may_call_the_function_itself(adapted_eager: intervene.Adapted, ids: Tensor) -> None:
    """The softmax in a written function is the caller's own, not the model's."""
    sites = ["layer.0.attention_scores", "layer.0.attention_pattern"]
    plain = adapted_eager.read(sites, input_ids=ids)
    with adapted_eager.session(
        reads=sites,
        writes={
            "layer.0.attention_pattern": lambda p: torch.softmax(p.log(), -1),
            "layer.0.attention_scores": lambda s: s + torch.softmax(s, -1) * 0,
        },
    ) as session:
        adapted_eager.model(ids)
    for site in sites:
        assert torch.allclose(session.values[site], plain[site], atol=1e-6)


def test_a_callback_may_run_another_model(adapted_eager: intervene.Adapted, ids: Tensor) -> None:
    """Whose own sites are seen all the while."""
    other = intervene.adapt(intervene.tiny("gpt2", seed=5, attn_implementation="eager"))
    source = other.read("layer.1.attention_pattern", input_ids=ids)["layer.1.attention_pattern"]
    site = "layer.1.attention_pattern"
    with adapted_eager.session(reads=[site], writes={site: lambda p: other.read(site, input_ids=ids)[site]}) as session:
        adapted_eager.model(ids)
    assert torch.equal(session.values[site], source)


def test_a_function_called_twice_is_ambiguous() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(torch.softmax(x, -1), -1)

    seen, _ = run(Twice(), RESULT, torch.zeros(1, 2))
    assert len(seen) == 2
    site = intervene.Site("pattern", None, None, None, RESULT)
    adapted = intervene.adapt(Twice())
    with pytest.raises(AmbiguousCallError, match="ran 2 times"):
        adapted.read(site, torch.zeros(1, 2))
    assert torch.equal(adapted.read(site.at(call=1), torch.zeros(1, 2))[site.at(call=1)], torch.full((1, 2), 0.5))


def test_a_function_without_its_positional_argument() -> None:
    with pytest.raises(PortError, match="called without a positional argument 0"):
        run(Softmax(lambda x: torch.softmax(input=x, dim=-1)), ARGUMENT, torch.zeros(1, 2))


def test_attention_knows_scores_and_pattern_alone() -> None:
    with pytest.raises(ValueError, match=r"\['pattern', 'scores'\], not 'weights'"):
        Attention("weights")


def test_nested_sessions_see_each_others_pattern(adapted_eager: intervene.Adapted, ids: Tensor) -> None:
    site = "layer.1.attention_pattern"
    uniform = torch.full((1,), 0.25)
    with (
        adapted_eager.session(writes={site: uniform}),
        adapted_eager.session(reads=[site]) as inner,
    ):
        adapted_eager.model(ids)
    assert torch.equal(inner.values[site], torch.full((2, 3, 6, 6), 0.25))


# Order against other hooks of the caller.


def test_the_callers_earlier_hooks_act_first(toy: Any, x: Tensor) -> None:
    order: list[str] = []

    def note(name: str, result: Tensor) -> Tensor:
        order.append(name)
        return result

    toy.first.register_forward_hook(lambda m, a, o: note("before", o + 1))
    adapted = intervene.adapt(toy)
    with adapted.session(writes={"first.output": lambda h: note("write", h)}):
        toy.first.register_forward_hook(lambda m, a, o: note("after", o))
        toy(x)
    assert order == ["before", "write", "after"]
    plain = toy.first.weight @ x.T + toy.first.bias[:, None]
    with adapted.session(reads=["first.output"]) as session:
        toy(x)
    assert torch.allclose(session.values["first.output"], plain.T + 1)


def test_the_callers_earlier_pre_hooks_act_first(toy: Any, x: Tensor) -> None:
    toy.first.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    adapted = intervene.adapt(toy)
    assert torch.equal(adapted.read("first.input", x)["first.input"], x * 2)


@pytest.mark.parametrize("when", ["before", "inside"])
def test_transformers_recorders_see_the_writes(when: str, ids: Tensor) -> None:
    """Whether they were put there before the session or in it, and their order stays."""
    model: Any = intervene.tiny("gpt2", attn_implementation="eager")
    adapted = intervene.adapt(model)
    blocks = list(model.transformer.h)
    # Hooks of the caller before and after the recorders.
    outer = [b.register_forward_hook(lambda m, a, o: None) for b in blocks]
    if when == "before":
        model(ids, output_hidden_states=True, output_attentions=True)
    outer += [b.register_forward_hook(lambda m, a, o: None) for b in blocks]
    orders = [list(m._forward_hooks.items()) for b in blocks for m in (b, b.attn)]
    new = {
        "layer.0.block_output": torch.randn(2, 6, 24),
        "layer.1.attention_pattern": torch.rand(2, 3, 6, 6),
        "layer.1.attention_output": torch.randn(2, 6, 24),
        "layer.0.block_input": torch.randn(2, 6, 24),
    }
    with adapted.session(writes=new, reads=["layer.1.block_output", "layer.2.attention_pattern"]) as session:
        out = model(ids, output_hidden_states=True, output_attentions=True)
    assert torch.equal(out.hidden_states[0], new["layer.0.block_input"])
    assert torch.equal(out.hidden_states[1], new["layer.0.block_output"])
    assert torch.equal(out.hidden_states[2], session.values["layer.1.block_output"])
    assert torch.equal(out.attentions[1], new["layer.1.attention_pattern"])
    assert torch.equal(out.attentions[2], session.values["layer.2.attention_pattern"])
    if when == "before":
        assert orders == [list(m._forward_hooks.items()) for b in blocks for m in (b, b.attn)]
    else:
        for before, module in zip(orders, (m for b in blocks for m in (b, b.attn)), strict=True):
            kept = [item for item in module._forward_hooks.items() if item in before]
            assert kept == before
    for handle in outer:
        handle.remove()

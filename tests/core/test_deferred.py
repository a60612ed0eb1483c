"""A residual stream that blocks hand on in two parts, and a tensor that a module makes in one of several ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from intervene.calls import Call, Function
from intervene.deferred import StreamInput, StreamOutput
from intervene.ports import Either, Port

X = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


class Block(nn.Module):
    """Returns what it computes and the stream before it, for the next one to add."""

    def forward(self, part: Tensor, residual: Tensor | None = None, scale: float = 2.0) -> tuple[Tensor, Tensor]:
        residual = part if residual is None else part + residual
        return scale * residual, residual


class Stack(nn.Module):
    def __init__(self, keyword: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block(), Block()])
        self.keyword = keyword

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor | None = None
        for block in self.blocks:
            x, residual = block(part=x, residual=residual, scale=2.0) if self.keyword else block(x, residual)
        return x if residual is None else x + residual


def see(model: nn.Module, port: Port, x: Tensor, new: Callable[[Tensor], Tensor] | None = None) -> tuple[Any, Tensor]:
    """What flows by at a port in one forward, and the forward's output."""
    seen = []

    def callback(value: Tensor) -> Tensor | None:
        seen.append(value)
        return None if new is None else new(value)

    handle = port.attach(model, callback)
    try:
        output: Tensor = model(x)
    finally:
        handle.remove()
    return seen, output


@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize(("port", "times"), [(StreamInput, [1, 3, 9]), (StreamOutput, [3, 9, 27])])
def test_the_stream_is_the_sum(port: Callable[[str], Port], times: list[int], keyword: bool) -> None:
    model = Stack(keyword)
    for layer, factor in enumerate(times):
        (found,), output = see(model, port(f"blocks.{layer}"), X)
        assert torch.equal(found, factor * X)
        assert torch.equal(output, 27 * X)
        _, output = see(model, port(f"blocks.{layer}"), X, torch.clone)
        assert torch.equal(output, 27 * X)
        _, output = see(model, port(f"blocks.{layer}"), X, lambda stream: torch.ones_like(stream))
        assert torch.equal(output, torch.full((2, 2), 27.0 / factor))


class Stepping(nn.Module):
    """Multiplies by its weights: a sequence from the left, a single row by a method of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2, bias=False)
        self.outer = nn.Linear(2, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            return self.outer(self.step(x, state=torch.zeros(1)))
        return self.outer((self.inner.weight @ x.T).T)

    def step(self, x: Tensor, state: Tensor) -> Tensor:
        return nn.functional.linear(x, self.inner.weight)


PRODUCT = Function("", (torch.Tensor.matmul, torch.Tensor.__matmul__), label="product", weight="inner.weight")
ONE_STEP = Function("", (nn.functional.linear,), label="product", weight="inner.weight")


def test_a_product_with_one_of_the_weights() -> None:
    """`outer` makes one, too, that isn't meant."""
    model = Stepping()
    either = Either("", (PRODUCT, ONE_STEP))
    for x in (X, X[:1]):
        (found,), _ = see(model, either, x)
        torch.testing.assert_close(found.reshape(-1), model.inner(x).T.reshape(-1) if len(x) > 1 else model.inner(x)[0])
        _, output = see(model, either, x, torch.zeros_like)
        assert not output.any()
    assert str(either) == "product in model or product in model"
    assert "forward" not in vars(model)


def test_ports_of_an_either_stand_under_the_same_module() -> None:
    inner = Stepping()
    outer = nn.Sequential(inner)
    found = Either("", (PRODUCT, ONE_STEP)).under("0")
    assert found.path == "0"
    (value,), _ = see(outer, found, X[:1])
    torch.testing.assert_close(value, inner.inner(X[:1]))


@pytest.mark.parametrize("argument", ["x", "state"])
def test_a_method_that_the_forward_calls(argument: str) -> None:
    model = Stepping()
    port = Call("", ("step",), argument=argument)
    (found,), output = see(model, port, X[:1], torch.zeros_like)
    assert torch.equal(found, X[:1] if argument == "x" else torch.zeros(1))
    assert output.any() == (argument == "state")
    assert vars(model).keys().isdisjoint({"step", "forward"})


def test_a_method_watched_by_two() -> None:
    """Each sees its own module's calls, and takes its watching away alone."""
    first, second = Stepping(), Stepping()
    seen: list[str] = []
    step = Call("", ("step",))
    handles = [
        step.attach(first, lambda value: seen.append("a")),
        step.attach(second, lambda value: seen.append("b")),
        step.attach(first, lambda value: seen.append("c")),
    ]
    first(X[:1])
    second(X[:1])
    handles[0].remove()
    first(X[:1])
    assert seen == ["a", "c", "b", "c"]
    for handle in handles[1:]:
        handle.remove()
    assert "step" not in {*vars(first), *vars(second)}


class Rounds(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(nn.functional.silu(x) + 1)


@pytest.mark.parametrize("nth", [0, 1])
def test_one_of_several_calls(nth: int) -> None:
    model = Rounds()
    wanted = [nn.functional.silu(X), model(X)][nth]
    port = Function("", (nn.functional.silu,), label="SiLU", nth=nth)
    for _ in range(2):
        (found,), _ = see(model, port, X)
        assert torch.equal(found, wanted)

"""Python functions that a forward calls by name: seen in one module's forward alone, and put back afterwards."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import intervene
from intervene.calls import Call, Gated
from intervene.errors import PortError

THIS = sys.modules[__name__]


def turn(query: Tensor, key: Tensor, by: float = 1.0) -> tuple[Tensor, Tensor]:
    return query + by, key - by


def whole(values: Tensor) -> Tensor:
    return values * 3


def step(values: Tensor) -> Tensor:
    return values * 2


class Turning(nn.Module):
    """Calls `turn` by position or keyword, then one of `whole` and `step`."""

    def __init__(self, keyword: bool = False) -> None:
        super().__init__()
        self.keyword = keyword

    def forward(self, x: Tensor) -> Tensor:
        query, key = turn(query=x, key=x) if self.keyword else turn(x, x)
        return (whole if x.shape[0] > 1 else step)(query) + key


QUERY = Call("", ("turn",), index=0)
KEY = Call("", ("turn",), argument="key")
SCAN = Call("", ("whole", "step"))
X = torch.tensor([[1.0], [2.0]])


def keeping(seen: list[Tensor], new: Tensor | None = None) -> Callable[[Tensor], Tensor | None]:
    """A callback that keeps what it sees and gives ``new`` in its place."""

    def callback(value: Tensor) -> Tensor | None:
        seen.append(value)
        return new

    return callback


def seen_by(module: nn.Module, port: Call, new: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
    seen: list[Tensor] = []
    handle = port.attach(module, keeping(seen, new))
    try:
        return seen, module(X)
    finally:
        handle.remove()


@pytest.fixture(autouse=True)
def _functions_come_back() -> Iterator[None]:
    before = {name: getattr(THIS, name) for name in ("turn", "whole", "step")}
    yield
    assert {name: getattr(THIS, name) for name in before} == before


@pytest.mark.parametrize("keyword", [False, True])
def test_results_and_arguments(keyword: bool) -> None:
    module = Turning(keyword)
    plain = module(X)
    for port, there in ((QUERY, X + 1), (KEY, X), (SCAN, (X + 1) * 3)):
        seen, output = seen_by(module, port)
        assert len(seen) == 1
        assert torch.equal(seen[0], there)
        assert torch.equal(output, plain)
    zero = torch.zeros_like(X)
    assert torch.equal(seen_by(module, QUERY, zero)[1], 0 * 3 + (X - 1))
    assert torch.equal(seen_by(module, KEY, zero)[1], (X + 1) * 3 - 1)
    assert torch.equal(seen_by(module, SCAN, zero)[1], X - 1)
    assert "forward" not in vars(module)


def test_alternatives_are_one_port() -> None:
    seen: list[Tensor] = []
    module = Turning()
    handle = SCAN.attach(module, seen.append)
    module(X)
    module(X[:1])
    handle.remove()
    assert torch.equal(seen[0], (X + 1) * 3)
    assert torch.equal(seen[1], (X[:1] + 1) * 2)


def test_other_modules_and_plain_calls_are_not_seen() -> None:
    watched, other = Turning(), Turning()
    seen: list[Tensor] = []
    handle = QUERY.attach(watched, keeping(seen, torch.zeros_like(X)))
    plain = other(X)
    assert torch.equal(turn(X, X)[0], X + 1)
    handle.remove()
    assert not seen
    assert torch.equal(plain, other(X))


def test_what_a_callback_calls_is_its_own() -> None:
    seen: list[Tensor] = []

    def again(value: Tensor) -> Tensor:
        seen.append(value)
        return turn(value, value)[0]

    module = Turning()
    handle = QUERY.attach(module, again)
    output = module(X)
    handle.remove()
    assert len(seen) == 1
    assert torch.equal(output, (X + 2) * 3 + X - 1)


def test_a_callback_may_run_another_watched_module() -> None:
    inner, outer = Turning(), Turning()
    seen: list[str] = []

    def run_inner(value: Tensor) -> Tensor:
        seen.append("outer")
        output: Tensor = inner(X)
        return output

    handles = [
        QUERY.attach(inner, lambda value: seen.append("inner")),
        QUERY.attach(outer, run_inner),
    ]
    outer(X)
    for handle in handles:
        handle.remove()
    assert seen == ["outer", "inner"]


@pytest.mark.parametrize("first", [0, 1])
def test_removed_in_any_order(first: int) -> None:
    modules = [Turning(), Turning()]
    seen: list[int] = []
    handles = [QUERY.attach(m, lambda value, i=i: seen.append(i)) for i, m in enumerate(modules)]  # type: ignore[misc]
    handles[first].remove()
    for module in modules:
        module(X)
    assert seen == [1 - first]
    handles[1 - first].remove()


def test_threads_do_not_see_each_other() -> None:
    """One thread stands inside a watched forward while another runs a module of the same class."""
    inside, done = threading.Event(), threading.Event()
    watched, plain = Turning(), Turning()

    def wait(value: Tensor) -> Tensor:
        inside.set()
        assert done.wait(30)
        return torch.zeros_like(value)

    handle = QUERY.attach(watched, wait)
    thread = threading.Thread(target=lambda: watched(X))
    thread.start()
    assert inside.wait(30)
    found = plain(X)
    done.set()
    thread.join()
    handle.remove()
    assert torch.equal(found, plain(X))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_nothing_behind(error: type[BaseException]) -> None:
    def fail(value: Tensor) -> Tensor:
        raise error

    watched, other = Turning(), Turning()
    handle = QUERY.attach(watched, fail)
    with pytest.raises(error):
        watched(X)
    # The failed forward no longer counts as running.
    assert torch.equal(turn(X, X)[0], X + 1)
    handle.remove()
    assert torch.equal(watched(X), other(X))


def test_somebody_elses_replacement_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    original = turn
    handle = QUERY.attach(Turning(), lambda value: None)

    def mine(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return original(query, key)

    monkeypatch.setattr(THIS, "turn", mine)
    handle.remove()
    assert THIS.turn is mine
    monkeypatch.undo()
    THIS.turn = original  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("port", "message"),
    [
        (Call("", ("turns",)), "no function 'turns'"),
        (Call("", ("turn",), argument="by"), "passed no such argument; the function takes query, key, by"),
        (Call("", ("turn",)), "expected a tensor there, found tuple"),
        (Call("", ("turn",), index=2), "without the entry 2"),
    ],
)
def test_what_is_not_there(port: Call, message: str) -> None:
    with pytest.raises(PortError, match=message):
        seen_by(Turning(), port)


def test_the_function_keeps_its_name_and_signature() -> None:
    import inspect

    handle = QUERY.attach(Turning(), lambda value: None)
    assert turn.__name__ == "turn"
    assert list(inspect.signature(turn).parameters) == ["query", "key", "by"]
    handle.remove()


class Accumulating(nn.Module):
    """Hands a function a tensor of its own that the function updates."""

    def __init__(self) -> None:
        super().__init__()
        self.state = torch.ones(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return accumulate(self.state, x)


def accumulate(state: Tensor, x: Tensor) -> Tensor:
    state.copy_(2 * state + x)
    return state.clone()


@pytest.mark.parametrize("updated", [True, False])
def test_an_argument_that_is_updated(updated: bool) -> None:
    """A write goes into the tensor that the module keeps; in one of its own the update would be lost."""
    module = Accumulating()
    port = Call("", ("accumulate",), argument="state", updated=updated)
    _, result = seen_by(module, port, torch.tensor([[10.0], [10.0]]))
    assert torch.equal(result, torch.tensor([[21.0], [22.0]]))
    assert torch.equal(module.state, result if updated else torch.ones(2, 1))


class Gating(nn.Module):
    """Multiplies much, and once by the SiLU of a gate."""

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.nn.functional.silu(3 * x)
        return (x * 2) * gate + 1 * x


@pytest.mark.parametrize("new", [None, torch.zeros(2, 1)])
def test_what_is_gated(new: Tensor | None) -> None:
    module = Gating()
    seen: list[Tensor] = []
    handle = Gated().attach(module, keeping(seen, new))
    found = module(X)
    found_again = module(X)
    handle.remove()
    assert [v.tolist() for v in seen] == [[[2.0], [4.0]]] * 2
    assert torch.equal(found, module(X) if new is None else X)
    assert torch.equal(found, found_again)


def test_what_is_gated_by_another_module_is_not_seen() -> None:
    """A gate is forgotten with the forward that made it."""
    seen: list[Tensor] = []
    module = Gating()
    handle = Gated().attach(module, keeping(seen))
    gate = torch.nn.functional.silu(X)
    _ = X * gate
    handle.remove()
    assert not seen


def _rotated(model: nn.Module, write: Callable[[Tensor], Tensor]) -> Tensor:
    adapted = intervene.adapt(model)
    with adapted.session(writes={"layer.1.query_rotated": write}):
        output: Tensor = model(input_ids=torch.arange(3, 9).unsqueeze(0)).logits
    return output


def test_under_gradient_checkpointing() -> None:
    """The second pass of a checkpoint runs in the backward pass, shadowed as the first."""
    grads = []
    for checkpointed in (False, True):
        model = intervene.tiny("llama")
        model.train()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        with intervene.adapt(model).session(writes={"layer.1.query_rotated": lambda q: q * 0.5}):
            model(input_ids=torch.arange(3, 9).unsqueeze(0)).logits.sum().backward()
        grads.append([p.grad for p in model.parameters()])
    for plain, again in zip(*grads, strict=True):
        assert plain is not None
        assert torch.equal(plain, again)


def test_two_models_of_one_file_at_once() -> None:
    first, second = intervene.tiny("llama"), intervene.tiny("llama", seed=1)
    alone = [_rotated(m, lambda q: q * 0) for m in (first, second)]
    with intervene.adapt(first).session(writes={"layer.1.query_rotated": lambda q: q * 0}):
        assert torch.equal(_rotated(second, lambda q: q * 0), alone[1])
        assert torch.equal(first(input_ids=torch.arange(3, 9).unsqueeze(0)).logits, alone[0])

"""What runs a module's forward in its place comes and goes without a trace."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intervene
from intervene.calls import SOFTMAX, Function
from intervene.shadow import Around, shadow


class Doubling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor, loud: bool = False) -> Tensor:
        if loud:
            raise ValueError("too loud")
        return torch.softmax(x, -1) * self.weight


def adding(amount: float) -> Any:
    return lambda forward, *args, **kwargs: forward(*args, **kwargs) + amount


@pytest.mark.parametrize("first_goes_first", [True, False])
def test_leaving_in_any_order(first_goes_first: bool) -> None:
    module, x = Doubling(), torch.zeros(2)
    first, second = Around(module, adding(1.0)), Around(module, adding(10.0))
    assert torch.equal(module(x), torch.full((2,), 12.0))
    (first if first_goes_first else second).remove()
    assert torch.equal(module(x), torch.full((2,), 11.0 if first_goes_first else 2.0))
    (second if first_goes_first else first).remove()
    assert "forward" not in vars(module)


def test_with_a_watched_function() -> None:
    module, x = Doubling(), torch.zeros(2)
    seen: list[Tensor] = []
    around = Around(module, adding(1.0))
    watch = Function("", SOFTMAX, None).attach(module, seen.append)
    around.remove()
    module(x)
    assert len(seen) == 1
    watch.remove()
    module(x)
    assert len(seen) == 1
    assert "forward" not in vars(module)


def test_a_forward_of_the_instance_comes_back() -> None:
    module = Doubling()
    vars(module)["forward"] = own = lambda x: x
    Around(module, adding(1.0)).remove()
    assert vars(module)["forward"] is own


def test_what_was_put_over_it_stays() -> None:
    """As when accelerate dispatches a model within a session."""
    module, x = Doubling(), torch.zeros(2)
    around = Around(module, adding(1.0))
    below = module.forward
    vars(module)["forward"] = own = lambda x: below(x) * 3
    around.remove()
    assert vars(module)["forward"] is own
    assert torch.equal(module(x), torch.full((2,), 3.0))


def test_it_has_the_signature_of_the_forward() -> None:
    module = Doubling()
    expected = inspect.signature(module.forward)
    around = Around(module, adding(1.0))
    assert inspect.signature(module.forward) == expected
    around.remove()


def test_one_serves_all() -> None:
    module = Doubling()
    Around(module, adding(1.0))
    assert shadow(module) is shadow(module)


def test_sessions_left_in_the_order_they_were_entered(ids: Tensor) -> None:
    model: Any = intervene.tiny("gpt2")
    adapted, plain = intervene.adapt(model), model(ids).logits
    first = adapted.session(reads=["layer.0.block_output"])
    second = adapted.session(writes={"layer.1.block_output": 0.0})
    first.__enter__()
    second.__enter__()
    model(ids)
    first.__exit__(None, None, None)
    assert not torch.equal(model(ids).logits, plain)
    second.__exit__(None, None, None)
    assert torch.equal(model(ids).logits, plain)
    assert all("forward" not in vars(module) for module in model.modules())


def test_a_copy_made_within_a_session_is_a_plain_model(ids: Tensor) -> None:
    model: Any = intervene.tiny("gpt2", attn_implementation="eager")
    adapted, plain = intervene.adapt(model), model(ids).logits
    kinds = ("block_output", "head_query_output", "mlp_input", "attention_scores")
    writes = {f"layer.1.{kind}": 0.0 for kind in kinds}
    with adapted.session(reads=["layer.0.block_output"], writes=writes, keep="all") as session:
        model(ids)
        copied = copy.deepcopy(model)
        assert torch.equal(copied(ids).logits, plain)
    assert len(session.values["layer.0.block_output"]) == 1
    with torch.no_grad():
        copied.transformer.wte.weight.zero_()
    assert not torch.equal(copied(ids).logits, plain)


def test_a_failed_forward_is_over(ids: Tensor) -> None:
    """What is called next is a forward of its own, and a module called after that is part of none."""
    model: Any = intervene.tiny("gpt2")
    adapted = intervene.adapt(model)
    with adapted.session(reads=["layer.0.block_output"], keep="all") as session:
        with pytest.raises(IndexError):
            model(torch.full_like(ids, 10**6))
        model(ids)
        model.transformer(ids)
        model.transformer.h[0](torch.zeros(1, 2, model.config.n_embd))
    assert len(session.values["layer.0.block_output"]) == 3

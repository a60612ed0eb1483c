"""Small models, and a record of everything about a model that an intervention must leave alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import intervene

Snapshot = dict[str, Any]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def gpt2() -> nn.Module:
    """A tiny GPT-2; nobody changes it."""
    return intervene.tiny("gpt2")


@pytest.fixture(scope="session")
def eager() -> nn.Module:
    """The same GPT-2 with eager attention."""
    return intervene.tiny("gpt2", attn_implementation="eager")


@pytest.fixture(scope="session")
def adapted(gpt2: nn.Module) -> intervene.Adapted:
    return intervene.adapt(gpt2)


@pytest.fixture(scope="session")
def adapted_eager(eager: nn.Module) -> intervene.Adapted:
    return intervene.adapt(eager)


@pytest.fixture(scope="session")
def ids() -> Tensor:
    """Two rows of six tokens, none of them special."""
    return torch.randint(3, 61, (2, 6), generator=torch.Generator().manual_seed(0))


class Toy(nn.Module):
    """Two linear layers with a tanh between; `first` is called by position, `second` by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.second = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(input=torch.tanh(self.first(x)))


@pytest.fixture
def toy() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Toy()


@pytest.fixture(scope="session")
def x() -> Tensor:
    return torch.randn(2, 4, generator=torch.Generator().manual_seed(2))


# Every dictionary in which torch keeps a module's hooks, by name.
HOOKS = [name for name, value in vars(nn.Module()).items() if "hook" in name and isinstance(value, dict)]


def _snapshot(model: nn.Module) -> Snapshot:
    modules = dict(model.named_modules(remove_duplicate=False))
    config = getattr(model, "config", None)
    return {
        "parameters": {n: (id(p), p.detach().clone(), p.requires_grad) for n, p in model.named_parameters()},
        "buffers": {n: (id(b), b.detach().clone()) for n, b in model.named_buffers()},
        "training": {n: m.training for n, m in modules.items()},
        "hooks": {n: {h: list(getattr(m, h).items()) for h in HOOKS} for n, m in modules.items()},
        "attributes": {n: {k: id(v) for k, v in vars(m).items()} for n, m in modules.items()},
        "config": None if config is None else config.to_dict(),
        "attention": getattr(config, "_attn_implementation", None),
        "torch rng": torch.get_rng_state(),
        "python rng": random.getstate(),
        "numpy rng": np.random.get_state(legacy=False),
        "modes": [id(m) for m in torch.overrides._get_current_function_mode_stack()],
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
    }


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


@pytest.fixture(scope="session")
def snapshot() -> Callable[[nn.Module], Snapshot]:
    """Everything about a model, and about the process, that must be the same afterwards."""
    return _snapshot


@pytest.fixture(scope="session")
def assert_untouched() -> Callable[[nn.Module, Snapshot], None]:
    """Compares a model with an earlier snapshot of it and names what differs."""

    def check(model: nn.Module, before: Snapshot) -> None:
        after = _snapshot(model)
        changed = [name for name in before if not _same(before[name], after[name])]
        assert not changed

    return check

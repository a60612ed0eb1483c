"""Mutants of this library itself, where an adapter cannot make the mistake: what sessions do for every port."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from intervene import session, taps
from intervene.adapter import Adapter
from intervene.adapters.gpt2 import GPT2
from intervene.caches import Caches
from intervene.selection import Frame, Picked

from .making import on_models
from .mutant import Mutant


class _InPlaceBlock:
    """A block whose output takes the place of its input in memory, as inference code does to save some."""

    def __init__(self, block: nn.Module) -> None:
        self._forward = type(block).forward
        self._block = block

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        output = self._forward(self._block, hidden_states, *args, **kwargs)
        if torch.is_grad_enabled():
            return output
        return hidden_states.copy_(output)


def _in_place(model: nn.Module) -> None:
    blocks = model.get_submodule("transformer.h" if hasattr(model, "transformer") else "h")
    for block in blocks.children():
        block.forward = _InPlaceBlock(block)


InPlaceGPT2: type[Adapter] = on_models(_in_place)
"""GPT-2 whose blocks overwrite the residual stream."""


def _live_reads() -> AbstractContextManager[object]:
    def act(self: taps.Read, seen: Tensor, picked: Picked, frame: Frame, again: bool) -> None:
        part = picked.lens.get(seen)
        self._values._set(self.site, part if self._grad else part.detach())

    return mock.patch.object(taps.Read, "act", act)


def _live_writes() -> AbstractContextManager[object]:
    def _tensor(self: taps.Write, value: Tensor, seen: Tensor, picked: Picked, frame: Frame) -> Tensor:
        return self._fit(value, seen, picked.shape)

    return mock.patch.object(taps.Write, "_tensor", _tensor)


def _no_cache_offset() -> AbstractContextManager[object]:
    return mock.patch.object(Caches, "length", return_value=0)


def _first_write_wins() -> AbstractContextManager[object]:
    init = session.Session.__init__

    def reversed_writes(self: session.Session, model: Any, reads: Any = (), writes: Any = (), **more: Any) -> None:
        init(self, model, reads, list(reversed(list(writes))), **more)

    return mock.patch.object(session.Session, "__init__", reversed_writes)


MUTANTS = [
    Mutant(
        "read_does_not_clone",
        "a read keeps the model's own tensor, which the model overwrites later",
        "cached activations of models that add to the residual stream in place",
        InPlaceGPT2,
        ("block_input",),
        "meaning:normalization:attention_input",
        "attention_input = ln_1(block_input)",
        _live_reads,
    ),
    Mutant(
        "write_does_not_clone",
        "the caller's own tensor flows into the model, which overwrites it later",
        "a source activation used for several runs, the second time with the first run's result in it",
        InPlaceGPT2,
        ("block_input",),
        "put_get:block_input",
        "block_input changed the caller's own tensor",
        _live_writes,
    ),
    Mutant(
        "cache_length_ignored",
        "under a cache every step is taken for the sequence's beginning",
        "no cache_position any more, and nothing read in its place",
        GPT2,
        ("block_output",),
        "generation:block_output",
        "generate with a cache, against position",
        _no_cache_offset,
    ),
    Mutant(
        "first_write_wins",
        "of two writes at one site the first one counts",
        "hooks run in the order of registration, writes stored in a stack",
        GPT2,
        ("mlp_output",),
        "put_get:mlp_output",
        "after two writes",
        _first_write_wins,
    ),
]

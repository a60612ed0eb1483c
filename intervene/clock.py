"""The clock: which forward of the model is running, and which columns of the sequence pass by in it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from threading import get_ident
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from .caches import Caches
from .checkpointing import recomputing
from .paths import way
from .ports import Handle, parameter_names
from .selection import START, Frame
from .shadow import Around

# The arguments that hand a model what earlier calls computed.
_CACHES = ("past_key_values", "cache_params", "inference_params")
# The inputs that say how many columns there are, and on which axis.
_COLUMNS = {"input_ids": -1, "inputs_embeds": -2}
# What the sequence consists of; a decoder's own comes before what its encoder was given.
_TOKENS = ("decoder_input_ids", "input_ids")
# The arguments that say for how many last columns the logits are wanted.
_KEPT = ("logits_to_keep", "num_last_tokens")


class Clock:
    """Counts the model's forwards and reads from each one's arguments where in the sequence it stands.

    It runs the forwards of the model and of its base (transformers' ``base_model``), because a caller may run the bare
    base, and of the root of each tower that is asked about, because generation may run that alone. What the model
    itself calls belongs to the model's forward.

    Attributes:
        forwards: how many began.
        grad: whether gradients were on as the last one began.
    """

    def __init__(self) -> None:
        self.forwards = 0
        self.grad = False
        self._frames: dict[str, Frame] = {}
        self._roots: set[str] = set()
        self._threads: set[int] = set()
        self._caches = Caches()
        self._generations: dict[nn.Module, tuple[FrameType, int]] = {}
        self._within: FrameType | None = None

    def attach(self, model: nn.Module, roots: Iterable[str], within: FrameType | None = None) -> list[Handle]:
        """Start listening; the handles stop it.

        Args:
            roots: the module path of the root of each tower that is asked about and has a sequence of its own.
            within: the call in whose course listening starts; a ``generate`` around it isn't asked about.
        """
        self._within = within
        base = getattr(model, "base_model", model)
        listened: dict[nn.Module, str] = {model: ""}
        if isinstance(base, nn.Module):
            listened[base] = ""
        for path in roots:
            root = way(model, path)[-1]
            if root not in listened:
                self._roots.add(path)
                listened[root] = path
        return [Around(module, partial(self._run, module, path)) for module, path in listened.items()]

    def frame(self, root: str) -> Frame:
        """Where in its sequence the last forward of the module at ``root`` stands; the model where it has none of its
        own."""
        return self._frames.get(root if root in self._roots else "", START)

    @property
    def running(self) -> bool:
        """Whether a forward that counts is under way in this thread; what torch.compile traces is part of one."""
        return torch.compiler.is_compiling() or get_ident() in self._threads

    def forget(self) -> None:
        """Let go of the calls of ``generate`` that were seen."""
        self._generations.clear()
        self._within = None

    def _run(self, module: nn.Module, root: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        thread = 0 if torch.compiler.is_compiling() else get_ident()
        within = thread in self._threads
        if within and not root:
            # The model's own arguments say more than its base's: how many logits it keeps.
            return forward(*args, **kwargs)
        stands = not recomputing()
        if stands:
            if not within:
                self.forwards += 1
                self.grad = torch.is_grad_enabled()
            self._frames[root] = self._stand(module, args, kwargs)
        if within:
            return forward(*args, **kwargs)
        self._threads.add(thread)
        try:
            output = forward(*args, **kwargs)
        finally:
            self._threads.remove(thread)
        cache = getattr(output, "cache_params", None)
        if cache is not None and stands and not root:
            self._note(cache)
        return output

    def _note(self, cache: Any) -> None:
        """Note how far the sequence stands in the cache of a recurrent model, which has no length to ask for."""
        frame = self.frame("")
        if frame.length is not None and frame.counted:
            self._caches.note(cache, frame.offset + frame.length)

    def _stand(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Frame:
        passed = kwargs
        if args:
            names = parameter_names(type(module).forward)
            # Not by zip, whose `strict` torch.compile couldn't trace in torch 2.6.
            passed = {**{names[i]: arg for i, arg in enumerate(args[: len(names)])}, **kwargs}
        past, tokens = _first(passed, _CACHES), _first(passed, _TOKENS)
        offset = 0 if past is None else self._caches.length(past)
        length = None
        for name, axis in _COLUMNS.items():
            tensor = passed.get(name)
            if isinstance(tensor, Tensor) and tensor.dim() >= -axis:
                length = tensor.shape[axis]
                break
        kept = _first(passed, _KEPT)
        return Frame(
            offset or 0,
            length,
            kept if isinstance(kept, int) and kept > 0 else None,
            self._prompt_length(module, length) if offset == 0 and length is not None else None,
            offset is not None,
            tokens if isinstance(tokens, Tensor) else None,
        )

    def _prompt_length(self, module: nn.Module, length: int) -> int:
        """The length of the prompt, which a later step of ``generate`` without a cache runs again and more."""
        generation = _generate(module, self._within)
        if generation is None:
            return length
        known = self._generations.get(module)
        if known is None or known[0] is not generation:
            known = self._generations[module] = (generation, length)
        return known[1]


def _first(passed: Mapping[str, Any], names: Iterable[str]) -> Any:
    """The argument of the first of ``names`` that was passed, None aside."""
    for name in names:
        if passed.get(name) is not None:
            return passed[name]
    return None


def _generate(owner: nn.Module, within: FrameType | None) -> FrameType | None:
    """The innermost running call of ``owner.generate``, if there is one within the call ``within``."""
    # Under torch.compile there is no call stack to see.
    frame: FrameType | None = None if torch.compiler.is_compiling() else sys._getframe(1)
    while frame is not None and frame is not within:
        if frame.f_code.co_name == "generate" and frame.f_locals.get("self") is owner:
            return frame
        frame = frame.f_back
    return None

"""The clock: which forward of the model is running, and which columns of the sequence pass by in it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from .caches import Caches
from .checkpointing import recomputing
from .paths import way
from .ports import Handle, parameter_names
from .selection import START, Frame

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

    It listens on the model and on its base (transformers' ``base_model``), because a caller may run the bare base, and
    on the root of each tower that is asked about, because generation may run that alone. What the model itself calls
    belongs to the model's forward.

    Attributes:
        forwards: how many began.
        grad: whether gradients were on as the last one began.
    """

    def __init__(self) -> None:
        self.forwards = 0
        self.grad = False
        self._frames: dict[str, Frame] = {}
        self._roots: set[str] = set()
        self._listened: list[nn.Module] = []
        self._handed_on: Tensor | None = None
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
        begins: dict[nn.Module, Callable[..., None]] = {model: partial(self._begin, "", ())}
        if isinstance(base, nn.Module) and base is not model:
            begins[base] = self._begin_base
        around = tuple(begins)
        for path in roots:
            root = way(model, path)[-1]
            if root not in around:
                self._roots.add(path)
                begins[root] = partial(self._begin, path, around)
        self._listened = list(begins)
        handles: list[Handle] = [m.register_forward_pre_hook(b, with_kwargs=True) for m, b in begins.items()]
        if "cache_params" in parameter_names(type(model).forward):
            # The cache of a recurrent model has no length to ask for.
            handles += [m.register_forward_hook(self._end) for m in (model, base) if m in begins]
        return handles

    def frame(self, root: str) -> Frame:
        """Where in its sequence the last forward of the module at ``root`` stands; the model where it has none of its
        own."""
        return self._frames.get(root if root in self._roots else "", START)

    @property
    def running(self) -> bool:
        """Whether a forward that counts is under way in this thread; what torch.compile traces is part of one."""
        return torch.compiler.is_compiling() or _calls("_call_impl", self._listened) is not None

    def tick(self) -> None:
        """Note that a tensor came by in the running forward; a base that is called after it may be a caller's."""
        self._handed_on = None

    def forget(self) -> None:
        """Let go of the calls of ``generate``, and of the inputs, that were seen."""
        self._generations.clear()
        self._handed_on = self._within = None

    def _begin(
        self,
        root: str,
        around: tuple[nn.Module, ...],
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        if recomputing():
            return
        if not around or _calls("_call_impl", around) is None:
            self.forwards += 1
            self.grad = torch.is_grad_enabled()
        self._frames[root] = self._stand(module, args, kwargs)
        if not root:
            self._handed_on = _tokens(args, kwargs)

    def _begin_base(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Within the model's forward the model's own arguments say more: how many logits it keeps. That it hands on the
        # very tensor it was given tells so at once, the call stack in every case.
        handed_on, self._handed_on = self._handed_on, None
        if (handed_on is not None and _tokens(args, kwargs) is handed_on) or recomputing():
            return
        if _calls("_call_impl", self._listened[:1]) is None:
            self._begin("", (), module, args, kwargs)

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        cache = getattr(output, "cache_params", None)
        frame = self.frame("")
        if cache is not None and frame.length is not None and frame.counted:
            self._caches.note(cache, frame.offset + frame.length)

    def _stand(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Frame:
        passed = kwargs
        if args:
            passed = {**dict(zip(parameter_names(type(module).forward), args, strict=False)), **kwargs}
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
        generation = _calls("generate", (module,), self._within)
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


def _tokens(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return kwargs.get("input_ids", args[0] if args else None)


def _calls(
    method: str, owners: list[nn.Module] | tuple[nn.Module, ...], within: FrameType | None = None
) -> FrameType | None:
    """The innermost running call of the ``method`` of one of ``owners``, if there is one within the call ``within``."""
    # Under torch.compile there is no call stack to see.
    frame: FrameType | None = None if torch.compiler.is_compiling() else sys._getframe(1)
    while frame is not None and frame is not within:
        if frame.f_code.co_name == method:
            owner = frame.f_locals.get("self")
            if any(owner is each for each in owners):
                return frame
        frame = frame.f_back
    return None

"""When, in generation, an intervention acts: on the prompt, on which of the tokens that are generated, how strongly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import SelectionError, did_you_mean

Strength = bool | float | Tensor
"""0 or False leaves a token alone, 1 or True acts in full, what lies between acts in part; a tensor for each row."""

Predicate = Callable[[int, Tensor], Strength]
Moments = str | int | slice | range | Sequence[int] | Mapping[int, float] | Predicate
_NAMES = ("all", "prompt", "generated")


@dataclass(frozen=True)
class When:
    """Which moments of a generation are meant.

    Generated tokens are counted from 0. The activation of a token flows by when the model is given it, so the last
    one that is generated has none.

    Attributes:
        prompt: whether prompt positions are acted on.
        first: the first generated token that may be, None for none of them.
        stop: the one after the last, None for no end.
        strength: how strongly for a step and its tokens (rows,); None for in full, throughout.
        conditional: whether it may be that no token is meant.
    """

    prompt: bool
    first: int | None = None
    stop: int | None = None
    strength: Predicate | None = None
    conditional: bool = False

    @property
    def always(self) -> bool:
        """Whether the whole prompt and every generated token is acted on in full."""
        return self.prompt and self.first == 0 and self.stop is None and self.strength is None

    @classmethod
    def of(cls, given: Moments | None, located: bool) -> When:
        """What ``when=`` says.

        Args:
            given: ``"all"``, ``"prompt"``, ``"generated"``; generated tokens by an int, a slice, a range or a list;
                a schedule, token to strength; a function (step, tokens) to a strength. None means "prompt" where
                locations name positions of the prompt, else "all".
            located: whether locations name positions of the prompt. They are acted on besides the generated tokens
                that ``given`` names.

        Raises:
            SelectionError: none of these.
        """
        if given is None:
            given = "prompt" if located else "all"
        if isinstance(given, str):
            if given not in _NAMES:
                raise SelectionError(f"when={given!r} is none of {', '.join(_NAMES)}.{did_you_mean(given, _NAMES)}")
            return cls(given != "generated" or located, None if given == "prompt" else 0)
        if isinstance(given, slice):
            return cls._span(located, given.start or 0, given.stop, given.step)
        if isinstance(given, range):
            return cls._span(located, given.start, given.stop, given.step)
        if _whole(given):
            return cls._span(located, given, given + 1, None)  # type: ignore[operator]
        if isinstance(given, Mapping):
            return cls._schedule(located, {step: float(strength) for step, strength in given.items()})
        if isinstance(given, (list, tuple)):
            return cls._schedule(located, dict.fromkeys(given, 1.0))
        if callable(given):
            return cls(located, 0, None, given, conditional=True)
        raise SelectionError(
            f"when={given!r} says no time: give 'prompt', 'generated', 'all', generated tokens (an int, a slice, a "
            f"list), a schedule {{token: strength}}, or a function of step and tokens"
        )

    @classmethod
    def _span(cls, located: bool, first: Any, stop: Any, step: Any) -> When:
        if step not in (None, 1):
            return cls._schedule(located, dict.fromkeys(range(first, -1 if stop is None else stop, step), 1.0))
        if not _whole(first) or not (stop is None or _whole(stop)) or first < 0 or (stop is not None and stop <= first):
            raise SelectionError(
                f"when: generated tokens are counted from 0 and end is after start, found {first} to {stop}; how many "
                f"there will be isn't known beforehand"
            )
        return cls(located, first, stop)

    @classmethod
    def _schedule(cls, located: bool, strengths: Mapping[Any, float]) -> When:
        wrong = [step for step in strengths if not _whole(step) or step < 0]
        if wrong or not strengths:
            raise SelectionError(f"when: generated tokens are whole numbers from 0, found {wrong or 'none'}")
        return cls(located, min(strengths), max(strengths) + 1, lambda step, _: strengths.get(step, 0.0))

    def steps(self, here: range) -> range:
        """Those of the generated tokens ``here`` that may be acted on."""
        if self.first is None:
            return range(0)
        stop = here.stop if self.stop is None else min(self.stop, here.stop)
        return range(max(self.first, here.start), max(stop, self.first, here.start))


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

"""Taps: one site's read or write, as it sees the tensor at its port."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .errors import SelectionError, ShapeMismatchError
from .lenses import Narrow, Whole
from .selection import START, Frame, Picked, elsewhere, find_axis, position_axis
from .sites import Site, Values

_WHOLE = Whole()
_NONE: frozenset[int] = frozenset()


class Tap:
    """What reads and writes share: finding the site's part in the tensor at the port.

    Attributes:
        fired: in how many forwards it saw its part.
        missed: which of the listed positions no forward has shown yet; None until one has shown only some.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.root = ""
        self.fired = 0
        self.call = site.port.call if site.selection.call is None else site.selection.call
        self.missed: frozenset[int] | None = None
        self.last_column = -1

    def see(self, whole: Tensor, frame: Frame, again: bool) -> Tensor | None:
        """Look at the tensor ``whole``; a replacement, or None to leave it.

        ``again`` says that a backward pass computes this forward a second time.
        """
        if elsewhere(self.site.axes):
            frame = START
        lens = self.site.lens.within(frame)
        seen = lens.get(whole)
        picked = self._pick(seen, frame)
        if picked is None:
            return None
        new = self.act(seen, picked, frame, again)
        if not again:
            self.fired += 1
        if new is None:
            return None
        return _laid_out_as(whole, lens.put(whole, picked.lens.put(seen, new)))

    def act(self, seen: Tensor, picked: Picked, frame: Frame, again: bool) -> Tensor | None:
        """Use the part of ``seen`` that was picked; its replacement, or None."""
        raise NotImplementedError

    def _pick(self, seen: Tensor, frame: Frame) -> Picked | None:
        selection = self.site.selection
        if not selection.narrows:
            return Picked(_WHOLE, seen.shape)
        try:
            picked = selection.resolve(seen.shape, self.site.axes, frame)
        except SelectionError as error:
            raise SelectionError(f"{self.site.address}, an activation of shape {tuple(seen.shape)}: {error}") from None
        if picked is None or picked.entries is not None:
            self._note_missed(seen, frame, picked)
        else:
            self.missed = _NONE
        return picked

    def _note_missed(self, seen: Tensor, frame: Frame, picked: Picked | None) -> None:
        size = seen.shape[find_axis("positions", self.site.axes, seen.dim())]
        self.last_column = max(self.last_column, frame.columns(size).stop - 1)
        selection = self.site.selection
        if self.missed is None:
            self.missed = selection.listed
        if picked is not None:
            listed: Any = selection.positions
            self.missed -= {listed[entry] for entry in picked.entries or ()}


@lru_cache(maxsize=4096)
def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether a tensor of ``shape`` fills one of shape ``to``."""
    missing = len(to) - len(shape)
    return missing >= 0 and all(n in (1, there) for n, there in zip(shape, to[missing:], strict=True))


@lru_cache(maxsize=4096)
def _overlaps(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether a tensor may have two entries at one place in memory, as expanded and unfolded ones do."""
    reach = 0
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


def _laid_out_as(whole: Tensor, new: Tensor) -> Tensor:
    """``new`` with its entries in memory as those of ``whole``: on another layout kernels add in another order."""
    if new.stride() == whole.stride() or _overlaps(whole.shape, whole.stride()):
        return new
    return torch.empty_strided(whole.shape, whole.stride(), dtype=new.dtype, device=new.device).copy_(new)


class Read(Tap):
    """Keeps a copy of the part that flows on."""

    def __init__(
        self,
        site: Site,
        values: Values,
        *,
        grad: bool,
        keep_all: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__(site)
        self._values = values
        self._grad = grad
        self._keep_all = keep_all
        self._device = device
        self._dtype = dtype

    def act(self, seen: Tensor, picked: Picked, frame: Frame, again: bool) -> None:
        if again:
            return
        part = picked.lens.get(seen)
        # A copy: some models change their activations in place after the hook.
        kept = part if self._grad else part.detach()
        kept = kept.to(
            device=self._device if self._device is not None else kept.device,
            dtype=self._dtype if self._dtype is not None else kept.dtype,
            copy=True,
        )
        if not self._keep_all:
            self._values._set(self.site, kept)
        elif self.site in self._values:
            self._values[self.site].append(kept)
        else:
            self._values._set(self.site, [kept])


class Timed:
    """A written function that also wants to know where in the sequence the forward stands: ``f(part, frame)``."""

    def __call__(self, part: Tensor, frame: Frame) -> Tensor | None:
        raise NotImplementedError


class Write(Tap):
    """Puts a tensor, a number, or a function of the part in the part's place.

    A tensor covers the columns it was made for: under generation the later steps go on without it, unless it has
    one position (or none) and so means every position alike.
    """

    def __init__(self, site: Site, value: Any) -> None:
        super().__init__(site)
        if not isinstance(value, (Tensor, float, int)) and not callable(value):
            raise TypeError(
                f"{site.address}: a written value is a tensor, a number, or a function of the activation; "
                f"found {type(value).__name__}"
            )
        self._value = value

    def act(self, seen: Tensor, picked: Picked, frame: Frame, again: bool) -> Tensor | None:
        value = self._value
        if isinstance(value, Tensor):
            return self._tensor(value, seen, picked, frame)
        part = picked.lens.get(seen)
        if isinstance(value, (float, int)):
            return torch.full_like(part, value)
        return self._function(value, part, picked, frame)

    def _function(self, function: Callable[..., Any], part: Tensor, picked: Picked, frame: Frame) -> Tensor | None:
        # The function gets a copy, so that one that works in place cannot reach the model's own tensor.
        new = function(part.clone(), frame) if isinstance(function, Timed) else function(part.clone())
        if new is None:
            return None
        if not isinstance(new, Tensor):
            raise TypeError(
                f"{self.site.address}: the written function returned {type(new).__name__}, not a tensor or None"
            )
        return self._own(new, part, picked)

    def _tensor(self, value: Tensor, seen: Tensor, picked: Picked, frame: Frame) -> Tensor | None:
        shape = picked.shape
        axis = position_axis(self.site.axes, len(shape))
        if axis is not None and value.dim() >= -axis and value.shape[axis] > 1:
            if picked.entries is not None:
                value = self._passing(value, seen, picked, axis)
            elif self.site.selection.positions is None:
                covered = value.shape[axis] - frame.offset
                if frame.offset and covered <= 0:
                    return None
                if frame.offset or (self.fired and covered < shape[axis]):
                    return self._columns(value, picked.lens.get(seen), axis, frame.offset)
        return self._own(value, seen, picked)

    def _passing(self, value: Tensor, like: Tensor, picked: Picked, axis: int) -> Tensor:
        """Of a value for every position that is listed, the part for those that pass by now."""
        shape: list[int] = list(picked.shape)
        shape[axis] = len(self.site.selection.listed)
        entries = torch.tensor(picked.entries, device=like.device)
        return self._fit(value, like, tuple(shape)).index_select(axis, entries)

    def _own(self, value: Tensor, like: Tensor, picked: Picked) -> Tensor:
        """``value`` as the lens can put it in the place of the part that is picked, in a tensor like ``like``."""
        if isinstance(picked.lens, Narrow) and _broadcasts(value.shape, picked.shape):
            # This lens copies what it puts, from any dtype and device, and as often as there is room.
            return value
        fitted = self._fit(value, like, picked.shape)
        # The model may change its activations in place, and the value may be the caller's own. The lenses to a narrower
        # part copy it.
        return fitted.clone() if isinstance(picked.lens, Whole) else fitted

    def _columns(self, value: Tensor, part: Tensor, axis: int, offset: int) -> Tensor:
        count = min(value.shape[axis] - offset, part.shape[axis])
        result = part.clone()
        here = result.narrow(axis, 0, count)
        here.copy_(self._fit(value.narrow(axis, offset, count), part, here.shape))
        return result

    def _fit(self, value: Tensor, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        """``value`` as a tensor of ``shape``, with the device and dtype of ``like``."""
        moved = value.to(like)
        if moved.shape == shape:
            return moved
        try:
            return moved.expand(shape)
        except RuntimeError:
            axes = self.site.axes
            named = f" ({', '.join(axes)})" if axes else ""
            raise ShapeMismatchError(
                f"{self.site.address}: the value has shape {tuple(value.shape)}, the activation there has "
                f"{tuple(shape)}{named}; it must equal or broadcast to that"
            ) from None

"""Taps: one site's read or write, as it sees the tensor at its port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .errors import SelectionError, ShapeMismatchError
from .lenses import Whole
from .selection import START, Frame, Picked, elsewhere, find_axis, position_axis
from .sites import Site, Values

_WHOLE = Picked(Whole())
_NONE: frozenset[int] = frozenset()


class Tap:
    """What reads and writes share: finding the site's part in the tensor at the port."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.root = ""
        self.fired = 0
        self._elsewhere = elsewhere(site.axes)
        self.call = site.selection.call if site.selection.call is not None else site.port.call
        self.missed = site.selection.listed
        self.last_column = -1

    def see(self, whole: Tensor, frame: Frame, again: bool) -> Tensor | None:
        """Look at the tensor ``whole``; a replacement, or None to leave it.

        ``again`` says that a backward pass computes this forward a second time.
        """
        if self._elsewhere:
            frame = START
        lens = self.site.lens.within(frame)
        seen = lens.get(whole)
        picked = self._pick(seen, frame)
        if picked is None:
            return None
        new = self.act(picked.lens.get(seen), picked, frame, again)
        if not again:
            self.fired += 1
        if new is None:
            return None
        return _laid_out_as(whole, lens.put(whole, picked.lens.put(seen, new)))

    def act(self, part: Tensor, picked: Picked, frame: Frame, again: bool) -> Tensor | None:
        """Use the site's part; its replacement, or None."""
        raise NotImplementedError

    def _pick(self, seen: Tensor, frame: Frame) -> Picked | None:
        selection = self.site.selection
        if not selection.narrows:
            return _WHOLE
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
        if picked is not None:
            listed: Any = self.site.selection.positions
            self.missed -= {listed[entry] for entry in picked.entries or ()}


def _laid_out_as(whole: Tensor, new: Tensor) -> Tensor:
    """``new`` with its entries in memory as those of ``whole``: on another layout kernels add in another order."""
    if new.stride() == whole.stride() or 0 in whole.stride():
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

    def act(self, part: Tensor, picked: Picked, frame: Frame, again: bool) -> None:
        if again:
            return
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

    def act(self, part: Tensor, picked: Picked, frame: Frame, again: bool) -> Tensor | None:
        value = self._value
        if isinstance(value, Tensor):
            return self._tensor(value, part, picked, frame)
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

    def _tensor(self, value: Tensor, part: Tensor, picked: Picked, frame: Frame) -> Tensor | None:
        axis = position_axis(self.site.axes, part.dim())
        if axis is not None and value.dim() >= -axis and value.shape[axis] > 1:
            if picked.entries is not None:
                value = value.index_select(axis, torch.tensor(picked.entries, device=value.device))
            elif self.site.selection.positions is None:
                covered = value.shape[axis] - frame.offset
                if frame.offset and covered <= 0:
                    return None
                if frame.offset or (self.fired and covered < part.shape[axis]):
                    return self._columns(value, part, axis, frame.offset)
        return self._own(value, part, picked)

    def _own(self, value: Tensor, part: Tensor, picked: Picked) -> Tensor:
        fitted = self._fit(value, part)
        # The model may change its activations in place, and the value may be the caller's own. The lens to a narrower
        # part copies it.
        return fitted.clone() if isinstance(picked.lens, Whole) else fitted

    def _columns(self, value: Tensor, part: Tensor, axis: int, offset: int) -> Tensor:
        count = min(value.shape[axis] - offset, part.shape[axis])
        here = part.narrow(axis, 0, count)
        result = part.clone()
        result.narrow(axis, 0, count).copy_(self._fit(value.narrow(axis, offset, count), here))
        return result

    def _fit(self, value: Tensor, part: Tensor) -> Tensor:
        """``value`` with the part's device, dtype and shape."""
        moved = value.to(part)
        if moved.shape == part.shape:
            return moved
        try:
            return moved.expand(part.shape)
        except RuntimeError:
            axes = self.site.axes
            named = f" ({', '.join(axes)})" if axes else ""
            raise ShapeMismatchError(
                f"{self.site.address}: the value has shape {tuple(value.shape)}, the activation there has "
                f"{tuple(part.shape)}{named}; it must equal or broadcast to that"
            ) from None

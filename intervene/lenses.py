"""Lenses: which part of a tensor is meant, and how to put another part in its place.

A lens is a pair ``get(whole) -> part`` and ``put(whole, part) -> whole`` that keeps three laws (Foster et al.
2007, "Combinators for bidirectional tree transformations", https://doi.org/10.1145/1232420.1232424):

- get-put: ``put(whole, get(whole))`` equals ``whole``
- put-get: ``get(put(whole, part))`` equals ``part``
- put-put: ``put(put(whole, a), b)`` equals ``put(whole, b)``

``put`` never writes in place, so the model's own tensors and autograd's saved ones stay as they are.
Lenses compose with ``>>``, the outer one first: ``Chunk(0, of=3) >> Heads(12)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import ShapeMismatchError

if TYPE_CHECKING:
    from .selection import Frame


class Lens(ABC):
    """A part of a tensor that can be read, and written without touching the rest."""

    @abstractmethod
    def get(self, whole: Tensor) -> Tensor:
        """The part; it may be a view of ``whole``."""

    @abstractmethod
    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        """A new tensor like ``whole`` with ``part`` in its place."""

    def within(self, frame: Frame) -> Lens:
        """The lens for a forward that stands at ``frame``; most lenses don't ask where."""
        return self

    def __rshift__(self, inner: Lens) -> Lens:
        return Composed(self, inner)


@dataclass(frozen=True)
class Composed(Lens):
    """``inner`` applied to the part that ``outer`` shows."""

    outer: Lens
    inner: Lens

    def get(self, whole: Tensor) -> Tensor:
        return self.inner.get(self.outer.get(whole))

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return self.outer.put(whole, self.inner.put(self.outer.get(whole), part))

    def within(self, frame: Frame) -> Lens:
        outer, inner = self.outer.within(frame), self.inner.within(frame)
        return self if outer is self.outer and inner is self.inner else Composed(outer, inner)


@dataclass(frozen=True)
class Whole(Lens):
    """The tensor itself."""

    def get(self, whole: Tensor) -> Tensor:
        return whole

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part

    def __rshift__(self, inner: Lens) -> Lens:
        return inner


@dataclass(frozen=True)
class Narrow(Lens):
    """``length`` consecutive entries of ``axis``, from ``start`` on."""

    axis: int
    start: int
    length: int

    def get(self, whole: Tensor) -> Tensor:
        return whole.narrow(self.axis, self.start, self.length)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        result = whole.clone()
        result.narrow(self.axis, self.start, self.length).copy_(part)
        return result


@dataclass(frozen=True)
class Take(Lens):
    """The entries ``indices`` (distinct, in this order) of ``axis``."""

    axis: int
    indices: tuple[int, ...]

    def _index(self, whole: Tensor) -> Tensor:
        return torch.tensor(self.indices, device=whole.device)

    def get(self, whole: Tensor) -> Tensor:
        return whole.index_select(self.axis, self._index(whole))

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return whole.index_copy(self.axis, self._index(whole), part)


@dataclass(frozen=True)
class TakePerRow(Lens):
    """Entries of ``axis`` that differ from row to row of the batch (axis 0): ``indices[row]``, distinct."""

    axis: int
    indices: tuple[tuple[int, ...], ...]

    def _index(self, whole: Tensor) -> Tensor:
        index = torch.tensor(self.indices, device=whole.device)
        shape = [1] * whole.dim()
        shape[0], shape[self.axis] = index.shape
        expanded = list(whole.shape)
        expanded[self.axis] = index.shape[1]
        return index.reshape(shape).expand(expanded)

    def get(self, whole: Tensor) -> Tensor:
        return whole.gather(self.axis, self._index(whole))

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return whole.scatter(self.axis, self._index(whole), part)


@dataclass(frozen=True)
class Chunk(Lens):
    """The ``index``-th of ``of`` equal consecutive chunks of the last axis, as in a fused q-k-v projection."""

    index: int
    of: int

    def _narrow(self, whole: Tensor) -> Narrow:
        width, rest = divmod(whole.shape[-1], self.of)
        if rest:
            raise ShapeMismatchError(
                f"an axis of {whole.shape[-1]} features does not split into {self.of} equal chunks"
            )
        return Narrow(whole.dim() - 1, self.index * width, width)

    def get(self, whole: Tensor) -> Tensor:
        return self._narrow(whole).get(whole)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return self._narrow(whole).put(whole, part)


@dataclass(frozen=True)
class Slice(Lens):
    """Features ``start`` to ``stop`` (exclusive) of the last axis, for chunks of unequal width."""

    start: int
    stop: int

    def _narrow(self, whole: Tensor) -> Narrow:
        if not 0 <= self.start < self.stop <= whole.shape[-1]:
            raise ShapeMismatchError(f"features {self.start}:{self.stop} do not lie in an axis of {whole.shape[-1]}")
        return Narrow(whole.dim() - 1, self.start, self.stop - self.start)

    def get(self, whole: Tensor) -> Tensor:
        return self._narrow(whole).get(whole)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return self._narrow(whole).put(whole, part)


@dataclass(frozen=True)
class Heads(Lens):
    """(..., position, heads * width) seen as (..., head, position, width), heads being contiguous."""

    heads: int

    def get(self, whole: Tensor) -> Tensor:
        if whole.shape[-1] % self.heads:
            raise ShapeMismatchError(f"an axis of {whole.shape[-1]} features does not split into {self.heads} heads")
        return whole.reshape(*whole.shape[:-1], self.heads, -1).transpose(-2, -3)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part.transpose(-2, -3).flatten(-2)


@dataclass(frozen=True)
class Interleaved(Lens):
    """The ``index``-th of ``of`` vectors that a fused projection lays out head by head.

    The last axis is read as (heads, of, width), as GPT-NeoX's ``query_key_value`` is; the part has
    heads * width features, heads contiguous.
    """

    index: int
    of: int
    heads: int

    def _split(self, whole: Tensor) -> Tensor:
        if whole.shape[-1] % (self.heads * self.of):
            raise ShapeMismatchError(
                f"an axis of {whole.shape[-1]} features does not split into {self.heads} heads of {self.of} vectors"
            )
        return whole.reshape(*whole.shape[:-1], self.heads, self.of, -1)

    def get(self, whole: Tensor) -> Tensor:
        return self._split(whole).select(-2, self.index).flatten(-2)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        split = self._split(whole).clone()
        split.select(-2, self.index).copy_(part.reshape(*part.shape[:-1], self.heads, -1))
        return split.flatten(-3)


@dataclass(frozen=True)
class Transposed(Lens):
    """Two axes exchanged, for modules that keep features before positions (a convolution, say)."""

    first: int
    second: int

    def get(self, whole: Tensor) -> Tensor:
        return whole.transpose(self.first, self.second)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part.transpose(self.first, self.second)


@dataclass(frozen=True)
class FlatBatch(Lens):
    """(..., position, feature) seen as (batch, position, feature): all leading axes folded into one.

    For models that take several sequences an example, as the choices of a multiple-choice head.
    """

    def get(self, whole: Tensor) -> Tensor:
        return whole.reshape(-1, *whole.shape[-2:])

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part.reshape(whole.shape)


@dataclass(frozen=True)
class FlatGrid(Lens):
    """(batch, row, column, feature) seen as (batch, position, feature), an image's patches row by row."""

    def get(self, whole: Tensor) -> Tensor:
        return whole.flatten(1, 2)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part.reshape(whole.shape)


@dataclass(frozen=True)
class Unflatten(Lens):
    """(tokens, ...) seen as (batch, position, ...), for modules that are handed the tokens of all rows as one list.

    ``length`` is how many positions a row has, which each forward says anew.
    """

    length: int | None = None

    def within(self, frame: Frame) -> Lens:
        return replace(self, length=frame.length)

    def get(self, whole: Tensor) -> Tensor:
        if self.length is None or whole.shape[0] % self.length:
            raise ShapeMismatchError(
                f"{whole.shape[0]} tokens are no rows of {self.length or 'an unknown number of'} positions: the model "
                f"was called with neither input_ids nor inputs_embeds of that length"
            )
        return whole.reshape(-1, self.length, *whole.shape[1:])

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part.flatten(0, 1)


@dataclass(frozen=True)
class Grouped(Lens):
    """(groups * size, ...) seen as (groups, size, ...), as a token's choices of experts stand one after the other."""

    size: int

    def get(self, whole: Tensor) -> Tensor:
        if whole.shape[0] % self.size:
            raise ShapeMismatchError(f"{whole.shape[0]} entries are no groups of {self.size}")
        return whole.reshape(-1, self.size, *whole.shape[1:])

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part.flatten(0, 1)


@dataclass(frozen=True)
class ChannelsFirst(Lens):
    """(batch, feature, position) seen as (batch, position, feature), as convolutions and scans lay it out.

    A scan's one-step form is handed (batch, feature): a single position.
    """

    def get(self, whole: Tensor) -> Tensor:
        return whole.unsqueeze(1) if whole.dim() == 2 else whole.transpose(1, 2)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part.squeeze(1) if whole.dim() == 2 else part.transpose(1, 2)


@dataclass(frozen=True)
class Latest(Lens):
    """(batch, position, ...) from whose end the positions of this forward are meant.

    A convolution that continues from a cache is computed over what it held, too. ``length`` is how many positions the
    forward has, which each says anew; all of them where it doesn't say.
    """

    length: int | None = None

    def within(self, frame: Frame) -> Lens:
        return replace(self, length=frame.length)

    def _narrow(self, whole: Tensor) -> Narrow:
        count = whole.shape[1] if self.length is None else min(self.length, whole.shape[1])
        return Narrow(1, whole.shape[1] - count, count)

    def get(self, whole: Tensor) -> Tensor:
        return self._narrow(whole).get(whole)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return self._narrow(whole).put(whole, part)


@dataclass(frozen=True)
class Joined(Lens):
    """Axis ``axis`` and the one after it as a single one: (..., heads, width) as heads side by side."""

    axis: int

    def get(self, whole: Tensor) -> Tensor:
        return whole.flatten(self.axis, self.axis + 1)

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part.reshape(whole.shape)


@dataclass(frozen=True)
class OneStep(Lens):
    """(batch, feature), as a scan's one-step form is handed it, seen as (batch, position, feature).

    What has positions already stays as it is.
    """

    def get(self, whole: Tensor) -> Tensor:
        return whole.unsqueeze(1) if whole.dim() == 2 else whole

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part.squeeze(1) if whole.dim() == 2 else part

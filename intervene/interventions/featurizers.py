"""Featurizers: lenses that show an activation in another basis.

A featurizer is a lens from an activation (..., width) to its features (..., count). Writing back the features that
were read changes nothing, bit for bit: what the features don't hold (the rest of the space, an autoencoder's
reconstruction error) stays as it was. Of the other laws of `intervene.lenses`, linear features keep put-get and
put-put up to rounding; an autoencoder keeps them as far as it encodes again what it decoded. An intervention builds
its featurizer from its parameters for each call, so a featurizer is a plain value.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..lenses import Lens


class Featurizer(Lens):
    """A lens whose write needs only the difference that it makes."""

    @abstractmethod
    def update(self, whole: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """``whole``, whose features are ``before``, with features ``after``. What doesn't differ stays bit for bit."""

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return self.update(whole, self.get(whole), part)


@dataclass(frozen=True, eq=False)
class Linear(Featurizer):
    """Linear features: ``get(x) = (x - offset) @ encode``, ``update(x, a, b) = x + (b - a) @ decode``.

    ``encode`` is (width, count) and ``decode`` (count, width). put-get asks that ``decode @ encode`` is the identity:
    so it is for orthonormal columns with ``decode = encode.T``. Computed in the dtype of ``encode``; the activation
    keeps its own.
    """

    encode: Tensor
    decode: Tensor
    offset: Tensor | None = None

    def get(self, whole: Tensor) -> Tensor:
        x = whole.to(self.encode.dtype)
        return (x if self.offset is None else x - self.offset) @ self.encode

    def update(self, whole: Tensor, before: Tensor, after: Tensor) -> Tensor:
        return (whole.to(self.decode.dtype) + (after - before) @ self.decode).to(whole.dtype)


@dataclass(frozen=True, eq=False)
class Latents(Featurizer):
    """An autoencoder's latents: ``get(x) = encode(x)``, ``update(x, a, b) = x + scale(x) * (b - a) @ decode``.

    So the reconstruction error, ``x`` less what ``a`` decodes to, is kept. With ``keep_error=False`` it is dropped and
    the result is what ``reconstruct(x, b)`` gives.
    """

    encode: Callable[[Tensor], Tensor]
    decode: Tensor
    reconstruct: Callable[[Tensor, Tensor], Tensor]
    scale: Callable[[Tensor], Tensor] | None = None
    keep_error: bool = True

    def get(self, whole: Tensor) -> Tensor:
        return self.encode(whole.to(self.decode.dtype))

    def update(self, whole: Tensor, before: Tensor, after: Tensor) -> Tensor:
        x = whole.to(self.decode.dtype)
        if not self.keep_error:
            return self.reconstruct(x, after).to(whole.dtype)
        change = (after - before) @ self.decode
        return (x + (change if self.scale is None else self.scale(x) * change)).to(whole.dtype)

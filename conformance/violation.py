"""How a law says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Violation(AssertionError):
    """A law does not hold; the message says what is wrong in words."""


def same(first: Tensor, second: Tensor) -> bool:
    """Equal bit for bit in shape, dtype and every entry, NaN counting as equal to NaN."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    # NaN differs from itself; a call of its own is needed only where some are there.
    return torch.equal(first, second) or bool(((first == second) | ((first != first) & (second != second))).all())


def difference(found: Tensor, wanted: Tensor) -> str:
    """How two tensors that should be the same differ, in words."""
    if found.shape != wanted.shape:
        return f"shape {tuple(found.shape)} instead of {tuple(wanted.shape)}"
    if found.dtype != wanted.dtype:
        return f"dtype {found.dtype} instead of {wanted.dtype}"
    unequal = ~((found == wanted) | ((found != found) & (wanted != wanted)))
    where = [int(i) for i in unequal.nonzero()[0]]
    gap = (found.double() - wanted.double()).abs()[unequal]
    return (
        f"{int(unequal.sum())} of {found.numel()} entries differ, by up to {float(gap.max()):.3g}, the first at "
        f"{where}: {float(found[tuple(where)]):.6g} instead of {float(wanted[tuple(where)]):.6g}"
    )


def require_same(what: str, found: Tensor, wanted: Tensor) -> None:
    """Raise a `Violation` that begins with ``what`` unless the tensors are the same bit for bit."""
    if not same(found, wanted):
        raise Violation(f"{what}: {difference(found, wanted)}")


def require_same_outputs(what: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise a `Violation` unless every output is the same bit for bit."""
    if found.keys() != wanted.keys():
        raise Violation(f"{what}: the model returned {sorted(found)} instead of {sorted(wanted)}")
    for name, tensor in wanted.items():
        require_same(f"{what}, output {name}", found[name], tensor)


def tolerance(dtype: torch.dtype, depth: int) -> float:
    """The relative error that recomputation may show, for the laws marked ~.

    A matrix product of other shape or memory layout adds in another order; each rounds by at most half a unit in
    the last place, errors add up over the terms of a sum (tens, in the small models the suite uses) and over the
    ``depth`` layers between the two sides. 32 roundings a layer is the bound; a wrong site is off by order one.
    """
    return 32 * torch.finfo(dtype).eps * (depth + 1)


def require_close(what: str, found: Tensor, wanted: Tensor, depth: int, dtype: torch.dtype | None = None) -> None:
    """Raise a `Violation` unless the tensors agree within `tolerance`, relative to the largest entry.

    Args:
        dtype: a dtype on the way to them, where that is coarser than theirs.
    """
    if found.shape != wanted.shape:
        raise Violation(f"{what}: {difference(found, wanted)}")
    finite = torch.isfinite(wanted)
    if not bool((torch.isfinite(found) == finite).all()):
        raise Violation(f"{what}: infinite or NaN entries at other places")
    first, second = found[finite].double(), wanted[finite].double()
    if not first.numel():
        return
    # The mask's huge negative entries would hide every other difference if they set the scale.
    scale = second.abs().clamp(max=1e4).max().clamp(min=1.0)
    gap = float(((first - second).abs() / second.abs().clamp(min=float(scale))).max())
    bound = max(tolerance(each, depth) for each in (wanted.dtype, dtype or wanted.dtype))
    if gap > bound:
        raise Violation(f"{what}: off by {gap:.3g} of the largest entry, where rounding explains {bound:.2g}")

"""Devices and dtypes as users name them, checked before a model runs."""

from __future__ import annotations

from typing import Any

import torch

from .errors import PlacementError


def usable_device(asked: torch.device | str) -> torch.device:
    """The device of that name.

    Raises:
        PlacementError: there is no such device, or this torch or this machine can't use it.
    """
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = " ".join(str(error).strip().partition("\n\n")[0].split())
        raise PlacementError(f"device {str(asked)!r} can't be used: {reason or type(error).__name__}") from error
    return device


def usable_dtype(asked: Any) -> torch.dtype:
    """The dtype itself.

    Raises:
        PlacementError: it is no ``torch.dtype``; the message names the one that was probably meant.
    """
    if isinstance(asked, torch.dtype):
        return asked
    meant = getattr(torch, asked.removeprefix("torch."), None) if isinstance(asked, str) else None
    right = meant if isinstance(meant, torch.dtype) else "torch.bfloat16"
    raise PlacementError(f"dtype is a torch.dtype, such as {right}; found {asked!r}")

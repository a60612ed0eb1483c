"""Images for families that read them."""

from __future__ import annotations

import torch
from torch import Tensor


def images(rows: int, channels: int, size: int | tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Random images, (rows, channels, height, width), of a size given as one number or as (height, width)."""
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(rows, channels, height, width, generator=generator)

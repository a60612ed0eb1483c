"""A sweep's inputs: how many rows and columns they have, and where each row's last real position is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SweepError
from ..sites import Site
from .engine import accepts
from .metrics import Metric
from .noise import GaussianNoise


@dataclass(frozen=True)
class Batch:
    """The base run's inputs.

    Attributes:
        inputs: what the model is called with.
        rows: examples (with noise: samples).
        columns: positions, padding included.
        last: each row's last real column; None where that is the last column, which alone has its logits computed.
    """

    inputs: dict[str, Any]
    rows: int
    columns: int
    last: tuple[int, ...] | None

    @property
    def tokens(self) -> bool:
        """Whether the inputs are tokens, whose count is that of the positions; an image's isn't among its sizes."""
        return any(isinstance(self.inputs.get(name), Tensor) for name in ("input_ids", "inputs_embeds"))

    def reading(self, metric: Metric) -> Metric:
        """``metric`` as a function of a forward's logits, which it sees at each row's last real position."""
        if getattr(metric, "positions", "last") == "all":
            return metric
        return lambda logits: metric(self.at_last(logits))

    def at_last(self, logits: Tensor) -> Tensor:
        """(rows, positions, vocabulary) at each row's last real position; logits without positions as they are."""
        if logits.dim() < 3:
            return logits
        if self.last is None:
            return logits[:, -1]
        return logits[torch.arange(len(logits)), torch.tensor(self.last)]


# The argument that asks for the last logits alone, in transformers and in mamba_ssm.
_LAST_ALONE = ("logits_to_keep", "num_last_tokens")


def prepare(
    model: nn.Module, base: Mapping[str, Any], noise: GaussianNoise | None, metric: Metric, sites: Sequence[Site]
) -> Batch:
    """The base's inputs as a batch.

    Args:
        sites: what is patched.

    Raises:
        SweepError: no input of shape (batch, position, ...), noise on several rows or columns out of range, or logits
            that are patched while the base asks for the last ones alone.
    """
    tensors = {n: v for n, v in base.items() if isinstance(v, Tensor) and v.dim() >= 2}
    if not tensors:
        shapes = {n: tuple(getattr(v, "shape", ())) for n, v in base.items()}
        raise SweepError(f"base has no input of shape (batch, position, ...); it has {shapes}")
    main = tensors.get("input_ids", tensors.get("inputs_embeds", next(iter(tensors.values()))))
    rows, columns = main.shape[:2]
    inputs = dict(base)
    if noise is not None:
        if rows != 1:
            raise SweepError(f"noise is drawn for one prompt at a time; base has {rows} rows")
        wrong = [p for p in noise.positions if not -columns <= p < columns]
        if wrong:
            raise SweepError(f"noise positions {wrong} out of range: there are {columns} columns")
        rows = noise.samples
        inputs = {
            n: v.expand(rows, *v.shape[1:]) if isinstance(v, Tensor) and v.dim() >= 2 else v for n, v in inputs.items()
        }
    if accepts(model, "use_cache"):
        inputs.setdefault("use_cache", False)
    last = _last_columns(inputs)
    _refuse_cut_logits(sites, inputs)
    wants_all = getattr(metric, "positions", "last") == "all" or any(map(_may_be_logits, sites))
    if last is None and not wants_all and accepts(model, "logits_to_keep"):
        inputs.setdefault("logits_to_keep", 1)
    return Batch(inputs, rows, columns, last)


def _may_be_logits(site: Site) -> bool:
    # A module path may lead to the head: nothing says where it lies.
    return site.component == "logits" or site.axes is None


def _refuse_cut_logits(sites: Sequence[Site], inputs: Mapping[str, Any]) -> None:
    cut = [f"{name}={inputs[name]}" for name in _LAST_ALONE if not _keeps_all(inputs.get(name))]
    if cut and any(site.component == "logits" for site in sites):
        raise SweepError(
            f"logits are patched by the prompt's columns, some of which have none with {cut[0]} in base: leave it out"
        )


def _keeps_all(kept: Any) -> bool:
    # A tensor lists the columns that are kept.
    return kept is None or (isinstance(kept, int) and kept == 0)


def _last_columns(inputs: Mapping[str, Any]) -> tuple[int, ...] | None:
    # Where there is a decoder the logits are its own, and so is the padding that counts.
    mask = inputs.get("decoder_attention_mask" if "decoder_input_ids" in inputs else "attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        return None
    last = last_real(mask).tolist()
    return None if all(c == mask.shape[1] - 1 for c in last) else tuple(last)


def last_real(mask: Tensor) -> Tensor:
    """The column of each row's last real token by its attention mask, (rows,); -1 in a row of padding alone."""
    numbered: Tensor = mask.long() * torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return numbered.amax(1) - 1

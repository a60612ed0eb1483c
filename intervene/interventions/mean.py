"""Mean ablation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..adapted import Adapted, adapt
from ..errors import InterventionArgumentError, InterventionError, ShapeMismatchError
from ..sites import Site
from .base import ConstantSourceIntervention, LocalistRepresentationIntervention

if TYPE_CHECKING:
    from typing_extensions import Self


class MeanIntervention(ConstantSourceIntervention, LocalistRepresentationIntervention):
    """Mean ablation: ``m``, the mean of reference activations.

    Ablation that keeps the activation near those the model knows (Wang et al. 2023, "Interpretability in the Wild",
    https://arxiv.org/abs/2211.00593, who take each position's own mean over sentences of one template). The mean comes
    from `fit` on activations, from `from_dataset`, or from ``source_representation``: (width,) as it is, any more axes
    are averaged over.

    Shapes: base (batch, ..., width); the mean is (width,), the same for all positions, and has more axes where it was
    not taken over all: (head, 1, width), (position, width). It must then act on as many heads and positions as it was
    taken from, which it meets in their order.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.source_representation is not None:
            self.fit(self.source_representation)

    def fit(self, activations: Tensor | Iterable[Tensor], *, over: Sequence[int] | None = None) -> Self:
        """Take the mean of a tensor (batch, ..., width), or over several batches of such.

        Args:
            activations: the tensor or tensors.
            over: the axes that are averaged over, the first among them and never the last; all but the last by
                default.
        """
        mean = RunningMean(over)
        for batch in [activations] if isinstance(activations, Tensor) else activations:
            mean.add(batch)
        self.set_source_representation(mean.value())
        return self

    @classmethod
    def from_dataset(
        cls,
        model: nn.Module | Adapted,
        site: str | Site,
        batches: Iterable[Mapping[str, Any] | Tensor],
        *,
        over: Sequence[str] = ("batch", "position"),
        progress: bool = True,
        **keywords: Any,
    ) -> Self:
        """Mean ablation at ``site`` with the model's mean activation there over a dataset.

        Args:
            model: the model, or what `intervene.adapt` made of it.
            site: the site or its address, narrowed as it will be acted on: ``site.at(positions=[3])``.
            batches: inputs of the model, each a mapping of keywords or a tensor. Positions that an
                ``attention_mask`` leaves out don't count, where the site has all positions.
            over: the axes that are averaged over. ``("batch",)`` keeps a mean for each position, for prompts of one
                template; heads always keep their own unless ``"head"`` is among them.
            progress: show a progress bar.
            **keywords: further keywords of the class.

        Raises:
            InterventionError: there are no batches, or none of them had some position.
            InterventionArgumentError: an axis that the site doesn't have, or no ``"batch"`` among them.
            ShapeMismatchError: batches of different lengths, with a mean for each position.
            UnknownSiteError: no such site.
        """
        from tqdm.auto import tqdm

        adapted = model if isinstance(model, Adapted) else adapt(model)
        place = adapted[site] if isinstance(site, str) else site
        mean: RunningMean | None = None
        for batch in tqdm(batches, desc=f"mean of {place.address}", unit="batch", disable=not progress):
            named = {} if isinstance(batch, Tensor) else dict(batch)
            values = adapted.read([place], batch) if isinstance(batch, Tensor) else adapted.read([place], **named)
            read = values[place]
            mean = mean or RunningMean(_numbered(over, place, read.dim()))
            mean.add(read, _kept(read, place, named.get("attention_mask")))
        made = cls(**keywords)
        made.set_source_representation((mean or RunningMean()).value())
        return made

    def resolve_source(self, base: Tensor, source: Tensor | None) -> Tensor:
        if source is None and self.source_representation is None:
            raise InterventionError(
                "MeanIntervention has no mean yet: fit(activations), from_dataset(model, site, batches), "
                "source_representation=, or load_state_dict"
            )
        return super().resolve_source(base, source)

    def operate(self, base: Tensor, source: Tensor) -> Tensor:
        return source


class RunningMean:
    """The mean over some axes of tensors (batch, ..., width) that come one by one, summed in float64.

    Axes that are averaged over stay, of size one, where an axis before them is kept.
    """

    def __init__(self, over: Sequence[int] | None = None) -> None:
        """``over`` are the axes; None for all but the last."""
        self._over = None if over is None else tuple(over)
        self._sum: Tensor | None = None
        self._count = torch.zeros(())
        self._like = torch.empty(0)

    def add(self, batch: Tensor, kept: Tensor | None = None) -> None:
        """Take in a batch, of which only those entries count where ``kept``, which broadcasts to it, is True.

        Raises:
            InterventionArgumentError: an axis that the batch doesn't have.
            ShapeMismatchError: a batch whose other axes have other sizes than those before.
        """
        over = tuple(range(batch.dim() - 1)) if self._over is None else self._over
        if 0 not in over or not all(0 <= axis < batch.dim() - 1 for axis in over):
            raise InterventionArgumentError(
                f"a mean is taken over axis 0 and others before the last; found {over} for {tuple(batch.shape)}"
            )
        counted = batch.detach()
        if kept is None:
            kept = torch.ones((1,) * batch.dim(), dtype=torch.bool, device=batch.device)
        else:
            counted = counted.where(kept, 0)
        # Some accelerators have no float64; each batch's sum goes to the CPU.
        total = counted.sum(over, keepdim=True, dtype=torch.float32).cpu().double()
        count = kept.expand(*batch.shape[:-1], 1).sum(over, keepdim=True).cpu()
        if self._sum is not None and self._sum.shape != total.shape:
            raise ShapeMismatchError(
                f"the mean keeps axes in which the batches differ, {tuple(self._sum.shape)} and {tuple(total.shape)}: "
                f"take it over positions too, or of inputs of one length"
            )
        self._sum = total if self._sum is None else self._sum + total
        self._count = count if self._sum is total else self._count + count
        self._like = batch[:0]

    def value(self) -> Tensor:
        """The mean, (width,) or with axes before it, in the dtype and on the device of the batches."""
        if self._sum is None or not bool(self._count.any()):
            raise InterventionError("a mean needs at least one activation; there were none")
        if not bool(self._count.all()):
            raise InterventionError("a mean for each position needs each of them unmasked in some row; one never was")
        mean = self._sum / self._count
        while mean.dim() > 1 and mean.shape[0] == 1:
            mean = mean[0]
        return mean.to(self._like.dtype).to(self._like.device)


def _numbered(over: Sequence[str], site: Site, rank: int) -> list[int] | None:
    """The axes of a site's activation that ``over`` names; None for all but the last."""
    axes = site.axes
    if "batch" not in over or isinstance(over, str):
        raise InterventionArgumentError(f'over is a tuple of axes with "batch" among them, not {over!r}')
    if axes is None:
        # By module path: (batch, width), (batch, position, width).
        wrong = [name for name in over if name not in ("batch", "position")]
        if not wrong:
            return None if "position" in over else [0]
        raise InterventionArgumentError(f"{site.address} is a module path, whose only axes are batch and position")
    found = []
    for name in over:
        alike = [axis for axis in range(rank - 1) if axes[axis].rpartition("_")[2] == name]
        if not alike and name != "position":
            raise InterventionArgumentError(f"{site.address} has no axis {name!r} to average over; it has {axes[:-1]}")
        found += alike
    return found


def _kept(read: Tensor, site: Site, mask: Tensor | None) -> Tensor | None:
    """Where ``mask`` (batch, position) keeps activations, in a shape that broadcasts to them; None for everywhere."""
    axes = site.axes
    if mask is None or axes is None or axes[:1] != ("batch",) or "position" not in axes:
        return None
    at = axes.index("position")
    if (read.shape[0], read.shape[at]) != tuple(mask.shape):
        return None
    shape = [size if axis in (0, at) else 1 for axis, size in enumerate(read.shape)]
    return mask.to(read.device).bool().reshape(shape)

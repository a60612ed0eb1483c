"""Mean ablation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..adapted import Adapted, adapt
from ..errors import InterventionError
from ..sites import Site
from .base import ConstantSourceIntervention, LocalistRepresentationIntervention

if TYPE_CHECKING:
    from typing_extensions import Self


class MeanIntervention(ConstantSourceIntervention, LocalistRepresentationIntervention):
    """Mean ablation: the mean of reference activations.

    Ablation that keeps the activation near those the model knows (Wang et al. 2023, "Interpretability in the Wild",
    https://arxiv.org/abs/2211.00593). The mean comes from `fit` on activations, from `from_dataset`, or from
    ``source_representation``: (width,) as it is, any more axes are averaged over.

    Shapes: base (batch, ..., width); the mean is (width,), and the same for all positions.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.source_representation is not None:
            self.fit(self.source_representation)

    def fit(self, activations: Tensor | Iterable[Tensor]) -> Self:
        """Take the mean over all axes but the last of a tensor (..., width), or over several batches of such."""
        mean = RunningMean()
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
        progress: bool = True,
        **keywords: Any,
    ) -> Self:
        """Mean ablation at ``site`` with the model's mean activation there over a dataset.

        Args:
            model: the model, or what `intervene.adapt` made of it.
            site: the site or its address.
            batches: inputs of the model, each a mapping of keywords or a tensor. Positions that an
                ``attention_mask`` leaves out don't count, where the site has positions.
            progress: show a progress bar.
            **keywords: further keywords of the class.

        Raises:
            InterventionError: there are no batches.
            UnknownSiteError: no such site.
        """
        from tqdm.auto import tqdm

        adapted = model if isinstance(model, Adapted) else adapt(model)
        place = adapted[site] if isinstance(site, str) else site
        mean = RunningMean()
        for batch in tqdm(batches, desc=f"mean of {place.address}", unit="batch", disable=not progress):
            named = {} if isinstance(batch, Tensor) else dict(batch)
            values = adapted.read([place], batch) if isinstance(batch, Tensor) else adapted.read([place], **named)
            mean.add(_unmasked(values[place], place, named.get("attention_mask")))
        return cls(source_representation=mean.value(), **keywords)

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
    """The mean over all axes but the last of tensors (..., width) that come one by one, summed in float64."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0
        self._like = torch.empty(0)

    def add(self, batch: Tensor) -> None:
        """Take in a batch."""
        rows = batch.detach().reshape(-1, batch.shape[-1])
        # Some accelerators have no float64; each batch's sum goes to the CPU.
        total = rows.sum(0, dtype=torch.float32).cpu().double()
        self._sum = total if self._sum is None else self._sum + total
        self._count += len(rows)
        self._like = rows[:0]

    def value(self) -> Tensor:
        """The mean, (width,), in the dtype and on the device of the batches."""
        if self._sum is None or not self._count:
            raise InterventionError("a mean needs at least one activation; there were none")
        return (self._sum / self._count).to(self._like.dtype).to(self._like.device)


def _unmasked(read: Tensor, site: Site, mask: Tensor | None) -> Tensor:
    """The activations at the positions that ``mask`` (batch, position) keeps, flat where it leaves some out."""
    axes = site.axes
    if mask is None or axes is None or axes[:1] != ("batch",) or "position" not in axes:
        return read
    positions_second = read.movedim(axes.index("position"), 1)
    if positions_second.shape[:2] != mask.shape:
        return read
    return positions_second[mask.to(read.device).bool()]

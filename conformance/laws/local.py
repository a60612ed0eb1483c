"""Local: what a selection doesn't name stays as it is."""

from __future__ import annotations

import torch
from torch import Tensor

from ...sites import Site
from ..case import Case
from ..draw import Draw
from ..law import law
from ..violation import Violation, require_same


@law(
    "local",
    "writing some positions, heads, dims or rows leaves the others at that site, and other rows' outputs, alone",
)
def local(draw: Draw) -> None:
    """A selection's meaning is taken from plain indexing on the axes that the spec claims.

    A selection of several axes is drawn, and a single place of each axis: most mistakes are about one of them alone.
    """
    case = draw.case()
    site = draw.site(case)
    keywords, mask = draw.selection(case, narrow=True)
    written, masks = [site.at(**keywords)], {site.at(**keywords): mask}
    for from_start, from_end, mask in draw.single_places(case):
        written.append(site.at(**from_start))
        masks |= {site.at(**from_start): mask, site.at(**from_end): mask}
    values = case.run(reads=[site, *masks])[1]
    before, shape = values[site], draw.shape(case)
    if tuple(before.shape) != shape:
        raise Violation(f"{site} has shape {tuple(before.shape)}, the spec claims {shape}")
    for chosen, mask in masks.items():
        _reads(chosen, mask, before, values[chosen])
    for chosen in written:
        _writes(case, site, chosen, masks[chosen], before, values[chosen])


def _reads(chosen: Site, mask: Tensor, before: Tensor, part: Tensor) -> None:
    """A selection reads the entries that it names."""
    if part.numel() != int(mask.sum()):
        raise Violation(
            f"{chosen} reads {part.numel()} entries (shape {tuple(part.shape)}), the selection names {int(mask.sum())}"
        )
    require_same(
        f"the entries that {chosen} reads, sorted, against those that its selection names",
        part.flatten().sort().values,
        before[mask].sort().values,
    )


def _writes(case: Case, site: Site, chosen: Site, mask: Tensor, before: Tensor, part: Tensor) -> None:
    """A write at a selection leaves everything else alone."""
    outputs, values = case.run(writes={chosen: case.random(part)}, reads=[site])
    after = values[site]
    require_same(f"entries of {site} outside of {chosen}", after[~mask], before[~mask])
    rows = [int(r) for r in torch.arange(mask.shape[0])[~mask.flatten(1).any(1)]]
    for name, wanted in case.plain.items():
        if wanted.dim() and wanted.shape[0] == mask.shape[0]:
            require_same(
                f"output {name} of rows {rows}, which {chosen} doesn't name", outputs[name][rows], wanted[rows]
            )

"""Local: what a selection doesn't name stays as it is."""

from __future__ import annotations

import torch

from ..draw import Draw
from ..law import law
from ..violation import Violation, require_same


@law(
    "local",
    "writing some positions, heads, dims or rows leaves the others at that site, and other rows' outputs, alone",
)
def local(draw: Draw) -> None:
    """The selection's meaning is taken from plain indexing on the axes that the spec claims."""
    case = draw.case()
    site = draw.site(case)
    keywords, mask = draw.selection(case, narrow=True)
    chosen = site.at(**keywords)
    before = case.read(site)
    if before.shape != mask.shape:
        raise Violation(f"{site} has shape {tuple(before.shape)}, the spec claims {tuple(mask.shape)}")
    part = case.read(chosen)
    if part.numel() != int(mask.sum()):
        raise Violation(
            f"{chosen} reads {part.numel()} entries (shape {tuple(part.shape)}), the selection names {int(mask.sum())}"
        )
    outputs, values = case.run(writes={chosen: case.random(part)}, reads=[site])
    after = values[site]
    require_same(f"entries of {site.whole} outside of {chosen}", after[~mask], before[~mask])
    require_same(
        f"the entries that {chosen} reads, sorted, against those that its selection names",
        part.flatten().sort().values,
        before[mask].sort().values,
    )
    rows = [int(r) for r in torch.arange(mask.shape[0])[~mask.flatten(1).any(1)]]
    for name, wanted in case.plain.items():
        if wanted.dim() and wanted.shape[0] == mask.shape[0]:
            require_same(
                f"output {name} of rows {rows}, which {chosen} doesn't name", outputs[name][rows], wanted[rows]
            )

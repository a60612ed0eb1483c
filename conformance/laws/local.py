"""Local: a write reaches what its site and selection name, and nothing beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from ...sites import Site
from ...specs import vocabulary
from ..case import CACHE, Case
from ..draw import Draw
from ..law import law
from ..violation import Violation, require_same


@law(
    "local",
    "writing some positions, heads, dims or rows leaves the others at that site, and other rows' outputs, alone; "
    "a write acts through its sub-layer alone",
    effort=1.5,
)
def local(draw: Draw) -> None:
    """A selection's meaning is taken from plain indexing on the axes that the spec claims.

    A selection of several axes is drawn, and a single place of each axis: most mistakes are about one of them alone. So
    is a position of each row's own.
    Then the whole site is written, and what it acts through is put back: a place may have the component's values, and
    yet others read them there, too, as the residual stream does behind a norm that follows a sub-layer.
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
    last = _acts_through(draw, case)
    if last is not None:
        _put_back(case, site, case.site(last, site.layer))


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
    """A write at a selection leaves everything else alone, as seen by the session itself and by one inside it."""
    value = case.random(part)
    outputs, values = case.run(writes={chosen: value}, reads=[site])
    with case.adapted.session(writes={chosen: value}):
        inner = case.read(site)
    what = f"entries of {site} outside of {chosen}"
    require_same(what, values[site][~mask], before[~mask])
    require_same(f"{what}, as they flow on", inner[~mask], before[~mask])
    rows = [int(r) for r in torch.arange(mask.shape[0])[~mask.flatten(1).any(1)]]
    for name, wanted in case.plain.items():
        if wanted.dim() and wanted.shape[0] == mask.shape[0]:
            require_same(
                f"output {name} of rows {rows}, which {chosen} doesn't name", outputs[name][rows], wanted[rows]
            )


def _acts_through(draw: Draw, case: Case) -> str | None:
    """The next component that a change here acts through, by the vocabulary, of those that the model has."""
    known, name = vocabulary(), draw.component
    while name := known[name].acts_through:
        if name in draw.subject.claimed and draw.subject.why_absent(name, case.setting.model) is None:
            return name
    return None


def _put_back(case: Case, site: Site, last: Site) -> None:
    """With all put back that a site acts through, a write there changes nothing."""
    original = case.read(last)
    outputs, _ = case.run(writes={site: case.random(case.read(site)), last: original})
    for name, wanted in case.plain.items():
        # A mixer's own state is for the calls to come.
        if not name.startswith(CACHE):
            what = f"output {name} with all of {site} written and {last} put back, which is all that it acts through"
            require_same(what, outputs[name], wanted)

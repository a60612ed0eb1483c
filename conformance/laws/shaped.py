"""Shaped: axes, widths and dtype are what the spec says."""

from __future__ import annotations

from ...components import canonical
from ..draw import Draw
from ..law import law
from ..violation import Violation


@law("shaped", "axes, widths and dtype are what the spec says, in as many layers as it says")
def shaped(draw: Draw) -> None:
    """Also that the adapter has the sites that the spec claims for the model, and no others."""
    case = draw.case(past=False)
    subject, name = draw.subject, draw.component
    claim = subject.claim(name, case.setting.model)
    found = case.sites.filter(component=canonical(name))
    wanted = subject.layers(name)
    if tuple(s.layer for s in found) != wanted:
        raise Violation(
            f"{case.setting.model} has {name} in layers {[s.layer for s in found]}, the spec claims {list(wanted)}"
        )
    unclaimed = {s.component for s in case.sites} - set(subject.claimed)
    if unclaimed:
        raise Violation(f"the adapter has {', '.join(sorted(unclaimed))}, of which the spec says nothing")
    site = draw.site(case)
    if site.axes != claim.axes:
        raise Violation(f"{site} has axes {site.axes}, the spec claims {claim.axes}")
    value = case.read(site)
    shape = draw.shape(case)
    if tuple(value.shape) != shape:
        raise Violation(
            f"{site} ({site.port}) has shape {tuple(value.shape)}, the spec claims {shape} for axes {claim.axes}"
        )
    claimed = claim.first_dtype if claim.first_dtype and site.layer == 0 else claim.dtype
    dtype = f"torch.{case.setting.dtype if claimed == 'model' else claimed}"
    if str(value.dtype) != dtype:
        raise Violation(f"{site} has dtype {value.dtype}, the spec claims {dtype}")
    written = case.run(writes={site: value.double()}, reads=[site])[1][site]
    if written.dtype != value.dtype:
        raise Violation(f"a write at {site} turned its dtype from {value.dtype} to {written.dtype}")

"""Placing: the site that a representation means in one model, and the intervention that acts there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from ..adapted import Adapted
from ..components import canonical, components
from ..errors import ConfigError, InterventionArgumentError, ShapeMismatchError
from ..interventions import Intervention, make_intervention
from ..interventions.base import keywords
from ..paths import way
from ..ports import Output
from ..recurrent import RECURRENT, Steps
from ..sites import Site
from .config import IntervenableConfig, RepresentationConfig, alike
from .widths import input_width, width


class Placed(NamedTuple):
    """An intervention and the site where it acts. Attributes of the intervention can be asked for directly."""

    intervention: Intervention
    site: Site

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.intervention, name)


@dataclass(frozen=True)
class Place:
    """One representation of a config in one model.

    Attributes:
        key: the site's address; further representations at the same site have ``#1``, ``#2`` and so on after it.
        index: its place in the config.
        group: which of the sources it takes.
        batch_axis: which axis of the model's inputs has the rows.
    """

    key: str
    index: int
    group: int
    representation: RepresentationConfig
    site: Site
    intervention: Intervention
    batch_axis: int = 0

    @property
    def unit(self) -> str:
        return self.representation.unit


def place(config: IntervenableConfig, adapted: Adapted) -> list[Place]:
    """Every representation's site and intervention, in the config's order.

    Raises:
        UnknownSiteError: a place that the model doesn't have.
        ConfigError: a unit that the place doesn't have.
        ShapeMismatchError: an intervention that was made for another width than the place's.
    """
    group_of = {index: group for group, members in enumerate(config.groups()) for index in members}
    linked: dict[Any, tuple[Intervention, int]] = {}
    counts: dict[str, int] = {}
    places = []
    for index, representation in enumerate(config.representations):
        site = _site(adapted, representation)
        wide = width(adapted, site)
        link = representation.intervention_link_key
        if link is not None and link in linked:
            intervention, first = linked[link]
            _check_link(intervention, first, config, index)
        else:
            intervention = _intervention(config, index, site.address, wide, input_width(adapted, site))
            if link is not None:
                linked[link] = intervention, index
        _check_width(site.address, intervention, wide)
        seen = counts.setdefault(site.address, 0)
        counts[site.address] += 1
        key = f"{site.address}#{seen}" if seen else site.address
        axis = _batch_axis(adapted.model, site)
        places.append(Place(key, index, group_of[index], representation, site, intervention, axis))
    return places


def device_of(model: nn.Module, site: Site) -> torch.device | None:
    """Where the module that a site belongs to computes, as far as its parameters or those around it say."""
    for module in reversed(way(model, site.port.path)):
        # Weights that accelerate has moved out are on no device.
        found = next((p.device for p in module.parameters() if p.device.type != "meta"), None)
        if found is not None:
            return found
    return None


def _site(adapted: Adapted, representation: RepresentationConfig) -> Site:
    component, unit = representation.component, representation.unit
    if representation.is_path and representation.moe_key is not None:
        raise ConfigError(
            f"{component}: moe_key={representation.moe_key} names an expert of a component such as expert_output; a "
            f"module path says its expert itself"
        )
    if representation.is_path:
        return _at_path(adapted, re.sub(r"\[(\d+)\]", r".\1", component), unit)
    tower, _, bare = component.rpartition(".")
    name = canonical(bare)
    layered = components()[name].layered
    layer = representation.layer if layered or representation.layer else None
    site = adapted.site(name, layer, tower or None)
    axes = site.axes or ()
    if unit in ("h", "h.pos") and not {"head", "kv_head"} & set(axes):
        hint = f"; head_{name} has one" if f"head_{name}" in components() else ""
        raise ConfigError(f"unit {unit!r} needs a component with a head axis, {component} has {', '.join(axes)}{hint}")
    return site if representation.moe_key is None else site.at(expert=representation.moe_key)


def _at_path(adapted: Adapted, address: str, unit: str) -> Site:
    site = adapted[address]
    if unit in ("h", "h.pos"):
        raise ConfigError(f"unit {unit!r} needs a component with a head axis; {address} is a module path without names")
    if unit == "t" and isinstance(way(adapted.model, site.port.path)[-1], RECURRENT) and isinstance(site.port, Output):
        return Site(address, None, None, None, Steps(site.port.path))
    return site


def _intervention(
    config: IntervenableConfig, index: int, address: str, embed_dim: int | None, input_dim: int | None
) -> Intervention:
    representation = config.representations[index]
    kind = config.type_of(index) if representation.intervention is None else representation.intervention
    assert kind is not None
    given = config.keywords(index)
    if isinstance(kind, type) and "input_dim" in keywords(kind):
        given["input_dim"] = input_dim
    try:
        return make_intervention(kind, embed_dim=embed_dim, **{n: v for n, v in given.items() if v is not None})
    except InterventionArgumentError as error:
        unknown = "; nothing says how wide it is there: pass an intervention that was made with embed_dim"
        raise InterventionArgumentError(f"{address}: {error}{unknown if embed_dim is None else ''}") from error


def _check_width(address: str, intervention: Intervention, wide: int | None) -> None:
    made_for, constant = intervention.embed_dim, intervention.source_representation
    # What a class with a forward of its own does with a constant source is its own affair.
    broadcast = type(intervention).forward is Intervention.forward
    if made_for is None and broadcast and constant is not None and constant.dim() and constant.shape[-1] != 1:
        made_for = constant.shape[-1]
    if wide is not None and made_for is not None and made_for != wide:
        raise ShapeMismatchError(
            f"{address}: the {type(intervention).__name__} was made for {made_for} features and this model has {wide} "
            f"there"
        )


def _batch_axis(model: nn.Module, site: Site) -> int:
    """1 for a recurrent module that takes time first, as torch's do by default and with them the model, else 0."""
    return int(isinstance(site.port, Steps) and not way(model, site.port.path)[-1].batch_first)


def _check_link(intervention: Intervention, first: int, config: IntervenableConfig, index: int) -> None:
    representation = config.representations[index]
    given = representation.intervention
    if given is not intervention and config.type_of(index) is not type(intervention):
        raise ConfigError(
            f"intervention_link_key {representation.intervention_link_key!r} links a {type(intervention).__name__} "
            f"with another intervention: {representation!r}; linked ones are one and the same"
        )
    asked, has = config.keywords(index), config.keywords(first)
    other = [name for name, value in asked.items() if name not in has or not alike(value, has[name])]
    if other:
        raise ConfigError(
            f"intervention_link_key {representation.intervention_link_key!r} links representations that differ in "
            f"{other[0]}; linked ones are one and the same intervention, so say the same in each, or in the first alone"
        )

"""Sites: one place in one model where an activation flows by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import index
from typing import Any, overload

from torch import Tensor

from .components import canonical, components
from .errors import SelectionError, UnknownSiteError, did_you_mean
from .lenses import Lens, Whole
from .ports import Port
from .selection import Selectable, Selection

_WHOLE = Whole()
_ALL = Selection()


@dataclass(frozen=True)
class Site:
    """A component of a layer (of a tower), with the port and lens that reach it.

    Two sites of the same address are equal; sites are hashable and hold no module, so they can be kept, compared
    and used as keys. ``axes`` name the activation's axes; they are None for a site by module path.
    """

    component: str
    layer: int | None
    tower: str | None
    axes: tuple[str, ...] | None = field(compare=False)
    port: Port
    lens: Lens = _WHOLE
    selection: Selection = _ALL

    def __hash__(self) -> int:
        # Port and lens follow from the place, and take longer to hash.
        return hash((self.component, self.layer, self.tower, self.selection))

    @property
    def address(self) -> str:
        """``layer.6.block_output``, ``vision.layer.2.mlp_output``, ``logits``, ``transformer.wte.output``; a
        selection follows in brackets."""
        parts = [self.tower, None if self.layer is None else f"layer.{self.layer}", self.component]
        base = ".".join(p for p in parts if p)
        return f"{base}[{self.selection}]" if self.selection != _ALL else base

    def at(
        self,
        *,
        positions: Selectable | None = None,
        heads: Selectable | None = None,
        dims: Selectable | None = None,
        rows: Selectable | None = None,
        call: int | None = None,
        expert: int | None = None,
    ) -> Site:
        """A narrower site under the same laws; every axis is kept, chosen ones with fewer entries.

        Args:
            positions: columns of the prompt, negative ones from its end; a (batch, k) tensor or list of lists
                chooses k positions for each row on its own.
            heads: attention heads (of a component with a head axis).
            dims: entries of the last axis (features, logits' vocabulary, a pattern's key positions).
            rows: examples of the batch.
            call: which call of the module in one forward, from 0, for a module that runs several times.
            expert: which expert of a mixture, from 0. The part is then (token, feature): the tokens that the router
                sent there, in their original order, row by row. Chosen before anything else.

        Raises:
            SelectionError: a choice that isn't indices, repeats one, or narrows an axis twice.
        """
        narrowed = self.selection.narrowed(
            positions=positions, heads=heads, dims=dims, rows=rows, call=call, expert=expert
        )
        if expert is not None:
            if self.selection != _ALL:
                raise SelectionError(f"choose the expert first, then what of its tokens; chosen were {self.selection}")
            port = self.port.of_expert(expert)
            return type(self)(self.component, self.layer, self.tower, ("token", "feature"), port, _WHOLE, narrowed)
        return type(self)(self.component, self.layer, self.tower, self.axes, self.port, self.lens, narrowed)

    @property
    def whole(self) -> Site:
        """The site without its selection."""
        return replace(self, selection=_ALL)

    def __str__(self) -> str:
        return self.address

    def __repr__(self) -> str:
        return f"<Site {self.address}: {self.port}>"


def component_name(component: Any) -> str:
    """The canonical name of a component, or of what another tool calls it.

    Raises:
        TypeError: no name.
    """
    if not isinstance(component, str):
        raise TypeError(f"component is a name, such as 'block_output'; found {component!r}")
    return canonical(component)


def whole_layer(layer: Any) -> int:
    """A layer's number as an int.

    Raises:
        UnknownSiteError: no whole number, as ``"1"`` or ``1.0``.
    """
    try:
        return index(layer)
    except TypeError:
        raise UnknownSiteError(f"layer is a whole number, as in layer=1; found {layer!r}") from None


def _of_layer(sites: Sequence[Site], layer: int) -> tuple[Site, ...]:
    """The sites of a layer, which counts from the end of its own tower where it is negative."""
    layers: dict[str | None, list[int]] = {}
    for site in sites:
        if site.layer is not None and site.layer not in layers.setdefault(site.tower, []):
            layers[site.tower].append(site.layer)
    chosen = {tower: _counted(sorted(having), layer) for tower, having in layers.items()}
    found = tuple(s for s in sites if s.layer is not None and s.layer == chosen[s.tower])
    if not found:
        having = "; ".join(f"{tower + ': ' if tower else ''}{_listed(sorted(n))}" for tower, n in layers.items())
        raise UnknownSiteError(f"no site of layer {layer}; the layers of these sites: {having or 'none'}")
    return found


def _counted(layers: Sequence[int], layer: int) -> int | None:
    if layer >= 0:
        return layer
    return layers[layer] if -layer <= len(layers) else None


def _listed(layers: Sequence[int]) -> str:
    gapless = len(layers) > 2 and layers[-1] - layers[0] == len(layers) - 1
    return f"{layers[0]} to {layers[-1]}" if gapless else ", ".join(map(str, layers))


class Sites(Sequence[Site]):
    """A model's sites in the order of computation; filter, index or iterate."""

    def __init__(self, sites: Iterable[Site]) -> None:
        self._sites = tuple(sites)

    def filter(
        self,
        component: str | None = None,
        layer: int | None = None,
        tower: str | None = None,
    ) -> Sites:
        """The sites that match everything that is given, in the order of computation.

        Args:
            component: a canonical name or an alias of one, for example ``"block_output"``.
            layer: which block, negative ones from the end of the layers that each tower has here.
            tower: which tower of a model with several.

        Returns:
            The sites; none where what is given exists apart but not together, or where the vocabulary has the component
            and these sites don't.

        Raises:
            UnknownSiteError: no such component, layer or tower; the message names the nearest, or those there are.
            TypeError: a component that isn't a name.
        """
        found = self._sites if tower is None else self._of_tower(tower)
        if layer is not None:
            found = _of_layer(found, whole_layer(layer))
        if component is not None:
            name = self._known(component)
            found = tuple(s for s in found if s.component == name)
        return Sites(found)

    def _of_tower(self, tower: str) -> tuple[Site, ...]:
        found = tuple(s for s in self._sites if s.tower == tower)
        if not found:
            having = list(dict.fromkeys(s.tower for s in self._sites if s.tower is not None))
            raise UnknownSiteError(
                f"no site of a tower {tower!r}.{did_you_mean(str(tower), having)} These sites' towers: "
                f"{', '.join(having) or 'one, unnamed'}"
            )
        return found

    def _known(self, component: str) -> str:
        name = component_name(component)
        having = dict.fromkeys(s.component for s in self._sites)
        if name not in having and name not in components():
            near = did_you_mean(component, having)
            raise UnknownSiteError(f"no component {component!r}.{near} These sites have: {', '.join(having) or 'none'}")
        return name

    @overload
    def __getitem__(self, index: int) -> Site: ...
    @overload
    def __getitem__(self, index: slice) -> Sites: ...
    def __getitem__(self, index: int | slice) -> Site | Sites:
        found = self._sites[index]
        return found if isinstance(found, Site) else Sites(found)

    def __len__(self) -> int:
        return len(self._sites)

    def __repr__(self) -> str:
        names = ", ".join(s.address for s in self._sites[:4])
        return f"<{len(self)} sites: {names}{', ...' if len(self) > 4 else ''}>"


class Values(Mapping[Site, Any]):
    """Tensors by site; a site's address does as well as the site itself as a key, also as the caller spelled it
    (``layer.-1.block_output``, or with an alias of the component)."""

    def __init__(self, spelled: Mapping[Any, Site]) -> None:
        self._values: dict[Site, Any] = {}
        self._by_address: dict[str, Site] = {}
        self._spelled = spelled

    def _set(self, site: Site, value: Tensor | list[Tensor]) -> None:
        self._values[site] = value
        self._by_address[site.address] = site

    def __getitem__(self, key: Site | str) -> Any:
        site = self._named(key) if isinstance(key, str) else key
        if site is None or site not in self._values:
            raise KeyError(f"{key!s} was not read; these were: {', '.join(self._by_address) or 'none'}")
        return self._values[site]

    def __contains__(self, key: object) -> bool:
        return (self._named(key) if isinstance(key, str) else key) in self._values

    def _named(self, address: str) -> Site | None:
        return self._by_address.get(address, self._spelled.get(address))

    def __iter__(self) -> Iterator[Site]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        shapes = {s.address: tuple(getattr(v, "shape", ())) for s, v in self._values.items()}
        return f"Values({shapes})"

"""`adapt`: a model seen as sites."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import torch
from torch import nn

from . import registry
from .adapter import Adapter
from .components import canonical, components
from .errors import UnknownSiteError, did_you_mean, nearest
from .guards import require_python, unwrapped
from .placement import usable_device, usable_dtype
from .ports import Input, Output, Port
from .session import Keep, Session, Stop, Written
from .sites import Site, Sites, Values, component_name, whole_layer

_ADDRESS = re.compile(r"(?:(?P<tower>\w+)\.)??(?:layer\.(?P<layer>-?\d+)\.)?(?P<component>\w+)")
_ENDS: dict[str, type[Input] | type[Output]] = {"input": Input, "output": Output}


class Adapted:
    """A model together with the table of its sites. The model itself is never changed.

    Attributes:
        model: the model as it was handed in, or the one inside DistributedDataParallel's or PEFT's wrapper.
        adapter: the family's table, None for a model of no known family, whose sites are its module paths.
    """

    def __init__(self, model: nn.Module, adapter: Adapter | None) -> None:
        self.model = model
        self.adapter = adapter
        self.sites = Sites(adapter.sites if adapter is not None else ())
        self._roots = adapter.roots if adapter is not None else {}

    @cached_property
    def towers(self) -> tuple[str, ...]:
        """The names of the model's towers; none where it has a single, unnamed one."""
        return tuple(dict.fromkeys(s.tower for s in self.sites if s.tower is not None))

    @cached_property
    def _by_component(self) -> dict[str, list[Site]]:
        found: dict[str, list[Site]] = {}
        for site in self.sites:
            found.setdefault(site.component, []).append(site)
        return found

    @property
    def layers(self) -> int:
        """How many blocks the model has, in all its towers; 0 where no adapter says."""
        return self.adapter.layers if self.adapter is not None else 0

    def site(self, component: str, layer: int | None = None, tower: str | None = None) -> Site:
        """The site of a canonical component.

        Args:
            component: a canonical name or an alias of one, for example ``"block_output"``.
            layer: which block, negative ones from the end; None for what a model has once (``"logits"``).
            tower: which tower of a model with several.

        Raises:
            AbsentComponentError: the family has no such component; the message says why.
            UnknownSiteError: no such component, layer or tower; the message names the nearest.
            TypeError: a component that isn't a name.
        """
        name = component_name(component)
        if tower is not None and tower not in self.towers:
            raise UnknownSiteError(
                f"{type(self.model).__name__} has no tower {tower!r}; it has {', '.join(self.towers) or 'one, unnamed'}"
            )
        found = [s for s in self._by_component.get(name, ()) if tower is None or s.tower == tower]
        if not found:
            raise self._no_component(component, name, tower)
        having = list(dict.fromkeys(s.tower for s in found))
        if len(having) > 1:
            raise UnknownSiteError(
                f"{component} exists in the towers {', '.join(map(str, having))}: say tower=..., or "
                f"'{having[0]}.{component}' in a config"
            )
        if found[0].layer is None:
            if layer is not None:
                raise UnknownSiteError(f"{component} exists once in a model: ask for it without a layer")
            return found[0]
        count = len(found)
        if layer is None:
            raise UnknownSiteError(f"{component} exists in each of {count} layers: say layer=0 to layer={count - 1}")
        layer = whole_layer(layer)
        if not -count <= layer < count:
            where = type(self.model).__name__ if having[0] is None else f"the tower {having[0]}"
            raise UnknownSiteError(f"layer {layer} is out of range: {where} has {count} layers (0 to {count - 1})")
        return found[layer]

    def __getitem__(self, address: str) -> Site:
        """The site at an address: ``layer.8.block_output``, ``logits``, or a module path followed by ``.input`` or
        ``.output`` (``transformer.wte.output``; ``output`` alone is the model's own).

        Raises:
            UnknownSiteError: neither a component nor a module of this model; the message names the nearest.
            UnsupportedModelError: a module of TorchScript's.
        """
        match = _ADDRESS.fullmatch(address)
        if match is not None and self.adapter is not None and match["component"] not in _ENDS:
            tower, layer = match["tower"], match["layer"]
            if layer is not None or tower in self.towers or canonical(address) in self._by_component:
                return self.site(match["component"], None if layer is None else int(layer), tower)
        path, _, end = address.rpartition(".")
        if end in _ENDS:
            return self._module_site(address, path, _ENDS[end])
        name = match["component"] if match is not None else address
        if canonical(name) in components():
            raise self._no_component(name, canonical(name), None)
        paths = dict(self.model.named_modules())
        if address in paths:
            raise UnknownSiteError(f"{address!r} is a module: say {address + '.output'!r} or {address + '.input'!r}")
        near = did_you_mean(address, self._component_names() if "." not in address else [s.address for s in self.sites])
        raise UnknownSiteError(
            f"no site {address!r} in {type(self.model).__name__}.{near} Any module is a site by its path, as in "
            f"'path.to.module.output'.{self._table()}"
        )

    def read(
        self,
        sites: Iterable[Site | str] | Site | str,
        *args: Any,
        grad: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        attention: str | None = None,
        **inputs: Any,
    ) -> Values:
        """Run the model once and keep what flows by at ``sites``.

        The forward stops after the last site that is needed. A site by module path is proven by nothing to run only
        once, so with one of these the forward runs to its end, unless ``.at(call=...)`` says which call is meant.

        Args:
            sites: sites or addresses.
            *args: the model's positional inputs.
            grad: keep the graph, so that gradients flow back from the values.
            device: where to keep the values; where they are, by default.
            dtype: the dtype to keep them in; their own, by default.
            attention: an attention implementation for this call alone; ``"eager"`` makes patterns readable.
            **inputs: the model's inputs by keyword.

        Returns:
            The values by site; an address does as well as a key. Each is a copy of its own.

        Raises:
            NeverFiredError: a site that the forward did not reach, or a position it did not have.
            PlacementError: a device that isn't there, or a dtype that is none; nothing has run.
        """
        given = [sites] if isinstance(sites, (Site, str)) else list(sites)
        with self.reading(given, grad=grad, device=device, dtype=dtype, attention=attention) as session:
            self.model(*args, **inputs)
        return session.values

    @contextmanager
    def reading(
        self,
        sites: Iterable[Site | str],
        *,
        grad: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        attention: str | None = None,
    ) -> Iterator[Session]:
        """`read` around a call of one's own, which it leaves where `read` stops the forward::

            with adapted.reading(sites) as session:
                model.generate(prompt, max_new_tokens=1)
            session.values

        Args:
            sites, grad, device, dtype, attention: as in `read`.

        Raises:
            NeverFiredError: as `read`.
        """
        asked = {spelling: self._resolve(spelling) for spelling in sites}
        proven = all(s.axes is not None or s.selection.call is not None for s in asked.values())
        session = Session(
            self.model,
            asked,
            grad=grad,
            device=None if device is None else usable_device(device),
            dtype=None if dtype is None else usable_dtype(dtype),
            attention=attention,
            stop=proven,
            towers=self._roots,
        )
        # Stop: every value is here, and the rest of the call would only cost time.
        with torch.set_grad_enabled(grad), session, suppress(Stop):
            yield session

    def session(
        self,
        reads: Iterable[Site | str] = (),
        writes: Mapping[Any, Written] | Iterable[tuple[Any, Written]] = (),
        *,
        grad: bool = False,
        keep: Keep = "last",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        attention: str | None = None,
    ) -> Session:
        """Reads and writes around any call of the model: a forward, ``generate``, a loss and its backward.

        Args:
            reads: sites or addresses to keep; the values see this session's writes.
            writes: site or address to what is written there: a tensor that equals or broadcasts to the site's
                shape (dtype and device are adjusted), a number, or a function of the activation that returns its
                replacement (None leaves it). Pairs in place of a mapping may name a site twice; the last wins.
            grad: whether read values keep their graph.
            keep: ``"last"`` keeps each read's last value, ``"all"`` a list with one for each forward.
            device: where to keep read values.
            dtype: the dtype to keep them in.
            attention: an attention implementation for the session alone; ``"eager"`` makes patterns reachable.

        Raises:
            UnknownSiteError: an address that is none.
            NeverFiredError: at exit, a read or write that no forward reached.
            ShapeMismatchError: in the forward, a value that does not fit; both shapes are named.
            PlacementError: a device that isn't there, or a dtype that is none.
        """
        # A dict first: to ask for a Mapping takes longer.
        given = writes.items() if isinstance(writes, (dict, Mapping)) else writes
        asked = {spelling: self._resolve(spelling) for spelling in reads}
        return Session(
            self.model,
            asked,
            [(self._resolve(site), value) for site, value in given],
            grad=grad,
            keep=keep,
            device=None if device is None else usable_device(device),
            dtype=None if dtype is None else usable_dtype(dtype),
            attention=attention,
            towers=self._roots,
        )

    def _resolve(self, site: Site | str) -> Site:
        if isinstance(site, Site):
            return site
        if isinstance(site, str):
            return self[site]
        raise TypeError(f"expected a site or an address, found {type(site).__name__}")

    def _module_site(self, address: str, path: str, port_type: type[Input] | type[Output]) -> Site:
        try:
            module = self.model.get_submodule(path)
        except AttributeError:
            paths = [n for n, _ in self.model.named_modules() if n]
            near = nearest(path, paths) or nearest(path.rpartition(".")[2], paths)
            known = f" Nearest: {', '.join(near)}." if near else ""
            raise UnknownSiteError(f"{type(self.model).__name__} has no module {path!r}.{known}") from None
        require_python(module, repr(path))
        port: Port = port_type(path)
        return Site(address, None, None, None, port)

    def _component_names(self) -> list[str]:
        return list(dict.fromkeys(s.component for s in self.sites))

    def _no_component(self, asked: str, name: str, tower: str | None) -> UnknownSiteError:
        if self.adapter is None:
            return UnknownSiteError(
                f"no adapter knows {type(self.model).__name__}, so it has no component {asked!r}, only module "
                f"paths (as in 'path.to.module.output'). Families: {', '.join(sorted(registry.families()))}"
            )
        if name in components():
            return self.adapter.why_absent(name, tower)
        near = did_you_mean(asked, self._component_names())
        return UnknownSiteError(f"no component {asked!r}.{near}{self._table()}")

    def _table(self) -> str:
        """A sentence with the components that there are, for the end of an error message; empty without an adapter."""
        return "" if self.adapter is None else f" {self.adapter.family} has: {', '.join(self._component_names())}"

    def __repr__(self) -> str:
        family = self.adapter.family if self.adapter is not None else "no family"
        return f"<Adapted {type(self.model).__name__} ({family}): {self.layers} layers, {len(self.sites)} sites>"


def adapt(model: nn.Module, adapter: type[Adapter] | None = None) -> Adapted:
    """See a model as sites.

    Args:
        model: any PyTorch module; it is never changed.
        adapter: the family's table; found by the model's class where left out. A model of no known family has its
            module paths as sites.

    Raises:
        UnsupportedModelError: a model that hooks cannot tell the truth about (DataParallel).
    """
    bare = unwrapped(model)
    chosen = adapter if adapter is not None else registry.find(bare)
    return Adapted(bare, chosen(bare) if chosen is not None else None)

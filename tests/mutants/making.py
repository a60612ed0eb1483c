"""Making mutants: an adapter's table, sites or spec with one thing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from torch import Tensor, nn

from intervene.adapter import Adapter, Table, Tower, _view
from intervene.adapters.gpt2 import GPT2
from intervene.lenses import Lens
from intervene.ports import Callback, Handle, Output, Port, View
from intervene.sites import Site
from intervene.specs import Spec
from intervene.specs.schema import TowerSpec, table

HEADS = 3
"""Of the tiny models that the mutants are made for."""


def altered(change: Callable[[str, View], Port | View], base: type[Adapter] = GPT2) -> type[Adapter]:
    """``change`` applied to every entry of the adapter's table."""

    def components(self: Adapter, config: Any) -> Table:
        return {n: change(n, _view(e)) for n, e in base.components(self, config).items()}

    def outside(self: Adapter, config: Any) -> Table:
        entries = dict(base.outside(self, config))
        head = self.heads.get(self.known_as)
        if head is not None:
            entries.setdefault("logits", Output(head))
        return {n: change(n, _view(e)) for n, e in entries.items()}

    return _derived(base, components=components, outside=outside)


def moved(base: type[Adapter] = GPT2, **places: Port | View) -> type[Adapter]:
    """Components found at other places."""
    return altered(lambda name, view: places.get(name, view), base)


def seen_through(lens: Lens, *names: str, base: type[Adapter] = GPT2) -> type[Adapter]:
    """Components seen through one lens more."""
    return altered(lambda name, view: view >> lens if name in names else view, base)


def with_lens(change: Callable[[Lens], Lens], *names: str, base: type[Adapter] = GPT2) -> type[Adapter]:
    """Components seen through another lens, made from theirs."""
    return altered(lambda name, view: View(view.port, change(view.lens)) if name in names else view, base)


def reached_by(port: type[Around], *names: str, base: type[Adapter] = GPT2) -> type[Adapter]:
    """Components (all of them where none is named) reached by a port around their own."""

    def change(name: str, view: View) -> View:
        return View(port(view.port.path, view.port), view.lens) if not names or name in names else view

    return altered(change, base)


def sited(change: Callable[[Site], Site | None], base: type[Adapter] = GPT2) -> type[Adapter]:
    """``change`` applied to every site; None leaves it out."""

    def _sites(self: Adapter) -> Iterator[Site]:
        return (new for site in base._sites(self) if (new := change(site)) is not None)

    return _derived(base, _sites=_sites)


def layers_from(layer: Callable[[int, int], int], *names: str) -> type[Adapter]:
    """Components of GPT-2 whose layer l is found in layer ``layer(l, how many)``."""

    def _site(self: Adapter, name: str, index: int | None, view: View, tower: Tower) -> Site:
        site = GPT2._site(self, name, index, view, tower)
        if index is None or name not in names:
            return site
        there = GPT2._site(self, name, layer(index, self.layers), view, tower)
        return replace(site, port=there.port)

    return _derived(GPT2, _site=_site)


def claiming(change: Callable[[TowerSpec], TowerSpec], base: type[Adapter] = GPT2, **more: Any) -> type[Adapter]:
    """An adapter whose spec says something else."""

    @cache
    def load_spec() -> Spec:
        spec = base.load_spec()
        return replace(spec, towers=table({"": change(spec.tower)}))

    return _derived(base, load_spec=staticmethod(load_spec), **more)


def on_models(alter: Callable[[nn.Module], object], base: type[Adapter] = GPT2, **config: Any) -> type[Adapter]:
    """An adapter whose tiny models are altered after they were made."""

    def tiny(cls: type[Adapter], /, model: str | None = None, seed: int = 0, **more: Any) -> nn.Module:
        made = base.tiny(model, seed, **{**config, **more})
        alter(made)
        return made

    return _derived(base, tiny=classmethod(tiny))


def one_layer(base: type[Adapter]) -> type[Adapter]:
    """The same adapter on models of a single block."""

    def tiny(cls: type[Adapter], /, model: str | None = None, seed: int = 0, **more: Any) -> nn.Module:
        return base.tiny(model, seed, **{"num_hidden_layers": 1, **more})

    return _derived(base, tiny=classmethod(tiny))


def _derived(base: type[Adapter], **attributes: Any) -> type[Adapter]:
    return type(f"{base.__name__}Mutant", (base,), attributes)


@dataclass(frozen=True)
class Bent(Lens):
    """The whole part it is given; mutants override `get` or `put`."""

    def get(self, whole: Tensor) -> Tensor:
        return whole

    def put(self, whole: Tensor, part: Tensor) -> Tensor:
        return part


@dataclass(frozen=True)
class Around(Port):
    """A port that does as the port ``inner`` does; mutants override `attach` or `seen`."""

    inner: Port = field(default_factory=Output)

    def attach(self, model: nn.Module, callback: Callback) -> Handle:
        return self.own(model, lambda tensor: self.seen(tensor, callback))

    def own(self, model: nn.Module, callback: Callback) -> Handle:
        """Attach the inner port, as an adapter without the bug would."""
        return replace(self.inner, path=self.path).attach(model, callback)

    def seen(self, tensor: Tensor, callback: Callback) -> Tensor | None:
        """What flows on in place of ``tensor``; None leaves it."""
        return callback(tensor)

    def __str__(self) -> str:
        return str(replace(self.inner, path=self.path))


class Removal:
    """A handle that calls functions, the last one first."""

    def __init__(self, *undo: Callable[[], object]) -> None:
        self._undo = undo

    def remove(self) -> None:
        for each in reversed(self._undo):
            each()

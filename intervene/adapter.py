"""Adapters: for one family, where each canonical component lives.

An adapter is a table. `Adapter.components` says it for one block, `Adapter.outside` for what a model has once;
paths are relative to the block, and to the model. The family's spec (see ``specs/``) says what the adapter claims.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from .components import components
from .errors import AbsentComponentError, UnsupportedModelError
from .lenses import Whole
from .ports import Output, Port, View
from .sites import Site

if TYPE_CHECKING:
    from .specs import Spec

Table = Mapping[str, Port | View]


class Adapter(ABC):
    """A family's table from component to port and lens.

    Class attributes:
        family: the family's name, also that of its spec.
        models: names of the model classes it knows; subclasses of these are recognised too.
        base: the attribute that holds the base model in a model with a head; paths below may begin with it, and
            the bare base model is found without it.
        blocks: path of the list of blocks.
        heads: model class to the module whose output is its ``logits``.
        spec: the family's spec: a first-party name or the path of a TOML file.
    """

    family: ClassVar[str]
    models: ClassVar[tuple[str, ...]]
    base: ClassVar[str] = ""
    blocks: ClassVar[str]
    heads: ClassVar[Mapping[str, str]] = {}
    spec: ClassVar[str | Path | None] = None

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.config: Any = getattr(model, "config", None)

    @abstractmethod
    def components(self, config: Any) -> Table:
        """The components of one block."""

    def outside(self, config: Any) -> Table:
        """The components that a model has once; ``logits`` come from ``heads``."""
        return {}

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        """A small model of the family, made from a config alone, with weights drawn from ``seed``."""
        raise UnsupportedModelError(f"{cls.__name__} has no tiny model; override Adapter.tiny")

    @classmethod
    def recognises(cls, model: nn.Module) -> bool:
        """Whether this family's table is about ``model``, by its class and the classes it derives from."""
        return cls.class_name(model) is not None

    @classmethod
    def class_name(cls, model: nn.Module) -> str | None:
        """The nearest class of ``model`` that this family knows by name."""
        names = (c.__name__ for c in type(model).__mro__)
        return next((n for n in names if n in cls.models), None)

    @property
    def known_as(self) -> str:
        """The name under which the family knows the model's class."""
        return self.class_name(self.model) or type(self.model).__name__

    @classmethod
    def load_spec(cls) -> Spec:
        """The family's spec; its file is read again only when it has changed, for every site asks for it.

        Raises:
            SpecError: no such spec, or one that breaks the schema.
        """
        source = cls.spec if cls.spec is not None else cls.family
        file = Path(source)
        if file.suffix != ".toml" or not file.is_file():
            return _spec(source, ())
        state = file.stat()
        return _spec(source, (state.st_mtime_ns, state.st_size))

    @property
    def layers(self) -> int:
        """How many blocks the model has."""
        return len(self.block_list)

    @property
    def block_list(self) -> nn.ModuleList:
        """The model's own list of blocks."""
        found = self.model.get_submodule(self.locate(self.blocks))
        if not isinstance(found, (nn.ModuleList, nn.Sequential)):
            raise UnsupportedModelError(
                f"{type(self.model).__name__}: {self.blocks} is a {type(found).__name__}, not a list of blocks"
            )
        return found  # type: ignore[return-value]

    def locate(self, path: str) -> str:
        """``path`` as it is in this model.

        Some classes of a family hold the base under another name (transformers' ``base_model_prefix``), and a bare
        base model holds none.
        """
        prefix = self.base + "."
        if not self.base or not path.startswith(prefix):
            return path
        names = (getattr(self.model, "base_model_prefix", self.base), self.base)
        held = next((n for n in names if n and hasattr(self.model, n)), None)
        return ".".join(p for p in (held, path[len(prefix) :]) if p)

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Every canonical site of the model, in the order of computation."""
        return tuple(self._sites())

    def _sites(self) -> Iterator[Site]:
        outside = {n: _view(e) for n, e in self.outside(self.config).items()}
        head = self.heads.get(self.known_as)
        if head is not None:
            outside.setdefault("logits", _view(Output(head)))
        inside = {n: _view(e) for n, e in self.components(self.config).items()}
        order = list(components())
        first_layered = next(i for i, n in enumerate(order) if components()[n].layered)
        for name in sorted(outside, key=order.index):
            if order.index(name) < first_layered:
                yield self._site(name, None, outside[name])
        for layer in range(self.layers):
            for name in sorted(inside, key=order.index):
                yield self._site(name, layer, inside[name])
        for name in sorted(outside, key=order.index):
            if order.index(name) > first_layered:
                yield self._site(name, None, outside[name])

    def _site(self, name: str, layer: int | None, view: View) -> Site:
        if layer is None:
            port = replace(view.port, path=self.locate(view.port.path))
        else:
            port = view.port.under(f"{self.locate(self.blocks)}.{layer}")
        return Site(name, layer, None, self.axes(name), port, view.lens)

    def axes(self, component: str) -> tuple[str, ...]:
        """The axes of a component's activation in this model, by name, as the spec says."""
        claimed = self.load_spec().components.get(component)
        if claimed is None:
            return components()[component].axes
        found: tuple[str, ...] = claimed.resolve(self.known_as, self.config).axes
        return found

    def why_absent(self, component: str) -> AbsentComponentError:
        """The error for a component that the vocabulary has and this model lacks, with the spec's reason."""
        reason = self.load_spec().tower.why_absent(component, self.known_as, self.config)
        return AbsentComponentError(
            f"{type(self.model).__name__} has no {component}: {reason or 'its adapter lists none'}"
        )


@lru_cache(maxsize=256)
def _spec(source: str | Path, state: tuple[int, ...]) -> Spec:
    from .specs import load

    return load(source)


def _view(entry: Port | View) -> View:
    return View(entry, Whole()) if isinstance(entry, Port) else entry

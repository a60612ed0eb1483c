"""Adapters: for one family, where each canonical component lives.

An adapter is a table. `Adapter.components` says it for one block, `Adapter.outside` for what a model has once;
paths are relative to the block, and to the model. A family whose models have several stacks of blocks says them as
`Adapter.towers`. The family's spec (see ``specs/``) says what the adapter claims.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .components import components
from .errors import AbsentComponentError, UnsupportedModelError
from .lenses import Whole
from .ports import Output, Port, View
from .sites import Site
from .versions import installed, parsed

if TYPE_CHECKING:
    from .specs import Spec

Table = Mapping[str, Port | View]


@dataclass(frozen=True)
class Tower:
    """One stack of blocks, with what stands around it.

    Attributes:
        name: the first part of its sites' addresses; None where a model has a single one.
        blocks: path of the list of blocks, relative to the root; "" for what belongs to the model as a whole.
        components: the components of one block, by paths relative to it.
        outside: the components that the tower has once, by paths relative to the root.
        root: path of the module whose forward takes the tower's sequence; the model itself by default.
    """

    name: str | None
    blocks: str
    components: Table
    outside: Table = field(default_factory=dict)
    root: str = ""

    def within(self, path: str) -> str:
        """``path``, relative to the root, as it is in the model."""
        return ".".join(p for p in (self.root, path) if p)


class Adapter(ABC):
    """A family's table from component to port and lens.

    Class attributes:
        family: the family's name, also that of its spec.
        models: names of the model classes it knows; subclasses of these are recognised too.
        base: the attribute that holds the base model in a model with a head; paths below may begin with it, and
            the bare base model is found without it.
        blocks: path of the list of blocks.
        heads: model class to the module whose output is its ``logits``.
        variants: settings of the config, by name, with which the family's models are built otherwise (``post_norm``);
            the laws are held against a tiny model of each, too.
        spec: the family's spec: a first-party name or the path of a TOML file.
    """

    family: ClassVar[str]
    models: ClassVar[tuple[str, ...]]
    base: ClassVar[str] = ""
    blocks: ClassVar[str]
    heads: ClassVar[Mapping[str, str]] = {}
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    spec: ClassVar[str | Path | None] = None

    def __init__(self, model: nn.Module) -> None:
        """
        Raises:
            UnsupportedModelError: the library of the model's code is older than the spec says the table needs.
        """
        spec = self.load_spec()
        if _too_old(spec):
            raise UnsupportedModelError(
                f"the table of {spec.title} is of {spec.library} {spec.since} and up, and "
                f"{installed(spec.library)} is installed, whose modules may hold other things: upgrade it (pip install "
                f"'{spec.library}>={spec.since}')"
            )
        self.model = model
        self.config: Any = self.config_of(model)

    @abstractmethod
    def components(self, config: Any) -> Table:
        """The components of one block."""

    def outside(self, config: Any) -> Table:
        """The components that a model has once; ``logits`` come from ``heads``."""
        return {}

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        """A small model of the family, made from a config alone, with weights drawn from ``seed``.

        Raises:
            UnsupportedModelError: the adapter doesn't override this, or ``model`` is no class of the family.
        """
        raise UnsupportedModelError(f"{cls.__name__} has no tiny model; override Adapter.tiny")

    @classmethod
    def config_of(cls, model: nn.Module) -> Any:
        """What the table and the spec's expressions take widths and counts from: the model's ``config``, unless its
        library keeps them elsewhere."""
        return getattr(model, "config", None)

    @classmethod
    def example_inputs(
        cls, model: nn.Module, rows: int = 2, columns: int = 6, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Random inputs that a model of the family can be called with, for quick tries and for the laws.

        Args:
            model: a model of the family, whose config says what the inputs may hold.
            rows: examples in the batch.
            columns: positions, where the inputs decide how many.
            generator: what they are drawn from; torch's own random state by default.

        Raises:
            UnsupportedModelError: the family's models take no token ids, and it doesn't override this.
        """
        size = getattr(cls.config_of(model), "vocab_size", None)
        if size is None:
            raise UnsupportedModelError(
                f"{type(model).__name__}'s config has no vocab_size to draw input_ids from; override "
                f"{cls.__name__}.example_inputs"
            )
        return {"input_ids": token_ids(size, rows, columns, generator)}

    @classmethod
    def example_past(cls, model: nn.Module, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments with which a call of the model continues after ``inputs``: the cache that these leave.

        Raises:
            UnsupportedModelError: the model returns no cache, and its adapter doesn't override this.
        """
        output = model(**inputs, use_cache=True)
        name = next((n for n in ("past_key_values", "cache_params") if getattr(output, n, None) is not None), None)
        if name is None:
            raise UnsupportedModelError(
                f"{type(model).__name__} returns no cache to continue from; override {cls.__name__}.example_past"
            )
        return {name: output[name]}

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
    def available(cls) -> bool:
        """Whether the package that has the code of the family's models is installed, and new enough."""
        spec = cls.load_spec()
        return find_spec(spec.library) is not None and not _too_old(spec)

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

    def towers(self) -> Sequence[Tower]:
        """The model's stacks of blocks; a single one, of ``components`` and ``outside``, unless a family has more."""
        outside = dict(self.outside(self.config))
        head = self.heads.get(self.known_as)
        if head is not None:
            outside.setdefault("logits", Output(head))
        return [Tower(None, self.blocks, self.components(self.config), outside)]

    @cached_property
    def by_tower(self) -> dict[str | None, Tower]:
        """The towers by name."""
        return {tower.name: tower for tower in self.towers()}

    @property
    def layers(self) -> int:
        """How many blocks the model has, those of all its towers."""
        return sum(len(self.blocks_of(tower)) for tower in self.by_tower)

    def blocks_of(self, tower: str | None) -> nn.ModuleList:
        """The model's own list of a tower's blocks; an empty one for a tower without.

        Raises:
            UnsupportedModelError: what stands at the blocks' path is no list of modules.
            KeyError: the model has no tower of that name.
        """
        if not self.by_tower[tower].blocks:
            return nn.ModuleList()
        path = self._block_paths[tower]
        found = self.model.get_submodule(path)
        if not isinstance(found, (nn.ModuleList, nn.Sequential)):
            raise UnsupportedModelError(
                f"{type(self.model).__name__}: {path} is a {type(found).__name__}, not a list of blocks"
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
        known = components()
        order = {name: place for place, name in enumerate(known)}
        first_layered = next(place for place, component in enumerate(known.values()) if component.layered)
        for tower in self.by_tower.values():
            outside = sorted(tower.outside, key=order.__getitem__)
            inside = sorted(tower.components, key=order.__getitem__)
            for name in outside:
                if order[name] < first_layered:
                    yield self._site(name, None, _view(tower.outside[name]), tower)
            for layer in range(len(self.blocks_of(tower.name))):
                for name in inside:
                    yield self._site(name, layer, _view(tower.components[name]), tower)
            for name in outside:
                if order[name] > first_layered:
                    yield self._site(name, None, _view(tower.outside[name]), tower)

    def _site(self, name: str, layer: int | None, view: View, tower: Tower) -> Site:
        if layer is None:
            port = replace(view.port, path=self.locate(tower.within(view.port.path)))
        else:
            port = view.port.under(f"{self._block_paths[tower.name]}.{layer}")
        return Site(name, layer, tower.name, self._axes[tower.name][name], port, view.lens)

    # Asked for once a tower, for a deep model has thousands of sites and every `adapt` makes them.
    @cached_property
    def _block_paths(self) -> dict[str | None, str]:
        return {name: self.locate(tower.within(tower.blocks)) for name, tower in self.by_tower.items()}

    @cached_property
    def _axes(self) -> dict[str | None, dict[str, tuple[str, ...]]]:
        return {
            name: {component: self.axes(component, name) for component in (*tower.components, *tower.outside)}
            for name, tower in self.by_tower.items()
        }

    @property
    def roots(self) -> dict[str | None, str]:
        """The path of the module that takes a tower's sequence, for the towers that don't share the model's."""
        return {name: tower.root for name, tower in self.by_tower.items() if tower.root}

    def axes(self, component: str, tower: str | None = None) -> tuple[str, ...]:
        """The axes of a component's activation in this model, by name, as the spec says."""
        spec = self.load_spec().towers.get(tower or "")
        claimed = None if spec is None else spec.components.get(component)
        if spec is None or claimed is None:
            return components()[component].axes
        found: tuple[str, ...] = claimed.resolve(self.known_as, spec.config_of(self.config)).axes
        return found

    def needs_past(self, component: str, tower: str | None = None) -> bool:
        """Whether a component exists in a forward that continues from a cache, and in no other, as the spec says."""
        spec = self.load_spec().towers.get(tower or "")
        claimed = None if spec is None else spec.components.get(component)
        return claimed is not None and claimed.requires is not None and claimed.requires.past

    def why_absent(self, component: str, tower: str | None = None) -> AbsentComponentError:
        """The error for a component that the vocabulary has and this model (or tower) lacks, with the spec's reason."""
        spec = self.load_spec()
        asked = [tower] if tower is not None else [*self.by_tower, *([None] if "" in spec.towers else [])]
        reasons: dict[str | None, str] = {}
        for name in asked:
            claimed = spec.towers.get(name or "")
            if claimed is None or component not in claimed.unmentioned():
                reason = claimed and claimed.why_absent(component, self.known_as, self.config)
                reasons[name] = reason or "its adapter lists none"
        unique = set(reasons.values()) or {"its spec says nothing about it"}
        named = "; ".join(f"{name or 'the model as a whole'}: {reason}" for name, reason in reasons.items())
        said = unique.pop() if len(unique) == 1 else named
        return AbsentComponentError(f"{type(self.model).__name__} has no {component}: {said}")


def token_ids(vocabulary: int, rows: int, columns: int, generator: torch.Generator | None = None) -> Tensor:
    """Random tokens of a vocabulary of that size, (rows, columns), without those that are special in most."""
    # Padding among them would change a pooled head.
    return torch.randint(min(3, vocabulary - 1), vocabulary, (rows, columns), generator=generator)


def _too_old(spec: Spec) -> bool:
    found = installed(spec.library) if spec.since else None
    return found is not None and parsed(found) < parsed(spec.since)


@lru_cache(maxsize=256)
def _spec(source: str | Path, state: tuple[int, ...]) -> Spec:
    from .specs import load

    return load(source)


def _view(entry: Port | View) -> View:
    return View(entry, Whole()) if isinstance(entry, Port) else entry

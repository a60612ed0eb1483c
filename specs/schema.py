"""The typed form of a spec: what `load` gives. All frozen, comparable and picklable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar, cast

from .errors import SpecError, nearest
from .expressions import evaluate, holds, lookup
from .relations import Condition, Relation, Requirement

__all__ = [
    "AxisInfo",
    "Capability",
    "ComponentInfo",
    "ComponentSpec",
    "Spec",
    "Table",
    "TowerSpec",
    "Variant",
    "Vocabulary",
]

Key = TypeVar("Key")
Value = TypeVar("Value")

Capability = bool | str | tuple[str, ...]
"""Claimed or not; a condition over the config; or the model classes that have it."""


class Table(Mapping[Key, Value], Generic[Key, Value]):
    """A mapping that keeps its order and can't be changed: specs are cached and shared."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Mapping[Key, Value] | None = None) -> None:
        self._entries = dict(entries or {})

    def __getitem__(self, key: Key) -> Value:
        return self._entries[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __hash__(self) -> int:
        return hash(frozenset(self._entries.items()))

    def __repr__(self) -> str:
        return f"Table({self._entries!r})"


@dataclass(frozen=True)
class AxisInfo:
    """One axis of the vocabulary.

    Attributes:
        name: for example "feature".
        meaning: what it counts.
        size: "input" where the caller's inputs decide its length, "config" where a spec has to give
            its width.
    """

    name: str
    meaning: str
    size: str


@dataclass(frozen=True)
class ComponentInfo:
    """One component of the vocabulary, the same for all families.

    Attributes:
        name: canonical name.
        axes: its axes in order, as every family gives them unless its spec says otherwise.
        scope: "block" (one in each layer) or "model".
        meaning: one sentence.
        aliases: other ecosystems' words for it.
        acts_through: the component of the same layer behind which nothing is left of a change here, once that one is
            put back: the output of its sub-layer or block; "" for what no other one stands behind.
    """

    name: str
    axes: tuple[str, ...]
    scope: str
    meaning: str
    aliases: tuple[str, ...] = ()
    acts_through: str = ""


@dataclass(frozen=True)
class Vocabulary:
    """Everything that `components.toml` defines, each table in the order of the file.

    Attributes:
        axes: the axes.
        capabilities: what laws may ask a tower for, and what it means.
        implied: capability -> components of which none may be listed without claiming it.
        without: capability -> what a user reads who asks a family without it for one of these.
        components: the components, in the order in which a forward computes them.
    """

    axes: Mapping[str, AxisInfo]
    capabilities: Mapping[str, str]
    implied: Mapping[str, tuple[str, ...]]
    without: Mapping[str, str]
    components: Mapping[str, ComponentInfo]


@dataclass(frozen=True)
class Variant:
    """How a component differs for some model classes or configs; what is None stays as it was.

    Attributes:
        models: model classes it is for; empty for all.
        when: condition over the config.
        axes: axes in place of the component's.
        widths: widths in place of the component's.
        dtype: dtype in place of the component's.
        note: for the reader.
    """

    models: tuple[str, ...] = ()
    when: Condition = True
    axes: tuple[str, ...] | None = None
    widths: Mapping[str, str] | None = None
    dtype: str | None = None
    note: str = ""


@dataclass(frozen=True)
class ComponentSpec:
    """What a tower claims about one component.

    Attributes:
        name: canonical name.
        axes: its axes in order.
        widths: axis -> expression over the config, for each axis whose size the config decides; also for one whose
            size is otherwise the inputs', where the config decides it here.
        dtype: "model" (that of the tower's weights) or a torch dtype's name, such as "float32".
        first_dtype: that of the first layer, where it is another; "" where it isn't.
        requires: what a run must have for it to exist, or None.
        variants: differences by model class or config; the first that fits counts.
        absent: model classes of the family that lack it, with the reason.
        note: for the reader.
        line: line in the spec's file.
    """

    name: str
    axes: tuple[str, ...]
    widths: Mapping[str, str]
    dtype: str = "model"
    first_dtype: str = ""
    requires: Requirement | None = None
    variants: tuple[Variant, ...] = ()
    absent: Mapping[str, str] = field(default_factory=Table)
    note: str = ""
    line: int = field(default=0, compare=False)

    def resolve(self, model: str, config: object) -> ComponentSpec:
        """This component for one model class and config: its variant applied, no variants left."""
        for variant in self.variants:
            if variant.models and model not in variant.models:
                continue
            if not holds(variant.when, config):
                continue
            return replace(
                self,
                axes=self.axes if variant.axes is None else variant.axes,
                widths=self.widths if variant.widths is None else variant.widths,
                dtype=self.dtype if variant.dtype is None else variant.dtype,
                note=variant.note or self.note,
                variants=(),
            )
        return replace(self, variants=())

    def shape(self, model: str, config: object) -> tuple[int | None, ...]:
        """The shape for one model class and config; None for an axis that the inputs decide.

        Raises:
            SpecError: an expression can't be evaluated, or gives a width below 1.
        """
        component = self.resolve(model, config)
        sizes: list[int | None] = []
        for axis in component.axes:
            if axis not in component.widths:
                sizes.append(None)
                continue
            size = evaluate(component.widths[axis], config)
            if size < 1:
                raise SpecError(
                    f"{self.name}: {axis} = {component.widths[axis]} is {size} for this config",
                    remedy="a width is at least 1",
                )
            sizes.append(size)
        return tuple(sizes)


@dataclass(frozen=True)
class TowerSpec:
    """One stack of blocks and its components; a model with a single one has the tower named "".

    Attributes:
        name: first part of its sites' addresses; "" for none.
        models: model classes that have the tower; empty for all of the family.
        config: name of the tower's own config within the model's; "" for the model's itself.
        root: paths of the module that is given the tower's sequence and returns its hidden states and attentions, of
            which the first that exists is meant; the model itself where none does.
        attends_to: model class -> the tower whose positions cross-attention attends to.
        blocks: paths of the block list, of which the first that exists in a model is meant; empty
            for a tower without blocks.
        layers: expression over the (tower's) config: how many blocks.
        causal: whether position p sees positions up to p only.
        positions: expression over the (tower's) config: how many positions every input has, or one for each model
            class; "" where inputs differ.
        inputs: arguments of the model's forward that laws may draw for this tower.
        attention_implementations: what the model can be loaded with and must agree under.
        capabilities: see `components.toml`; not listed is not claimed.
        components: name -> what is claimed, in the order of computation.
        absent: component -> why this tower has none; or capability -> why it has none of its components.
        relations: how components hang together.
    """

    name: str
    causal: Condition
    components: Mapping[str, ComponentSpec]
    models: tuple[str, ...] = ()
    config: str = ""
    root: tuple[str, ...] = ()
    attends_to: Mapping[str, str] = field(default_factory=Table)
    blocks: tuple[str, ...] = ()
    layers: str = ""
    positions: str | Mapping[str, str] = ""
    inputs: tuple[str, ...] = ()
    attention_implementations: tuple[str, ...] = ()
    capabilities: Mapping[str, Capability] = field(default_factory=Table)
    absent: Mapping[str, str] = field(default_factory=Table)
    relations: tuple[Relation, ...] = ()

    def config_of(self, config: object) -> Any:
        """The tower's own config, given the model's. All expressions are over this one."""
        return lookup(config, self.config) if self.config else config

    def count(self, config: object) -> int:
        """How many blocks the tower has, given the model's config; 0 without blocks."""
        return evaluate(self.layers, self.config_of(config)) if self.layers else 0

    def length(self, model: str, config: object) -> int | None:
        """How many positions every input has, given a model class and the model's config; None where inputs differ."""
        expression = self.positions if isinstance(self.positions, str) else self.positions[model]
        return evaluate(expression, self.config_of(config)) if expression else None

    def is_causal(self, config: object) -> bool:
        """Whether the tower is causal, given the model's config."""
        return holds(self.causal, self.config_of(config))

    def has(self, capability: str, model: str, config: object) -> bool:
        """Whether the tower claims a capability for a model class and the model's config.

        Raises:
            SpecError: no such capability in the vocabulary; the nearest are said.
        """
        from .loader import full_vocabulary  # the loader builds these classes

        known = full_vocabulary().capabilities
        if capability not in known:
            raise SpecError(f"no capability {capability!r}", remedy=nearest(capability, known))
        claimed = self.capabilities.get(capability, False)
        if isinstance(claimed, tuple):
            return model in claimed
        return holds(claimed, self.config_of(config))

    def why_absent(self, component: str, model: str, config: object) -> str | None:
        """Why this tower of that model has no such component, or None where it has it.

        A requirement over the config counts; one on the attention implementation doesn't, since
        that can be changed on the loaded model.

        Raises:
            SpecError: no such component in the vocabulary; the nearest are said.
        """
        from .loader import full_vocabulary, vocabulary

        if component not in vocabulary():
            raise SpecError(f"no component {component!r}", remedy=nearest(component, vocabulary()))
        if self.models and model not in self.models:
            return f"{model} has no tower {self.name!r}; of the family, {', '.join(self.models)} do"
        lacking = self.lacking()
        if component in lacking:
            return lacking[component]
        if component not in self.components:
            return "the spec says nothing about it"
        found = self.components[component]
        if model in found.absent:
            return found.absent[model]
        if found.requires and not holds(found.requires.when, self.config_of(config)):
            return found.requires.reason
        words = full_vocabulary()
        for capability, reason in words.without.items():
            # Claimed for some model classes or configs, and not for this one.
            if component in words.implied[capability] and not self.has(capability, model, config):
                return reason
        return None

    def lacking(self) -> dict[str, str]:
        """Every component that the tower has in no model, with the reason.

        The spec's own reasons, and those of the capabilities that it doesn't claim.
        """
        from .loader import full_vocabulary

        words = full_vocabulary()
        unclaimed = [c for c in words.implied if self.capabilities.get(c, False) is False]
        without = {c: self.absent.get(c, words.without.get(c, "")) for c in unclaimed}
        implied = {name: reason for c, reason in without.items() if reason for name in words.implied[c]}
        own = {n: r for n, r in self.absent.items() if n in words.components}
        return {n: r for n, r in {**implied, **own}.items() if n not in self.components}

    def unmentioned(self) -> tuple[str, ...]:
        """Components of the vocabulary that are neither claimed nor absent with a reason."""
        from .loader import vocabulary

        said = {*self.components, *self.lacking()}
        return tuple(name for name in vocabulary() if name not in said)


@dataclass(frozen=True)
class Spec:
    """What a family claims about its sites.

    Attributes:
        family: short name, also the file's.
        title: for people.
        library: the import package whose classes these are, such as "transformers".
        since: its first version whose modules hold what is claimed; "" where any does.
        paper: citation.
        models: names of the model classes.
        towers: name -> tower; {"": ...} where there's a single one.
        notes: what a reader should know that no other field says.
        file: name of the file it was read from.
    """

    family: str
    title: str
    library: str
    paper: str
    models: tuple[str, ...]
    towers: Mapping[str, TowerSpec]
    notes: tuple[str, ...] = ()
    since: str = ""
    file: str = field(default="", compare=False)

    @property
    def tower(self) -> TowerSpec:
        """The tower, where there's a single one.

        Raises:
            SpecError: the family has several; their names are said.
        """
        if len(self.towers) == 1:
            return next(iter(self.towers.values()))
        raise SpecError(
            f"{self.family} has several towers",
            remedy=f"take one of `towers`: {', '.join(map(repr, self.towers))}",
            file=self.file,
        )

    @property
    def components(self) -> Mapping[str, ComponentSpec]:
        """Components of the single tower; raises as `tower` does."""
        return self.tower.components

    @property
    def absent(self) -> Mapping[str, str]:
        """Absent components of the single tower; raises as `tower` does."""
        return self.tower.absent

    @property
    def relations(self) -> tuple[Relation, ...]:
        """Relations of the single tower; raises as `tower` does."""
        return self.tower.relations


def table(entries: Mapping[Key, Value]) -> Mapping[Key, Value]:
    """An unchangeable copy."""
    return cast("Mapping[Key, Value]", Table(entries))

"""From TOML to the typed form: `load`, `families` and `vocabulary`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from .errors import SpecError, nearest
from .reader import Document, Section
from .relations import KINDS, Part, Relation, Requirement, required
from .schema import (
    AxisInfo,
    Capability,
    ComponentInfo,
    ComponentSpec,
    Spec,
    TowerSpec,
    Variant,
    Vocabulary,
    table,
)

__all__ = ["families", "full_vocabulary", "load", "vocabulary"]

_FOLDER = Path(__file__).resolve().parent
_VOCABULARY_FILE = "components.toml"
_SCOPES = ("block", "model")
_SIZES = ("input", "config")
_DTYPES = ("model", "float16", "bfloat16", "float32", "float64")

# Keys of the file that no dataclass field of the same name carries, and the reverse.
_TOWER_KEYS = tuple(each.name for each in fields(TowerSpec) if each.name not in ("name", "models"))
_FAMILY_KEYS = ("family", "title", "library", "since", "paper", "models", "notes", "towers")
_COMPONENT_KEYS = tuple(each.name for each in fields(ComponentSpec) if each.name not in ("name", "line"))


def families() -> tuple[str, ...]:
    """Families whose specs come with this package, in alphabetical order."""
    files = _FOLDER.glob("*.toml")
    return tuple(sorted(file.stem for file in files if file.name != _VOCABULARY_FILE))


def vocabulary() -> Mapping[str, ComponentInfo]:
    """Every canonical component by name, in the order in which a forward computes them."""
    return full_vocabulary().components


@cache
def full_vocabulary() -> Vocabulary:
    """Components with the axes and capabilities that specs may use."""
    top = Document(_FOLDER / _VOCABULARY_FILE).top()
    top.only(("axes", "capabilities", "components"))

    axes = {}
    for name, section in _named(top, "axes"):
        section.only(("meaning", "size"))
        size = _one_of(section, "size", _SIZES, "size")
        axes[name] = AxisInfo(name, section.text("meaning"), size)

    components = {}
    names = top.section("components").entries
    words: dict[str, str] = {}
    for name, section in _named(top, "components"):
        section.only([each.name for each in fields(ComponentInfo) if each.name != "name"])
        info = ComponentInfo(
            name=name,
            axes=section.known_texts("axes", axes, "axis"),
            scope=_one_of(section, "scope", _SCOPES, "scope"),
            meaning=section.text("meaning"),
            aliases=section.texts("aliases", ()),
            acts_through=_one_of(section, "acts_through", names, "component") if "acts_through" in section else "",
        )
        for word in (name, *info.aliases):
            if word in words:
                raise section.error(f"{word!r} already means {words[word]}", "one word, one meaning")
            words[word] = name
        components[name] = info

    capabilities, implied, without = {}, {}, {}
    for name, section in _named(top, "capabilities"):
        section.only(("meaning", "components", "without"))
        capabilities[name] = section.text("meaning")
        implied[name] = section.known_texts("components", components, "component", ())
        if "without" in section:
            without[name] = section.text("without")

    return Vocabulary(table(axes), table(capabilities), table(implied), table(without), table(components))


def load(family: str | Path) -> Spec:
    """The spec of a family.

    Args:
        family: a name out of `families()`, or the path of a spec file anywhere (a Path, or a string
            that ends in ``.toml``). Own specs are read once; a path is read at each call.

    Raises:
        SpecError: no such family or file, or the file breaks the schema: the message has the file,
            the line, what was wrong and what would be right.
    """
    if isinstance(family, Path) or family.endswith(".toml"):
        return _read(Path(family))
    return _own(family)


@cache
def _own(family: str) -> Spec:
    if family not in families():
        raise SpecError(f"no family {family!r}", remedy=nearest(family, families()))
    spec = _read(_FOLDER / f"{family}.toml")
    if spec.family != family:
        raise SpecError(f"the file says family {spec.family!r}", remedy=f"{family!r}", file=spec.file)
    return spec


def _read(path: Path) -> Spec:
    top = Document(path).top()
    top.only((*_FAMILY_KEYS, *_TOWER_KEYS))
    models = top.texts("models")
    towers = {}
    if "towers" in top:
        for name, section in _named(top, "towers"):
            section.only((*_TOWER_KEYS, "models"))
            if not name.isidentifier():
                raise section.error(f"a tower can't be called {name!r}", "letters, digits and _")
            towers[name] = _Tower(section, models).read(name)
    if "towers" not in top or any(key in top for key in _TOWER_KEYS):
        # With towers, the top level may still describe what belongs to the model as a whole.
        towers[""] = _Tower(top, models).read("")
    for tower in towers.values():
        for model, other in tower.attends_to.items():
            if other not in towers:
                section = top.section("towers").section(tower.name) if tower.name else top
                raise section.section("attends_to").error(
                    f"{model!r} attends to the tower {other!r}", nearest(other, towers), model
                )
    return Spec(
        family=top.text("family"),
        title=top.text("title"),
        library=top.text("library"),
        paper=top.text("paper"),
        models=models,
        towers=table(towers),
        notes=top.texts("notes", ()),
        since=_version(top),
        file=path.name,
    )


def _version(top: Section) -> str:
    since = top.text("since", "")
    if since and not re.fullmatch(r"\d+(\.\d+)*", since):
        raise top.error(f"'since' is {since!r}", 'a version in numbers, such as "5.18"', "since")
    return since


@dataclass(frozen=True)
class _Tower:
    """Reads one tower; `models` are the family's model classes."""

    section: Section
    models: tuple[str, ...]

    def read(self, name: str) -> TowerSpec:
        section = self.section
        vocabulary = full_vocabulary()
        if ("blocks" in section) != ("layers" in section):
            there, missing = ("blocks", "layers") if "blocks" in section else ("layers", "blocks")
            raise section.error(f"{there!r} without {missing!r}", "give both, or none", there)
        components = self.components(vocabulary)
        known = (*vocabulary.components, *vocabulary.capabilities)
        absent = self.reasons(section.section("absent", {}), known, "component")
        for each in absent:
            if each in components:
                inner = section.section("absent")
                raise inner.error(
                    f"{each!r} is absent here and present in line {components[each].line}",
                    "keep one of the two",
                    each,
                )
        capabilities = self.capabilities(vocabulary)
        for capability, implying in vocabulary.implied.items():
            listed = [each for each in implying if each in components]
            if listed and capabilities.get(capability, False) is False:
                raise section.error(
                    f"{listed[0]!r} is listed and the capability {capability!r} isn't claimed",
                    f"claim {capability} in [capabilities]: {vocabulary.capabilities[capability]}",
                )
        return TowerSpec(
            name=name,
            models=self.read_models(section, "models") if name and "models" in section else (),
            config=section.text("config", ""),
            root=section.paths("root", ()),
            attends_to=table(self.reasons(section.section("attends_to", {}), self.models, "model class")),
            blocks=section.paths("blocks", ()),
            layers=section.expression("layers", ""),
            positions=self.positions(),
            causal=section.condition("causal"),
            inputs=section.texts("inputs", ()),
            attention_implementations=section.texts("attention_implementations", ()),
            capabilities=table(capabilities),
            components=table(components),
            absent=table(absent),
            relations=self.relations(components, vocabulary.components),
        )

    def positions(self) -> str | Mapping[str, str]:
        """How many positions an input has: an expression for all model classes, or one for each."""
        if not isinstance(self.section.entries.get("positions"), dict):
            return self.section.expression("positions", "")
        inner = self.section.section("positions")
        models = self.read_models(self.section, "models") or self.models
        inner.only(models, "model class")
        missing = [name for name in models if name not in inner]
        if missing:
            raise inner.error(f"{inner.title} lacks {', '.join(missing)}", "an expression for each model class")
        return table({name: inner.expression(name) for name in models})

    def components(self, vocabulary: Vocabulary) -> dict[str, ComponentSpec]:
        section = self.section.section("components")
        known = vocabulary.components
        aliases = {alias: info.name for info in known.values() for alias in info.aliases}
        for name in section.entries:
            if name in aliases:
                raise section.error(f"{name!r} is an alias", f"write {aliases[name]!r}", name)
        section.only(known, "component")
        found = {name: self.component(name, section.section(name), vocabulary) for name in section.entries}
        for name in found:
            if known[name].scope == "block" and "blocks" not in self.section:
                raise section.error(
                    f"{name!r} is in each block, and this tower has no blocks",
                    "give `blocks` and `layers`",
                    name,
                )
        return {name: found[name] for name in known if name in found}

    def component(self, name: str, section: Section, vocabulary: Vocabulary) -> ComponentSpec:
        section.only(_COMPONENT_KEYS)
        axes = section.known_texts("axes", vocabulary.axes, "axis", vocabulary.components[name].axes)
        absent = section.section("absent", {})
        return ComponentSpec(
            name=name,
            axes=axes,
            widths=self.widths(section, axes, vocabulary.axes),
            dtype=self.dtype(section, "model"),
            first_dtype=self.dtype(section, "", "first_dtype"),
            requires=self.requirement(section, "requires"),
            variants=tuple(self.variant(each, axes, vocabulary.axes) for each in section.sections("variants")),
            absent=table(self.reasons(absent, self.models, "model class")),
            note=section.text("note", ""),
            line=section.line,
        )

    def variant(self, section: Section, axes: tuple[str, ...], known: Mapping[str, AxisInfo]) -> Variant:
        section.only([each.name for each in fields(Variant)])
        models = self.read_models(section, "models")
        when = section.condition("when", True)
        if not models and when is True:
            raise section.error(f"{section.title} is for everything", "give `models` or `when`")
        if not {"axes", "widths", "dtype"} & set(section.entries):
            raise section.error(f"{section.title} changes nothing", "give axes, widths or dtype")
        own = section.known_texts("axes", known, "axis") if "axes" in section else None
        reads = "axes" in section or "widths" in section
        return Variant(
            models=models,
            when=when,
            axes=own,
            widths=self.widths(section, own or axes, known) if reads else None,
            dtype=self.dtype(section, None),
            note=section.text("note", ""),
        )

    @staticmethod
    def dtype(section: Section, default: str | None, key: str = "dtype") -> Any:
        return _one_of(section, key, _DTYPES, "dtype") if key in section else default

    @staticmethod
    def widths(section: Section, axes: tuple[str, ...], known: Mapping[str, AxisInfo]) -> Mapping[str, str]:
        """The axes whose size the config decides, each with its expression; others but the batch may have one."""
        wanted = [axis for axis in axes if known[axis].size == "config"]
        inner = section.section("widths", {})
        if "batch" in inner:
            raise inner.error(f"'batch' has a width in {inner.title}", "its size comes from the inputs", "batch")
        inner.only(axes, "axis")
        for axis in wanted:
            if axis not in inner:
                raise inner.error(f"{inner.title} lacks the axis {axis!r}", "an expression over the config")
        return table({axis: inner.expression(axis) for axis in axes if axis in inner})

    def capabilities(self, vocabulary: Vocabulary) -> dict[str, Capability]:
        section = self.section.section("capabilities", {})
        section.only(vocabulary.capabilities, "capability")
        found: dict[str, Capability] = {}
        for name in section.entries:
            if isinstance(section.entries[name], list):
                found[name] = self.read_models(section, name)
            else:
                found[name] = section.condition(name)
        return found

    @staticmethod
    def reasons(section: Section, known: Collection[str], what: str) -> dict[str, str]:
        section.only(known, what)
        return {name: section.text(name) for name in section.entries}

    def relations(
        self, components: Mapping[str, ComponentSpec], known: Mapping[str, ComponentInfo]
    ) -> tuple[Relation, ...]:
        found: dict[str, Relation] = {}
        for section in self.section.sections("relations"):
            kind = KINDS[_one_of(section, "kind", KINDS, "kind of relation")]
            keys = [each.name for each in fields(kind) if each.name != "line"]
            section.only(["kind", *keys])
            for key in required(kind):
                if key not in section:
                    raise section.error(
                        f"a relation of kind {kind.kind!r} lacks {key!r}",
                        f"keys: {', '.join(keys)}",
                    )
            values = {}
            for each in fields(kind):
                if each.name in section and "read" in each.metadata:
                    read = getattr(self, f"read_{each.metadata['read']}")
                    values[each.name] = read(section, each.name)
            relation = kind(**values, line=section.line)
            self.check_components(section, relation, components, known)
            name = section.text("name", f"{kind.kind}:{relation.subject}")
            if name in found:
                raise section.error(
                    f"a relation {name!r} stands already in line {found[name].line}",
                    "give this one a `name` of its own",
                )
            found[name] = kind(**values, line=section.line, name=name)
        return tuple(found.values())

    def check_components(
        self,
        section: Section,
        relation: Relation,
        components: Mapping[str, ComponentSpec],
        known: Mapping[str, ComponentInfo],
    ) -> None:
        layered = known[relation.subject].scope == "block" if relation.subject in known else False
        for each in fields(relation):
            read = each.metadata.get("read")
            if each.name not in section or read not in ("component", "components"):
                continue
            value = getattr(relation, each.name)
            for name in value if read == "components" else (value,):
                if name not in components:
                    why = "which this spec doesn't list" if name in known else "which doesn't exist"
                    raise section.error(
                        f"{each.name!r} names the component {name!r}, {why}",
                        nearest(name, components),
                        each.name,
                    )
                wanted = each.metadata["scope"] or ("block" if layered else "")
                if wanted and known[name].scope != wanted:
                    raise section.error(
                        f"{each.name!r} names {name!r}, whose scope is {known[name].scope!r}",
                        f"a component of scope {wanted!r} is needed",
                        each.name,
                    )

    # One reader for each value of a relation field's metadata["read"].

    def read_component(self, section: Section, key: str) -> str:
        return section.text(key)

    def read_components(self, section: Section, key: str) -> tuple[str, ...]:
        return section.texts(key)

    def read_text(self, section: Section, key: str) -> str:
        return section.text(key)

    def read_texts(self, section: Section, key: str) -> tuple[str, ...]:
        return section.texts(key)

    def read_expression(self, section: Section, key: str) -> str:
        return section.expression(key)

    def read_flag(self, section: Section, key: str) -> bool:
        flag: bool = section.value(key, bool)
        return flag

    def read_integer(self, section: Section, key: str) -> int:
        number: int = section.value(key, int)
        return number

    def read_condition(self, section: Section, key: str) -> bool | str:
        return section.condition(key)

    def read_models(self, section: Section, key: str) -> tuple[str, ...]:
        return section.known_texts(key, self.models, "model class", ())

    def read_paths(self, section: Section, key: str) -> tuple[str, ...]:
        return section.paths(key)

    def read_requirement(self, section: Section, key: str) -> Requirement | None:
        return self.requirement(section, key)

    def requirement(self, section: Section, key: str) -> Requirement | None:
        if key not in section:
            return None
        inner = section.section(key)
        inner.only([each.name for each in fields(Requirement)])
        if not {"attention", "when", "past"} & set(inner.entries):
            raise inner.error(f"{inner.title} requires nothing", "give `attention`, `when` or `past`")
        return Requirement(
            reason=inner.text("reason"),
            attention=inner.texts("attention", ()),
            when=inner.condition("when", True),
            past=inner.value("past", bool, False),
        )

    def read_part(self, section: Section, key: str) -> Part:
        inner = section.section(key)
        inner.only([each.name for each in fields(Part)])
        chunked = {"chunk", "of"} <= set(inner.entries) <= {"chunk", "of", "per"}
        if not chunked and set(inner.entries) != {"start", "stop"}:
            raise inner.error(f"{inner.title} is no part", "`chunk` and `of` (and `per`), or `start` and `stop`")
        part = Part(
            chunk=inner.value("chunk", int, None),
            of=inner.value("of", int, None),
            per=inner.expression("per", None),
            start=inner.expression("start", None),
            stop=inner.expression("stop", None),
        )
        if part.chunk is not None and part.of is not None and not 0 <= part.chunk < part.of:
            raise inner.error(f"chunk {part.chunk} of {part.of}", "chunks count from 0", "chunk")
        return part


def _named(section: Section, key: str) -> Iterator[tuple[str, Section]]:
    """The tables below a table, by name."""
    inner = section.section(key)
    for name in inner.entries:
        yield name, inner.section(name)


def _one_of(section: Section, key: str, known: Collection[str], what: str) -> str:
    value = section.text(key)
    if value not in known:
        raise section.error(f"unknown {what} {value!r} in {section.title}", nearest(value, known), key)
    return value

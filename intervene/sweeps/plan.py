"""The plan of a sweep: its axes, and the cells, one patched run each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from ..adapted import Adapted
from ..components import canonical
from ..errors import SweepError, UnknownSiteError, did_you_mean
from ..ports import Output
from ..sites import Site

AXES = ("component", "layer", "head", "position")
# Stands for a layer's number in a component that is a module path.
LAYER = "{layer}"
Label = int | str


@dataclass(frozen=True)
class Axis:
    """One axis of a result: its name, the label of each entry, and texts to show for them (tokens, say)."""

    name: str
    labels: tuple[Label, ...]
    texts: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Cell:
    """One patched run.

    Attributes:
        index: its place among the result's cells, counted along the axes with the last one fastest.
        sites: what is written: one site, or the window of layers around one.
        head: the head that is written, None for all.
        positions: the columns that are written, None for all.
        start: the first block that computes something else than in the base run (the number of blocks, where only
            what follows them does); None when it differs before the first block.
    """

    index: int
    sites: tuple[Site, ...]
    head: int | None
    positions: tuple[int, ...] | None
    start: int | None


@dataclass(frozen=True)
class Plan:
    """The axes of a sweep and its cells, ordered by the layer they start at."""

    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return tuple(len(axis) for axis in self.axes)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every site that some cell writes, once."""
        return tuple(dict.fromkeys(s for cell in self.cells for s in cell.sites))


def choose_axes(adapted: Adapted, components: Sequence[str], asked: Sequence[str] | None) -> tuple[str, ...]:
    """The axes' names in the order asked for; (layer, position) unless the components say otherwise."""
    layered = [c for c in components if _layered(adapted, c)]
    if layered and len(layered) < len(components):
        raise SweepError(f"{', '.join(layered)} exist in each layer and the other components don't: sweep them apart")
    if asked is None:
        several = ("component",) if len(components) > 1 else ()
        return (*several, *(("layer",) if layered else ()), "position")
    unknown = [a for a in asked if a not in AXES]
    if unknown or len(set(asked)) != len(tuple(asked)) or not asked:
        raise SweepError(f"axes are some of {', '.join(AXES)}, each once; found {list(asked)}")
    if len(components) > 1 and "component" not in asked:
        raise SweepError(f"{len(components)} components need the axis 'component'; found {list(asked)}")
    if bool(layered) != ("layer" in asked):
        raise SweepError(
            f"{', '.join(components)} exist in each layer: add the axis 'layer'"
            if layered
            else f"{', '.join(components)} exist once in a model: leave the axis 'layer' out"
        )
    return tuple(asked)


def placed(adapted: Adapted, component: str) -> tuple[str | None, str]:
    """A component's tower and canonical name: of ``"vision.mlp_output"``, or of ``"mlp_output"`` of one tower alone.

    Raises:
        UnknownSiteError: a component of several towers, of which none is said.
    """
    tower, _, bare = component.rpartition(".")
    if tower in adapted.towers:
        return tower, canonical(bare)
    name = canonical(component)
    # Not by `filter`, which refuses a module path.
    having = {site.tower for site in adapted.sites if site.component == name}
    if len(having) > 1:
        adapted.site(component)  # raises, with the towers
    return (having.pop() if having else None), name


def depth(adapted: Adapted, components: Sequence[str]) -> int:
    """How many layers the components' tower has.

    Raises:
        SweepError: components of several towers, whose layers don't go together.
    """
    by_path = {c: _numbered(adapted, c) for c in components if LAYER in c}
    if by_path:
        if len(by_path) < len(components) or len(set(by_path.values())) > 1:
            raise SweepError(f"{', '.join(components)} don't go through the same layers: sweep them apart")
        return by_path[components[0]]
    towers = dict.fromkeys(placed(adapted, c)[0] for c in components)
    if len(towers) > 1:
        raise SweepError(f"the components belong to the towers {', '.join(map(str, towers))}: sweep them apart")
    (tower,) = towers
    return adapted.layers if tower is None or adapted.adapter is None else len(adapted.adapter.blocks_of(tower))


def _numbered(adapted: Adapted, component: str) -> int:
    """How many modules there are for the layer's number in a component that is a module path."""
    path = component.partition(LAYER)[0].removesuffix(".")
    try:
        numbered = list(adapted.model.get_submodule(path)._modules)
    except AttributeError:
        near = did_you_mean(path, [name for name, module in adapted.model.named_modules() if len(module._modules) > 1])
        raise UnknownSiteError(f"{component}: {type(adapted.model).__name__} has no modules {path!r}.{near}") from None
    if numbered != [str(n) for n in range(len(numbered))] or not numbered:
        raise UnknownSiteError(f"{component}: the modules of {path!r} are not numbered from 0; they are {numbered}")
    return len(numbered)


def _layered(adapted: Adapted, component: str) -> bool:
    if LAYER in component:
        return True
    tower, name = placed(adapted, component)
    return any(s.layer is not None for s in adapted.sites if s.component == name and tower in (None, s.tower))


def make(
    adapted: Adapted,
    components: Sequence[str],
    axes: Sequence[str],
    layers: Sequence[int],
    positions: Sequence[int] | None,
    heads: Sequence[int],
    columns: int,
    window: int,
    tokens: Sequence[str] | None,
) -> Plan:
    """The plan of a sweep over ``axes``.

    Args:
        components: canonical names, aliases or addresses.
        layers: the layers asked for, from 0.
        positions: columns swept (with a position axis), or written by every cell (without); None for all.
        heads: heads swept.
        columns: how many columns the inputs have.
        window: how many layers around a cell's own are written with it.
        tokens: the text of each column.
    """
    if tokens is not None and len(tokens) != columns:
        raise SweepError(f"tokens has {len(tokens)} texts for {columns} columns")
    swept = list(range(columns)) if positions is None else list(positions)
    choices: dict[str, Sequence[Label]] = {
        "component": [c if "." in c else canonical(c) for c in components],
        "layer": list(layers),
        "head": list(heads),
        "position": swept,
    }
    texts = {"position": tuple(tokens[p] for p in swept)} if tokens is not None else {}
    named = tuple(Axis(a, tuple(choices[a]), texts.get(a)) for a in axes)
    cells = []
    for index, labels in enumerate(product(*(axis.labels for axis in named))):
        at = {axis.name: label for axis, label in zip(named, labels, strict=True)}
        component = str(at.get("component", components[0]))
        layer = at.get("layer")
        sites = _window(adapted, component, None if layer is None else int(layer), window)
        kept = None if positions is None else tuple(swept)
        head = at.get("head")
        cells.append(
            Cell(
                index,
                sites,
                None if head is None else int(head),
                (int(at["position"]),) if "position" in at else kept,
                _start(adapted, sites[0]),
            )
        )
    cells.sort(key=lambda c: -1 if c.start is None else c.start)
    return Plan(named, tuple(cells))


def _start(adapted: Adapted, site: Site) -> int | None:
    """The first block that computes something else once ``site`` is written."""
    if site.layer is None or site.tower is not None or adapted.adapter is None:
        return None
    block = adapted.adapter.blocks_of(None)[site.layer]
    leaving = site.port == Output(site.port.path) and adapted.model.get_submodule(site.port.path) is block
    return site.layer + 1 if leaving else site.layer


def sites(adapted: Adapted, components: Sequence[str], layered: bool) -> list[Site]:
    """Every site of the components, in all layers."""
    if layered:
        count = depth(adapted, components)
        return [_site(adapted, c, layer) for c in components for layer in range(count)]
    return [adapted[c] for c in components]


def _site(adapted: Adapted, component: str, layer: int) -> Site:
    if LAYER in component:
        return adapted[component.replace(LAYER, str(layer))]
    tower, name = placed(adapted, component)
    return adapted.site(name, layer, tower)


def _window(adapted: Adapted, component: str, layer: int | None, window: int) -> tuple[Site, ...]:
    if layer is None:
        return (adapted[component],)
    first = max(0, layer - window // 2)
    last = min(depth(adapted, [component]), layer + (window + 1) // 2)
    return tuple(_site(adapted, component, each) for each in range(first, last))

"""``intervene sites``: what can be read and written in a model, and in which shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import typer
from rich.cells import cell_len
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from torch import nn

from ..adapted import Adapted, adapt
from ..components import canonical, components
from ..errors import UnknownSiteError
from ..lenses import Composed, Lens, Whole
from ..registry import families
from ..sites import Site
from . import loading, options
from .console import CommandError, note, print_json, stdout

EXAMPLES = """\
Examples:

  intervene sites tiny:gpt2

  intervene sites gpt2 --config-only

  intervene sites ./my-model --component mlp_output --layer 3

  intervene sites gpt2-xl --config-only --json | jq .sites[].address
"""

SAMPLES = ((1, 5), (2, 6))
"""Rows and columns of the inputs that tell what size of an axis the input decides."""


# What a module has for a forward that says none of its own.
HOLDS = nn.Module.forward


@dataclass(frozen=True)
class Row:
    """One component's sites that differ in nothing but the layer.

    Attributes:
        address: that of the sites, layers folded: ``layer.{0..11}.query_output``.
        shape: each axis's size, or its name where the input decides it.
        port: where the tensor flows by, layers folded.
        lens: which part of it is meant; empty for all of it.
    """

    address: str
    component: str
    tower: str | None
    layers: tuple[int, ...]
    axes: tuple[str, ...]
    shape: tuple[int | str, ...]
    port: str
    lens: str
    meaning: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dict(self.__dict__)


def run(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A folder with a saved model, a model of the hub, or tiny:FAMILY for a family's tiny model.",
        ),
    ],
    component: Annotated[str | None, typer.Option(metavar="NAME", help="Only this component.")] = None,
    layer: Annotated[
        int | None, typer.Option(metavar="N", help="Only this layer; negative ones count from the end.")
    ] = None,
    tower: Annotated[str | None, typer.Option(metavar="NAME", help="Only this tower, of a model with several.")] = None,
    config_only: Annotated[
        bool, typer.Option("--config-only", help="Take the config alone: no weights are loaded or downloaded.")
    ] = False,
    as_json: options.Json = False,
    revision: options.Revision = None,
) -> None:
    """List a model's sites: address, shape, where the tensor flows by, and what it means.

    The shapes are those of forwards over random inputs of two sizes. A tensor of attention scores or patterns exists
    under eager attention alone, and one of experts under the implementation batched_mm. Of a model that no adapter
    knows, the modules are listed.
    """
    loaded = loading.any_model(model, revision=revision, config_only=config_only)
    adapted = adapt(loaded)
    if adapted.adapter is None:
        _unadapted(adapted, model, as_json, {"--component": component, "--layer": layer, "--tower": tower})
        return
    chosen = choose(adapted, component, layer, tower)
    rows = list(fold(chosen, shapes(adapted, chosen)))
    name = type(loaded).__name__
    if as_json:
        about = {"model": model, "class": name, "family": adapted.adapter.family, "layers": adapted.layers}
        print_json({**about, "sites": [row.to_dict() for row in rows]})
        return
    _show(f"{name} ({adapted.adapter.family}), {_layers(adapted)}", rows)


def _unadapted(adapted: Adapted, model: str, as_json: bool, narrowed: Mapping[str, object]) -> None:
    """List what can be reached in a model that no adapter knows: its modules.

    Raises:
        UnknownSiteError: narrowed down by what an adapter alone would know.
    """
    name = type(adapted.model).__name__
    given = [option for option, value in narrowed.items() if value is not None]
    if given:
        raise UnknownSiteError(
            f"no adapter knows {name}, so only its modules are known, by path: leave out {', '.join(given)}. Families: "
            f"{', '.join(sorted(families()))}"
        )
    note(
        f"no adapter knows {name}, so its sites are its modules, by path: any module's .input and .output is one. "
        f"Families: {', '.join(sorted(families()))}"
    )
    found = modules(adapted.model)
    if as_json:
        about = {"model": model, "class": name, "family": None, "layers": None}
        print_json({**about, "sites": [{"address": address, "class": kind} for address, kind in found.items()]})
        return
    console = stdout()
    console.print(Text(f"{name}, {len(found)} modules", "bold"))
    console.print()
    width = max(map(len, found))
    for address, kind in found.items():
        # One line each, however narrow the terminal, for grep.
        console.print(Text.assemble((address.ljust(width), "bold cyan"), f"  {kind}"), soft_wrap=True)


def modules(model: nn.Module) -> dict[str, str]:
    """The address of each module's output, and the module's class; without those that only hold others."""
    # Lists and dicts of modules have no forward, so nothing flows by them.
    running = {path: module for path, module in model.named_modules() if type(module).forward is not HOLDS}
    return {f"{path}.output".removeprefix("."): type(module).__name__ for path, module in running.items()}


def _layers(adapted: Adapted) -> str:
    """How many layers, in words: those of each tower, where there are several."""
    assert adapted.adapter is not None
    counts = {t: len(adapted.adapter.blocks_of(t)) for t in adapted.adapter.by_tower}
    towers = ", ".join(f"{count} in {tower}" for tower, count in counts.items() if tower and count)
    return f"{adapted.layers} layers" + (f": {towers}" if towers else "")


def choose(adapted: Adapted, component: str | None, layer: int | None, tower: str | None = None) -> list[Site]:
    """The sites of a component, of a layer, of a tower, or of several of these.

    Raises:
        UnknownSiteError: no such component, layer or tower; the message names those there are.
    """
    if tower is not None and tower not in adapted.towers:
        adapted.site(component or "block_output", layer, tower)  # raises, with the towers there are
    found = [s for s in adapted.sites if tower is None or s.tower == tower]
    if component is not None:
        name = canonical(component)
        found = [s for s in found if s.component == name]
        if not found or (found[0].layer is None and layer is not None):
            adapted.site(component, layer, tower)  # raises, with the reason
    if layer is None:
        return found
    counts: dict[str | None, int] = {}
    for site in found:
        if site.layer is not None:
            counts[site.tower] = max(counts.get(site.tower, 0), site.layer + 1)
    most = max(counts.values(), default=0)
    if not -most <= layer < most:
        raise UnknownSiteError(f"layer {layer} is out of range: there are {most} layers (0 to {most - 1})")
    return [s for s in found if s.layer is not None and s.layer == (layer + counts[s.tower] if layer < 0 else layer)]


def shapes(adapted: Adapted, sites: Sequence[Site]) -> dict[Site, tuple[int | str, ...]]:
    """Each site's shape in one forward over random input, an axis that the input decides by its name.

    Raises:
        CommandError: a model that takes neither tokens nor images, or whose forward fails on random ones.
    """
    first, second = (_sizes(adapted, sites, rows, columns) for rows, columns in SAMPLES)
    return {
        site: tuple(a if n != m else n for a, n, m in zip(site.axes or (), first[site], second[site], strict=True))
        for site in sites
    }


def _sizes(adapted: Adapted, sites: Sequence[Site], rows: int, columns: int) -> dict[Site, tuple[int, ...]]:
    """Each site's sizes in a forward over random input of that many rows and columns, or in one that continues."""
    adapter = adapted.adapter
    assert adapter is not None
    continuing = [site for site in sites if adapter.needs_past(site.component, site.tower)]
    starting = [site for site in sites if site not in continuing]
    weight = next(adapted.model.parameters())
    inputs: dict[str, Any] = {
        name: value.to(weight.device, weight.dtype if value.is_floating_point() else value.dtype)
        for name, value in adapter.example_inputs(adapted.model, rows, columns).items()
    }
    for implementation in {getattr(s.port, "implementation", None) for s in sites} - {None}:
        # The model is the command's own.
        adapted.model.set_experts_implementation(implementation)  # type: ignore[operator]
    attention = "eager" if any(getattr(s.port, "eager", False) for s in sites) else None
    try:
        values = dict(adapted.read(starting, attention=attention, **inputs)) if starting else {}
        if continuing:
            with torch.no_grad():
                past = adapter.example_past(adapted.model, inputs)
            values |= adapted.read(continuing, **{name: value[:, :1] for name, value in inputs.items()}, **past)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        name = type(adapted.model).__name__
        without = " without weights" if weight.is_meta else ""
        raise CommandError(
            f"{name}{without} failed on random input ({type(error).__name__}: {error})"
            + ("; try it without --config-only" if without else "")
        ) from error
    return {site: tuple(values[site].shape) for site in sites}


def fold(sites: Iterable[Site], found: dict[Site, tuple[int | str, ...]]) -> Iterator[Row]:
    """Rows for sites in their order, those that differ in nothing but the layer as one."""
    alike: dict[Any, list[Site]] = {}
    for site in sites:
        key = (site.tower, site.component, found[site], _port(site, "*"), site.lens)
        alike.setdefault(key, []).append(site)
    for those in alike.values():
        site = those[0]
        layers = tuple(s.layer for s in those if s.layer is not None)
        folded = _folded(layers)
        parts = (site.tower, f"layer.{folded}" if layers else None, site.component)
        yield Row(
            address=".".join(p for p in parts if p),
            component=site.component,
            tower=site.tower,
            layers=layers,
            axes=site.axes or (),
            shape=found[site],
            port=_port(site, folded),
            lens=_lens(site.lens),
            meaning=components()[site.component].meaning,
        )


def _folded(layers: Sequence[int]) -> str:
    """(0, 1, 2, 5) as "{0..2,5}"; a single layer as it is."""
    spans: list[list[int]] = []
    for layer in layers:
        if spans and layer == spans[-1][1] + 1:
            spans[-1][1] = layer
        else:
            spans.append([layer, layer])
    if len(layers) == 1:
        return str(layers[0])
    return "{" + ",".join(str(a) if a == b else f"{a}..{b}" for a, b in spans) + "}"


def _port(site: Site, folded: str) -> str:
    if site.layer is None:
        return str(site.port)
    number = rf"(?<=\.){site.layer}(?=[.\s]|$)"
    # The first number in each path is the layer's; a port that is one of several has several paths.
    return " or ".join(re.sub(number, lambda _: folded, part, count=1) for part in str(site.port).split(" or "))


def _lens(lens: Lens) -> str:
    if isinstance(lens, Composed):
        return f"{_lens(lens.outer)} >> {_lens(lens.inner)}"
    return "" if isinstance(lens, Whole) else str(lens)


def _show(title: str, rows: Sequence[Row]) -> None:
    console = stdout()
    console.print(Text(title, "bold"))
    width = max((cell_len(row.address) for row in rows), default=0)
    for row in rows:
        console.print()
        shape = ", ".join(a if a == n else f"{a} {n}" for a, n in zip(row.axes, row.shape, strict=True))
        line = Table.grid(padding=(0, 2))
        line.add_column(width=min(width, console.width // 2 + 4), overflow="fold")
        line.add_column(overflow="fold")
        line.add_row(Text(row.address, "bold cyan"), Text(shape))
        console.print(line)
        where = f"{row.port} >> {row.lens}" if row.lens else row.port
        console.print(Padding(Text(where), (0, 0, 0, 4), expand=False))
        console.print(Padding(Text(row.meaning, "dim"), (0, 0, 0, 4), expand=False))

"""``intervene scaffold``: an adapter, a spec and a test for a new family, to be filled in."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InterveneError
from .console import stdout

if TYPE_CHECKING:
    from torch import nn

EXAMPLES = """\
Examples:

  intervene scaffold plainformer --model plainformer.model:tiny

  intervene scaffold falcon --model my_models:tiny_falcon --into my_package
"""

# Words for the width of the residual stream, the usual ones first.
_WIDTHS = ("hidden_size", "d_model", "n_embd", "width", "embed_dim", "dim")
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "depth", "num_layers")


class ScaffoldError(InterveneError):
    """A model that no adapter can be begun for, or a file that stands in the way."""


def run(
    family: Annotated[str, typer.Argument(metavar="FAMILY", help="A short name for the family: letters, digits, _.")],
    model: Annotated[
        str, typer.Option(metavar="MODULE:FUNCTION", help="What makes a small model of it, called with no argument.")
    ],
    into: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files go.")] = Path("."),
) -> None:
    """Begin an adapter for a new family: three files that already pass, and say what to add.

    The model is looked at, not changed: its list of blocks, a block's modules, the config's names for width and depth.
    The adapter knows the residual stream between the blocks; the other components stand in it as comments.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", family):
        raise typer.BadParameter(f"{family!r} is no name: small letters, digits and _", param_hint="FAMILY")
    if not into.is_dir():
        raise typer.BadParameter(f"there is no folder {into}", param_hint="--into")
    files = written(family, model, made_by(model))
    standing = [name for name in files if (into / name).exists()]
    if standing:
        raise ScaffoldError(f"{', '.join(standing)} stand in {into} already; nothing was written")
    for name, text in files.items():
        (into / name).write_text(text, encoding="utf-8")
        stdout().print(f"wrote {into / name}", soft_wrap=True)
    stdout().print(f"now run: pytest {into / 'test_conformance.py'}", soft_wrap=True)


def made_by(name: str) -> nn.Module:
    """The model that ``module:function`` makes.

    Raises:
        ScaffoldError: no such module or function, or what it makes is no model.
    """
    from torch import nn

    where, colon, attribute = name.partition(":")
    if not colon:
        raise ScaffoldError(f"{name!r} names no function: say module:function")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        make = getattr(importlib.import_module(where), attribute)
        made = make()
    except Exception as error:
        raise ScaffoldError(f"{name} makes no model: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise ScaffoldError(f"{name} makes a {type(made).__name__}, no torch.nn.Module")
    return made


def written(family: str, maker: str, model: nn.Module) -> dict[str, str]:
    """The files by name."""
    blocks, block = _blocks(model)
    config = getattr(model, "config", None)
    if config is None:
        raise ScaffoldError(f"{type(model).__name__} has no .config, which a spec's widths are expressions over")
    known = {
        "family": family,
        "title": "".join(word.capitalize() for word in family.split("_")),
        "model": type(model).__name__,
        "library": type(model).__module__.partition(".")[0],
        "module": maker.partition(":")[0],
        "maker": maker.partition(":")[2],
        "blocks": blocks,
        "width": _named(config, _WIDTHS, _residual_width(model, blocks)),
        "depth": _named(config, _DEPTHS, len(model.get_submodule(blocks))),  # type: ignore[arg-type]
        "modules": indent("\n".join(_modules(block)), " " * 8 + "#   "),
        "components": indent("\n".join(_components()), " " * 12 + "# "),
    }
    return {
        "adapter.py": _ADAPTER.format(**known),
        f"{family}.toml": _SPEC.format(**known),
        "test_conformance.py": _TEST.format(**known),
    }


def _blocks(model: nn.Module) -> tuple[str, nn.Module]:
    """The path of the longest list of modules of one class, and its first module."""
    from torch import nn

    lists = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential))
        and len(module) > 1
        and len({type(m) for m in module}) == 1
        and any(True for _ in module[0].children())
    ]
    if not lists:
        raise ScaffoldError(
            f"{type(model).__name__} has no list of two or more modules of one class that could be its blocks; write "
            f"the adapter by hand, or work by module path"
        )
    path, found = max(lists, key=lambda each: len(each[1]))
    return path, found[0]


def _residual_width(model: nn.Module, blocks: str) -> int:
    """The features of what enters the first block."""
    from ..adapted import adapt
    from ..adapter import Adapter

    inputs: dict[str, Any] = Adapter.example_inputs(model)
    site = f"{blocks}.0.input"
    return int(adapt(model).read(site, **inputs)[site].shape[-1])


def _named(config: Any, usual: tuple[str, ...], value: int) -> str:
    """The config's own word for a number, a usual one where there are several; where there is none, the number."""
    held = [name for name in dir(config) if not name.startswith("_") and _is(config, name, value)]
    return next((name for name in usual if name in held), held[0] if held else str(value))


def _is(config: Any, name: str, value: int) -> bool:
    found = getattr(config, name, None)
    return type(found) is int and found == value


def _modules(block: nn.Module) -> Iterator[str]:
    for path, module in block.named_modules():
        if path:
            weight = getattr(module, "weight", None)
            shape = f" {tuple(weight.shape)}" if weight is not None else ""
            yield f"{path}: {type(module).__name__}{shape}"


def _components() -> Iterator[str]:
    """A line for each component of a block that a family without special capabilities may have."""
    from ..components import components
    from ..specs.loader import full_vocabulary

    vocabulary = full_vocabulary()
    special = {name for capability in vocabulary.without for name in vocabulary.implied[capability]}
    for name, component in components().items():
        if component.layered and name not in special and name not in ("block_input", "block_output"):
            yield f'"{name}": ...,  {component.meaning}'


_ADAPTER = '''"""Where intervene's components live in {title}."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from intervene.adapter import Adapter, Table
from intervene.ports import Input, Output

from {module} import {maker}


class {title}Adapter(Adapter):
    family = "{family}"
    models = ("{model}",)
    blocks = "{blocks}"
    spec = Path(__file__).with_name("{family}.toml")

    def components(self, config: Any) -> Table:
        # Paths are relative to a block, whose modules are:
{modules}
        return {{
            "block_input": Input(),
            # Say where the others are: Input("path"), Output("path"), and >> Heads(n), >> Chunk(i, of=3) for parts
            # (intervene.ports, intervene.lenses); claim each in {family}.toml, with a relation that pins it.
{components}
            "block_output": Output(),
        }}

    @classmethod
    def tiny(cls, model: str | None = None, seed: int = 0, **config: Any) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return {maker}(**config).eval()
'''

_SPEC = """family = "{family}"
title = "{title}"
library = "{library}"
paper = "none yet; name the paper, or whoever made it"
models = ["{model}"]

blocks = "{blocks}"
layers = "{depth}"
causal = false                  # true where position p sees positions up to p only: a law then checks it
inputs = ["input_ids"]

# Claim what is true, and laws will ask for it: has_heads, kv_cache, generates, left_padding, rotary, ...
[capabilities]

[components.block_input]
widths.feature = "{width}"

[components.block_output]
widths.feature = "{width}"

[[relations]]
kind = "chain"
output = "block_output"
input = "block_input"
bitwise = true
"""

_TEST = '''"""Every law that applies to the adapter; what it lacks is a matter of the spec."""

from adapter import {title}Adapter

from intervene.conformance import parametrize_with_laws


@parametrize_with_laws({title}Adapter)
def test_conformance(check):
    check()
'''

"""``intervene spec``: what a family claims about its sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any

import typer

from . import options
from .console import print_json, stdout

EXAMPLES = """\
Examples:

  intervene spec gpt2

  intervene spec gpt2 --json | jq .towers
"""


def run(
    family: Annotated[str, typer.Argument(metavar="FAMILY", help="A family, such as gpt2, or a spec's .toml file.")],
    as_json: options.Json = False,
) -> None:
    """Show a family's spec: its components, what it lacks and why, and what must hold."""
    from ..specs import load, page
    from .markdown import Page

    found = load(family)
    if as_json:
        print_json(plain(found))
    else:
        stdout().print(Page(page(found)))


def plain(value: Any) -> Any:
    """Dataclasses, mappings and tuples as what JSON has."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(entry) for entry in value]
    return value

"""The vocabulary: canonical component names, their axes and their meaning.

The words live in ``specs/components.toml`` as data that any tool can read; this module gives them to Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Component:
    """A canonical place in a model: what it is called, what axes it has, what it means.

    ``layered`` components exist once a block (``layer.3.mlp_output``), the others once a model (``logits``).
    """

    name: str
    axes: tuple[str, ...]
    layered: bool
    meaning: str


@cache
def components() -> dict[str, Component]:
    """Every canonical component by name, in the order in which a forward computes them."""
    from .specs import vocabulary

    return {
        name: Component(name, tuple(info.axes), info.scope == "block", info.meaning)
        for name, info in vocabulary().items()
    }


@cache
def aliases() -> dict[str, str]:
    """Other tools' words for a component, for example ``attention_weight`` for ``attention_pattern``."""
    from .specs import vocabulary

    return {alias: name for name, info in vocabulary().items() for alias in info.aliases}


def canonical(name: str) -> str:
    """``name`` with an alias replaced by the component it stands for."""
    return aliases().get(name, name)

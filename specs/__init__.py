"""What model families claim about their sites, as data.

One TOML file for each family beside this one, and `components.toml`, the vocabulary that all share.
README.md describes the format. Nothing here needs torch, and no file is read before it's asked
for.
"""

from .errors import SpecError
from .loader import families, load, vocabulary
from .page import page
from .relations import Relation
from .schema import ComponentInfo, ComponentSpec, Spec

__all__ = [
    "ComponentInfo",
    "ComponentSpec",
    "Relation",
    "Spec",
    "SpecError",
    "families",
    "load",
    "page",
    "vocabulary",
]

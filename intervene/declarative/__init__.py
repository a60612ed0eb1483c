"""Declarative interventions: a config says what acts where, a model with it is called as the plain one is.

`config` is data alone, `placing` finds its sites and makes its interventions. Of a call, `locations`, `sources` and
`subspaces` read what is meant, `patches` narrows the sites to it, `acts` has each intervention's reads and writes, and
`engine` runs them in sessions. `generation` and what it uses say when they act. `model` is what users hold.
"""

from .collected import Collected
from .config import IntervenableConfig, RepresentationConfig
from .model import IntervenableModel
from .output import IntervenableOutput, InterventionOutput
from .placing import Placed

__all__ = [
    "Collected",
    "IntervenableConfig",
    "IntervenableModel",
    "IntervenableOutput",
    "InterventionOutput",
    "Placed",
    "RepresentationConfig",
]

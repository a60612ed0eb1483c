"""Causal interventions on PyTorch models: sites, sessions, sweeps.

>>> import intervene
>>> adapted = intervene.adapt(model)                       # doctest: +SKIP
>>> adapted.read(["layer.3.block_output"], **inputs)       # doctest: +SKIP
"""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from types import ModuleType as _ModuleType

from .adapted import Adapted, adapt
from .adapter import Adapter
from .causal import CausalModel
from .components import Component, components
from .declarative import IntervenableConfig, IntervenableModel, IntervenableOutput, RepresentationConfig
from .errors import (
    AbsentComponentError,
    AmbiguousCallError,
    AttentionImplementationError,
    CausalModelError,
    ConfigError,
    GradientCheckpointingError,
    InterveneError,
    InterventionArgumentError,
    InterventionError,
    MissingDependencyError,
    NeverFiredError,
    PortError,
    SelectionError,
    SessionError,
    ShapeMismatchError,
    SweepError,
    UnknownInterventionError,
    UnknownSiteError,
    UnsupportedModelError,
)
from .interventions import (
    AdditionIntervention,
    BasisAgnosticIntervention,
    CollectIntervention,
    ConstantSourceIntervention,
    DistributedRepresentationIntervention,
    FunctionIntervention,
    Intervention,
    LocalistRepresentationIntervention,
    LowRankRotatedSpaceIntervention,
    RotatedSpaceIntervention,
    SharedWeightsTrainableIntervention,
    SourcelessIntervention,
    SubtractionIntervention,
    TrainableIntervention,
    VanillaIntervention,
    ZeroIntervention,
    intervention_class,
    intervention_classes,
    intervention_name,
    make_intervention,
    register_intervention,
)
from .registry import families, register, tiny
from .session import Session
from .sites import Site, Sites, Values
from .sweeps import SweepResult, sweep
from .tracing import CausalTrace, causal_trace

__version__ = _version("torch-intervene")

__all__ = [
    "AbsentComponentError",
    "Adapted",
    "Adapter",
    "AdditionIntervention",
    "AmbiguousCallError",
    "AttentionImplementationError",
    "BasisAgnosticIntervention",
    "CausalModel",
    "CausalModelError",
    "CausalTrace",
    "CollectIntervention",
    "Component",
    "ConfigError",
    "ConstantSourceIntervention",
    "DistributedRepresentationIntervention",
    "FunctionIntervention",
    "GradientCheckpointingError",
    "IntervenableConfig",
    "IntervenableModel",
    "IntervenableOutput",
    "InterveneError",
    "Intervention",
    "InterventionArgumentError",
    "InterventionError",
    "LocalistRepresentationIntervention",
    "LowRankRotatedSpaceIntervention",
    "MissingDependencyError",
    "NeverFiredError",
    "PortError",
    "RepresentationConfig",
    "RotatedSpaceIntervention",
    "SelectionError",
    "Session",
    "SessionError",
    "ShapeMismatchError",
    "SharedWeightsTrainableIntervention",
    "Site",
    "Sites",
    "SourcelessIntervention",
    "SubtractionIntervention",
    "SweepError",
    "SweepResult",
    "TrainableIntervention",
    "UnknownInterventionError",
    "UnknownSiteError",
    "UnsupportedModelError",
    "Values",
    "VanillaIntervention",
    "ZeroIntervention",
    "__version__",
    "adapt",
    "causal_trace",
    "components",
    "families",
    "intervention_class",
    "intervention_classes",
    "intervention_name",
    "make_intervention",
    "register",
    "register_intervention",
    "sweep",
    "tiny",
]

_ON_DEMAND = ("conformance", "demo", "specs")


def __getattr__(name: str) -> _ModuleType:
    # Parts that few programs need, or that need more than torch, load when first asked for.
    if name in _ON_DEMAND:
        return _import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

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
from .declarative import (
    Collected,
    IntervenableConfig,
    IntervenableModel,
    IntervenableOutput,
    InterventionOutput,
    RepresentationConfig,
)
from .errors import (
    AbsentComponentError,
    AmbiguousCallError,
    ArtifactError,
    AttentionImplementationError,
    CausalModelError,
    ConfigError,
    ExpertsImplementationError,
    GradientCheckpointingError,
    HubError,
    InterveneError,
    InterventionArgumentError,
    InterventionError,
    MissingDependencyError,
    NeverFiredError,
    PlacementError,
    PortError,
    SAEFormatError,
    SelectionError,
    SessionError,
    ShapeMismatchError,
    SweepError,
    TrainingError,
    UnknownInterventionError,
    UnknownSiteError,
    UnsupportedModelError,
)
from .interventions import (
    AdditionIntervention,
    AutoencoderIntervention,
    BasisAgnosticIntervention,
    BoundlessRotatedSpaceIntervention,
    CollectIntervention,
    ConstantSourceIntervention,
    DistributedRepresentationIntervention,
    FunctionIntervention,
    Intervention,
    JumpReLUAutoencoderIntervention,
    LocalistRepresentationIntervention,
    LoRAIntervention,
    LowRankRotatedSpaceIntervention,
    MeanIntervention,
    NoiseIntervention,
    PCARotatedSpaceIntervention,
    RotatedSpaceIntervention,
    SharedWeightsTrainableIntervention,
    SigmoidMaskIntervention,
    SigmoidMaskRotatedSpaceIntervention,
    SkipIntervention,
    SourcelessIntervention,
    SubtractionIntervention,
    TemperedIntervention,
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
from .torchvision_operators import wait_for_torchvision as _wait_for_torchvision
from .tracing import CausalTrace, causal_trace
from .training import FitResult, evaluate, fit, train_alignment

_wait_for_torchvision()

__version__ = _version("torch-intervene")

__all__ = [
    "AbsentComponentError",
    "Adapted",
    "Adapter",
    "AdditionIntervention",
    "AmbiguousCallError",
    "ArtifactError",
    "AttentionImplementationError",
    "AutoencoderIntervention",
    "BasisAgnosticIntervention",
    "BoundlessRotatedSpaceIntervention",
    "CausalModel",
    "CausalModelError",
    "CausalTrace",
    "CollectIntervention",
    "Collected",
    "Component",
    "ConfigError",
    "ConstantSourceIntervention",
    "DistributedRepresentationIntervention",
    "ExpertsImplementationError",
    "FitResult",
    "FunctionIntervention",
    "GradientCheckpointingError",
    "HubError",
    "IntervenableConfig",
    "IntervenableModel",
    "IntervenableOutput",
    "InterveneError",
    "Intervention",
    "InterventionArgumentError",
    "InterventionError",
    "InterventionOutput",
    "JumpReLUAutoencoderIntervention",
    "LoRAIntervention",
    "LocalistRepresentationIntervention",
    "LowRankRotatedSpaceIntervention",
    "MeanIntervention",
    "MissingDependencyError",
    "NeverFiredError",
    "NoiseIntervention",
    "PCARotatedSpaceIntervention",
    "PlacementError",
    "PortError",
    "RepresentationConfig",
    "RotatedSpaceIntervention",
    "SAEFormatError",
    "SelectionError",
    "Session",
    "SessionError",
    "ShapeMismatchError",
    "SharedWeightsTrainableIntervention",
    "SigmoidMaskIntervention",
    "SigmoidMaskRotatedSpaceIntervention",
    "Site",
    "Sites",
    "SkipIntervention",
    "SourcelessIntervention",
    "SubtractionIntervention",
    "SweepError",
    "SweepResult",
    "TemperedIntervention",
    "TrainableIntervention",
    "TrainingError",
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
    "evaluate",
    "families",
    "fit",
    "intervention_class",
    "intervention_classes",
    "intervention_name",
    "make_intervention",
    "register",
    "register_intervention",
    "sweep",
    "tiny",
    "train_alignment",
]

_ON_DEMAND = ("conformance", "demo", "specs", "steering")


def __getattr__(name: str) -> _ModuleType:
    # Parts that few programs need, or that need more than torch, load when first asked for.
    if name in _ON_DEMAND:
        return _import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Interventions: what is done to an activation, as operations seen through lenses.

`base` has the protocol and the classes to derive from, `featurizers` the lenses that show an activation in another
basis, `registry` the names that saved configs use. Each further module holds one kind of intervention.
"""

from .base import (
    BasisAgnosticIntervention,
    ConstantSourceIntervention,
    DistributedRepresentationIntervention,
    Intervention,
    LocalistRepresentationIntervention,
    SharedWeightsTrainableIntervention,
    SourcelessIntervention,
    TrainableIntervention,
)
from .collect import CollectIntervention
from .featurizers import Featurizer, Linear
from .function import FunctionIntervention
from .make import make_intervention
from .registry import intervention_class, intervention_classes, intervention_name, register_intervention
from .rotated import LowRankRotatedSpaceIntervention, RotatedSpaceIntervention, RotateLayer
from .swaps import AdditionIntervention, SubtractionIntervention, VanillaIntervention, ZeroIntervention

__all__ = [
    "AdditionIntervention",
    "BasisAgnosticIntervention",
    "CollectIntervention",
    "ConstantSourceIntervention",
    "DistributedRepresentationIntervention",
    "Featurizer",
    "FunctionIntervention",
    "Intervention",
    "Linear",
    "LocalistRepresentationIntervention",
    "LowRankRotatedSpaceIntervention",
    "RotateLayer",
    "RotatedSpaceIntervention",
    "SharedWeightsTrainableIntervention",
    "SourcelessIntervention",
    "SubtractionIntervention",
    "TrainableIntervention",
    "VanillaIntervention",
    "ZeroIntervention",
    "intervention_class",
    "intervention_classes",
    "intervention_name",
    "make_intervention",
    "register_intervention",
]

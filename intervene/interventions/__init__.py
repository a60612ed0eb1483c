"""Interventions: what is done to an activation, as operations seen through lenses.

`base` has the protocol and the classes to derive from, `featurizers` the lenses that show an activation in another
basis, `registry` the names that saved configs use. Each further module holds one kind of intervention.
"""

from .autoencoder import AutoencoderIntervention
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
from .featurizers import Featurizer, Latents, Linear
from .function import FunctionIntervention
from .lora import LoRAIntervention
from .make import make_intervention
from .masked import SigmoidMaskIntervention
from .mean import MeanIntervention
from .noise import NoiseIntervention
from .pca import PCARotatedSpaceIntervention
from .registry import intervention_class, intervention_classes, intervention_name, register_intervention
from .rotated import (
    BoundlessRotatedSpaceIntervention,
    LowRankRotatedSpaceIntervention,
    RotatedSpaceIntervention,
    SigmoidMaskRotatedSpaceIntervention,
)
from .rotation import RotateLayer
from .sae import JumpReLUAutoencoderIntervention
from .skip import SkipIntervention
from .swaps import AdditionIntervention, SubtractionIntervention, VanillaIntervention, ZeroIntervention
from .tempered import TemperedIntervention

__all__ = [
    "AdditionIntervention",
    "AutoencoderIntervention",
    "BasisAgnosticIntervention",
    "BoundlessRotatedSpaceIntervention",
    "CollectIntervention",
    "ConstantSourceIntervention",
    "DistributedRepresentationIntervention",
    "Featurizer",
    "FunctionIntervention",
    "Intervention",
    "JumpReLUAutoencoderIntervention",
    "Latents",
    "Linear",
    "LoRAIntervention",
    "LocalistRepresentationIntervention",
    "LowRankRotatedSpaceIntervention",
    "MeanIntervention",
    "NoiseIntervention",
    "PCARotatedSpaceIntervention",
    "RotateLayer",
    "RotatedSpaceIntervention",
    "SharedWeightsTrainableIntervention",
    "SigmoidMaskIntervention",
    "SigmoidMaskRotatedSpaceIntervention",
    "SkipIntervention",
    "SourcelessIntervention",
    "SubtractionIntervention",
    "TemperedIntervention",
    "TrainableIntervention",
    "VanillaIntervention",
    "ZeroIntervention",
    "intervention_class",
    "intervention_classes",
    "intervention_name",
    "make_intervention",
    "register_intervention",
]

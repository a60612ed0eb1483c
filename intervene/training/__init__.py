"""Training interventions: distributed alignment search and interchange intervention training.

`batches` says how a batch becomes a call, `objectives` what is minimized and measured, `schedules` how rates and
temperatures move, `loop` trains, `result` shows how it went, `trainer` wraps all that for transformers' Trainer.
"""

from .batches import Call, call_of
from .loop import evaluate, fit
from .objectives import interchange_accuracy, interchange_loss, logits_of
from .pyvene import eval_alignment, train_alignment
from .result import FitResult
from .schedules import default_temperature
from .trainer import AlignmentModule

__all__ = [
    "AlignmentModule",
    "Call",
    "FitResult",
    "call_of",
    "default_temperature",
    "eval_alignment",
    "evaluate",
    "fit",
    "interchange_accuracy",
    "interchange_loss",
    "logits_of",
    "train_alignment",
]

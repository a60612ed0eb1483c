"""Sweeps: patch every cell of a grid of layers, positions or heads, and measure."""

from .metrics import (
    KLDivergence,
    LogitDifference,
    LogProbability,
    Metric,
    OnAllPositions,
    Probability,
)
from .noise import GaussianNoise
from .plan import Axis
from .result import SweepResult
from .sweep import SweepWarning, sweep

__all__ = [
    "Axis",
    "GaussianNoise",
    "KLDivergence",
    "LogProbability",
    "LogitDifference",
    "Metric",
    "OnAllPositions",
    "Probability",
    "SweepResult",
    "SweepWarning",
    "sweep",
]

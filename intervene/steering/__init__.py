"""Steering: directions that a contrast of inputs gives, and what to do with them in a session or a generation."""

from .ablation import ablate, ablation_writes
from .directions import difference_of_means, last_positions
from .heads import HeadProbes, probe_heads
from .strengths import StrengthSweep, sweep_strengths

__all__ = [
    "HeadProbes",
    "StrengthSweep",
    "ablate",
    "ablation_writes",
    "difference_of_means",
    "last_positions",
    "probe_heads",
    "sweep_strengths",
]

"""High-level causal models: what a network is hypothesized to compute, and the data that tests it."""

from .model import CausalModel, Setting

__all__ = ["CausalModel", "Setting"]

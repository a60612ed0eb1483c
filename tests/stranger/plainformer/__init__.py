"""A causal transformer in plain PyTorch."""

from .model import Plainformer, PlainformerConfig

__all__ = ["Plainformer", "PlainformerConfig"]

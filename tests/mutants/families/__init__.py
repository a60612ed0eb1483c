"""Small adapters of families that have what GPT-2 lacks: grouped query heads, a gate, an interleaved projection."""

from .llama import LLaMA
from .neox import NeoX

__all__ = ["LLaMA", "NeoX"]

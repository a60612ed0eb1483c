"""What a trace restores in a model that no adapter knows: the outputs of its blocks, by their path."""

from __future__ import annotations

from torch import nn

from ..adapted import Adapted
from ..sweeps.plan import LAYER
from .console import CommandError, note

BLOCKS = "block_output"


def component_of(adapted: Adapted, asked: str) -> str:
    """``asked``, unless that is the blocks' outputs and no adapter says which modules the blocks are.

    Raises:
        CommandError: the model has no list of modules that could be its blocks.
    """
    if adapted.adapter is not None or asked != BLOCKS:
        return asked
    name = type(adapted.model).__name__
    lists = [(path, module) for path, module in adapted.model.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise CommandError(
            f"no adapter knows {name}, and it has no list of blocks: say --component with a module's path, as in "
            f"'path.to.{LAYER}.output'"
        )
    # Nearly all of a language model's weights are in its blocks.
    path, blocks = max(lists, key=lambda found: sum(weight.numel() for weight in found[1].parameters()))
    component = f"{path}.{LAYER}.output"
    note(f"no adapter knows {name}: restored is {component}, the output of each {type(blocks[0]).__name__}")
    return component

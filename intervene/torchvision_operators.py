"""Lets torchvision be imported beside a torch that its compiled part was not built for.

torchvision's release for CUDA beside a torch for the CPU is such a pair. torchvision notes that its operators didn't
load, and goes on; then it registers rules for two of them, and torch refuses: "operator torchvision::nms does not
exist". timm imports torchvision, and transformers does wherever it is installed, so that even a GPT-2 can't be loaded.
Models need none of the operators. Declaring the two, with nothing behind them, lets the import go on; calling one is
an error, as it was.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

import torch

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS = ("torchvision::nms", "torchvision::qnms")
_REGISTERS = "torchvision._meta_registrations"


class _BeforeRegistration(MetaPathFinder):
    """Finds no module. It is asked for torchvision's module with the rules just when torchvision has said whether its
    compiled part loaded; where it did, nothing is done."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if name == _REGISTERS:
            stop_waiting()
            extension = sys.modules.get("torchvision.extension")
            if extension is not None and not extension._has_ops():
                for operator in _OPERATORS:
                    torch.library.define(operator, _SIGNATURE)


_finder = _BeforeRegistration()


def wait_for_torchvision() -> None:
    """Declare the operators when torchvision is imported and its compiled part doesn't load; no import is made here."""
    if _REGISTERS not in sys.modules and _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def stop_waiting() -> None:
    """Take back `wait_for_torchvision`."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)

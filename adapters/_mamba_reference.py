"""mamba_ssm where it was built without CUDA: its own reference code in the place of its kernels.

Without its compiled part the package doesn't import at all, and its Mamba-1 needs none: the package holds the scan in
torch, too, which it tests its kernels by. Where the kernels are there, nothing is done.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from torch import nn

from intervene.extras import missing

_KERNELS = "selective_scan_cuda"
# Once mamba_ssm can be imported, transformers takes these models' functions from it, which run on CUDA alone.
_BEFORE = ("transformers.models.mamba.modeling_mamba", "transformers.models.mamba2.modeling_mamba2")


def load() -> ModuleType:
    """``mamba_ssm.models.mixer_seq_simple``, whose models then run where they are.

    Raises:
        MissingDependencyError: mamba_ssm is not installed.
    """
    if find_spec("mamba_ssm") is None:
        raise missing("mamba_ssm", extra="mamba", by="this family")
    if find_spec(_KERNELS) is None:
        _without_kernels()
    return importlib.import_module("mamba_ssm.models.mixer_seq_simple")


def _without_kernels() -> None:
    if find_spec("transformers") is not None:
        for name in _BEFORE:
            importlib.import_module(name)
    # Imported, and never called.
    sys.modules[_KERNELS] = ModuleType(_KERNELS)
    sys.modules[_KERNELS].__spec__ = ModuleSpec(_KERNELS, None)
    models: Any = importlib.import_module("mamba_ssm.models.mixer_seq_simple")
    mixer: Any = importlib.import_module("mamba_ssm.modules.mamba_simple")
    scans: Any = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    mixer.selective_scan_fn = scans.selective_scan_ref
    mixer.selective_state_update = None
    models.RMSNorm = nn.RMSNorm

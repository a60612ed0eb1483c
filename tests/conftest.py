"""Settings that every test of this project runs under."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib.abc import MetaPathFinder
from typing import Any

# Hugging Face libraries read it once, when imported: tests take no model from a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores already; for the subprocesses that a test starts.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

# Before any test imports transformers, which imports torchvision where timm has brought it along.
import intervene  # noqa: F401

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

# For the tests of this project's own pytest plugin.
pytest_plugins = ["pytester"]

# A project of its own; tests/conformance/test_stranger.py installs it and runs its tests.
collect_ignore = ["stranger"]

# They run in a process of their own, which tests/families/test_mamba_ssm.py starts: what mamba_ssm's import changes is
# changed for the whole process.
if "MAMBA_SSM_TESTS" not in os.environ:
    collect_ignore.append("mamba_ssm")

# A first call through a model takes many times what later ones take, so no deadline says anything.
settings.register_profile(
    "ci",
    derandomize=True,
    max_examples=25,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "thorough",
    max_examples=500,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is marked ``gpu`` where torch finds no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="torch finds no CUDA device"))


class _Missing(MetaPathFinder):
    """Finds nothing of a package, for whoever asks before the finders that would."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == self._package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def uninstall(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a package one that isn't installed, until the test ends."""

    def without(package: str) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [_Missing(package), *sys.meta_path])

    return without


@pytest.fixture
def from_scratch() -> Iterator[None]:
    """Nothing that torch.compile made before the test is there in it, nor afterwards."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()

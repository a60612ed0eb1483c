"""The tests of mamba_ssm's models, tests/mamba_ssm, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
NOT_HERE = "mamba_ssm is not installed; scripts/test installs it on Linux"


@pytest.mark.skipif(find_spec("mamba_ssm") is None, reason=NOT_HERE)
@pytest.mark.parametrize("file", ["test_conformance.py", "test_mamba_ssm.py"])
def test_in_a_process_of_its_own(file: str) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/mamba_ssm/{file}"],
        cwd=ROOT,
        env={**own, "MAMBA_SSM_TESTS": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]

"""Small models and inputs for the declarative front end."""

from __future__ import annotations

import pytest
import torch

import intervene as pv


@pytest.fixture(scope="module")
def gpt2():
    return pv.tiny("gpt2")


@pytest.fixture(scope="module")
def base():
    return {"input_ids": torch.tensor([[5, 17, 40, 33, 21], [9, 2, 14, 50, 3]])}


@pytest.fixture(scope="module")
def source():
    return {"input_ids": torch.tensor([[6, 18, 41, 34, 22], [10, 3, 15, 51, 4]])}


@pytest.fixture(scope="module")
def other():
    return {"input_ids": torch.tensor([[30, 31, 32, 33, 34], [35, 36, 37, 38, 39]])}

"""Whatever is done to an artifact's files, it loads or is refused in words: no other exception, nothing changed."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

import intervene as pv
from intervene.sharing.tensors import sha256

PYVENE = Path(__file__).parent.parent / "data" / "pyvene_artifacts"
scalars = st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats(allow_nan=False) | st.text(max_size=8)
names = st.sampled_from(["layer", "component", "tensor", "dtype", "class", "embed_dim", "type", "spec", "intervention"])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=5
)


@cache
def model(family: str) -> Any:
    if family == "ours":
        return pv.tiny("gpt2")
    import transformers

    return transformers.GPT2LMHeadModel.from_pretrained(PYVENE / "gpt2")


@cache
def original(family: str) -> Path:
    if family == "pyvene":
        return PYVENE / "artifacts" / "low_rank"
    kind = {"component": "block_output", "intervention_type": pv.LowRankRotatedSpaceIntervention}
    places = [{"layer": layer, **kind, "low_rank_dimension": 2, "intervention_link_key": "a"} for layer in (0, 1)]
    vector = {"intervention_type": pv.AdditionIntervention, "source_representation": torch.ones(24)}
    home = Path(tempfile.mkdtemp())
    return pv.IntervenableModel([*places, {"layer": 2, **vector}], model("ours")).save(home / "artifact")


@pytest.fixture(scope="module", autouse=True)
def _tidy() -> Iterator[None]:
    yield
    shutil.rmtree(original("ours").parent)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [here] if here else []
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        found += paths(entry, (*here, key))
    return found


def changed(config: Any, path: tuple[Any, ...], value: Any) -> Any:
    whole = copy.deepcopy(config)
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return whole


def loads_or_is_refused(folder: Path, family: str) -> None:
    base: nn.Module = model(family)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    files = sorted(folder.iterdir())
    with contextlib.suppress(pv.InterveneError):
        pv.IntervenableModel.load(folder, model=base)
    assert sorted(folder.iterdir()) == files
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())


@pytest.mark.parametrize("family", ["ours", "pyvene"])
@given(data=st.data())
def test_any_config(family: str, data: st.DataObject) -> None:
    config = json.loads((original(family) / "config.json").read_text())
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(paths(config)))
        config = changed(config, path, data.draw(values))
    with tempfile.TemporaryDirectory() as home:
        folder = Path(shutil.copytree(original(family), Path(home) / "a"))
        (folder / "config.json").write_text(json.dumps(config))
        loads_or_is_refused(folder, family)


@pytest.mark.parametrize("family", ["ours", "pyvene"])
@given(data=st.data())
def test_any_bytes_of_tensors(family: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as home:
        folder = Path(shutil.copytree(original(family), Path(home) / "a"))
        file = next(f for f in folder.iterdir() if f.suffix in (".safetensors", ".bin"))
        content = bytearray(file.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            # Most of what can go wrong is in the first kilobyte, the header.
            at = data.draw(st.integers(0, min(len(content) - 1, data.draw(st.sampled_from([8, 400, 10**6])))))
            content[at] = data.draw(st.integers(0, 255))
        file.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) - 1, len(content) // 2]))])
        if family == "ours":
            config = json.loads((folder / "config.json").read_text())
            config["files"]["interventions"]["sha256"] = sha256(file)
            (folder / "config.json").write_text(json.dumps(config))
        loads_or_is_refused(folder, family)


@given(st.binary(max_size=300))
@example(b"")
@example(b"\xff" * 8)
@example(b"{" * 200_000)
def test_any_bytes_for_a_config(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as home:
        folder = Path(shutil.copytree(original("ours"), Path(home) / "a"))
        (folder / "config.json").write_bytes(content)
        loads_or_is_refused(folder, "ours")

"""Reading what pyvene itself saved, 0.1.8 and 0.1.1; ``tests/data/pyvene_artifacts/make.py`` had it do so."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import intervene as pv

DATA = Path(__file__).parent.parent / "data" / "pyvene_artifacts"
ARTIFACTS = DATA / "artifacts"
# Column 2 of the source goes to column 3 of the base, as in make.py.
PATCH: dict[str, Any] = {"sources->base": (2, 3)}
ONLY = {"base": 3}

NAMES = sorted(folder.name for folder in ARTIFACTS.iterdir())


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return load_file(DATA / "expected.safetensors")


def base_model(family: str) -> nn.Module:
    import transformers

    kinds: dict[str, Any] = {"gpt2": transformers.GPT2LMHeadModel, "llama": transformers.LlamaForCausalLM}
    kind = kinds[family]
    model: nn.Module = kind.from_pretrained(DATA / family).eval()
    return model


def case(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ARTIFACTS / name / "case.json").read_text())
    return found


def run(intervenable: pv.IntervenableModel, name: str, expected: dict[str, Tensor]) -> Tensor:
    base, source = ({"input_ids": expected[side]} for side in ("base", "source"))
    given = [source if present else None for present in case(name)["sources"]]
    with torch.no_grad():
        if given:
            _, output = intervenable(base, sources=given, unit_locations=PATCH)
        else:
            _, output = intervenable(base, unit_locations=ONLY)
    logits: Tensor = output.logits
    return logits


@pytest.mark.parametrize("name", [name for name in NAMES if name != "boundless"])
def test_what_pyvene_saved_does_what_it_did_in_pyvene(name: str, expected: dict[str, Tensor]) -> None:
    model = base_model(case(name)["family"])
    plain = model(expected["base"]).logits
    loaded = pv.IntervenableModel.load(ARTIFACTS / name, model=model, include_model=name == "include_model")
    found = run(loaded, name, expected)
    assert not torch.allclose(plain, expected[name], atol=1e-3)
    torch.testing.assert_close(found, expected[name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_saved_again_it_is_safetensors_and_the_same(name: str, expected: dict[str, Tensor], tmp_path: Path) -> None:
    model = base_model(case(name)["family"])
    loaded = pv.IntervenableModel.load(ARTIFACTS / name, model=model, include_model=name == "include_model")
    loaded.save(tmp_path / "ours")
    assert not list((tmp_path / "ours").glob("*.bin"))
    again = pv.IntervenableModel.load(tmp_path / "ours", model=model)
    assert torch.equal(run(again, name, expected), run(loaded, name, expected))


def test_a_boundary_takes_in_the_same_directions() -> None:
    loaded = pv.IntervenableModel.load(ARTIFACTS / "boundless", model=base_model("gpt2"))
    intervention: Any = loaded.places[0].intervention
    state = torch.load(weights_file(ARTIFACTS / "boundless"), weights_only=True)
    boundary = state["intervention_boundaries"] * 12
    index, temperature = torch.arange(12), state["temperature"]
    # pyvene's own mask is the second factor times sigmoid(index / temperature).
    mask = torch.sigmoid((index + 0.5) / temperature) * torch.sigmoid((boundary - index) / temperature)
    torch.testing.assert_close(intervention.soft_mask(), mask)
    intervention.set_temperature(1e-3)
    assert int(intervention.soft_mask().sum().round()) == int(boundary.ceil())


def test_linked_interventions_stay_one() -> None:
    loaded = pv.IntervenableModel.load(ARTIFACTS / "linked", model=base_model("gpt2"))
    first, second = (place.intervention for place in loaded.places)
    assert first is second


def test_its_model_weights_come_when_asked_for(expected: dict[str, Tensor]) -> None:
    model = base_model("gpt2")
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.warns(UserWarning, match="trained weights of the model"):
        pv.IntervenableModel.load(ARTIFACTS / "include_model", model=model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    pv.IntervenableModel.load(ARTIFACTS / "include_model", model=model, include_model=True)
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert changed == ["transformer.h.1.mlp.c_fc.bias"]


def test_a_folder_of_pyvene_can_be_saved_over(tmp_path: Path) -> None:
    shutil.copytree(ARTIFACTS / "low_rank", tmp_path / "mine")
    model = base_model("gpt2")
    pv.IntervenableModel.load(tmp_path / "mine", model=model).save(tmp_path / "mine")
    assert json.loads((tmp_path / "mine" / "config.json").read_text())["format"] == "intervene"


# -- what must be refused --------------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("import pathlib; pathlib.Path('exploded').touch()",)


def weights_file(folder: Path) -> Path:
    return next(folder.glob("intkey_*.bin"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of an artifact to spoil, beside which nothing may appear."""
    shutil.copytree(ARTIFACTS / "low_rank", tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mine"


def refused(folder: Path, said: str, **options: Any) -> None:
    model = base_model("gpt2")
    before = {name: p.clone() for name, p in model.state_dict().items()}
    beside = sorted(str(file) for file in folder.parent.rglob("*"))
    with pytest.raises(pv.ArtifactError, match=said):
        pv.IntervenableModel.load(folder, model=model, **options)
    assert sorted(str(file) for file in folder.parent.rglob("*")) == beside
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_pickle_bomb_is_not_run(folder: Path) -> None:
    torch.save({"w": Bomb()}, weights_file(folder))
    refused(folder, "without running code")


def test_a_bare_pickle_is_not_even_opened(folder: Path) -> None:
    weights_file(folder).write_bytes(pickle.dumps(Bomb()))
    refused(folder, "isn't a whole PyTorch archive")


def test_a_zip_bomb_is_refused(folder: Path) -> None:
    file = weights_file(folder)
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content + b"\0" * 10_000_000 if name.endswith("/data/1") else content)
    refused(folder, "compressed or overlap")


def test_a_file_cut_off(folder: Path) -> None:
    file = weights_file(folder)
    file.write_bytes(file.read_bytes()[:-200])
    refused(folder, "isn't a whole PyTorch archive")


def test_anything_but_tensors(folder: Path) -> None:
    torch.save({"embed_dim": 12}, weights_file(folder))
    refused(folder, "tensors by name")
    torch.save([torch.ones(2)], weights_file(folder))
    refused(folder, "tensors by name")


def test_a_missing_file(folder: Path) -> None:
    weights_file(folder).unlink()
    refused(folder, "needs embed_dim|is missing")


def test_tensors_of_the_wrong_shape(folder: Path) -> None:
    file = weights_file(folder)
    state = torch.load(file, weights_only=True)
    state["rotate_layer.parametrizations.weight.original"] = torch.ones(12, 5)
    torch.save(state, file)
    refused(folder, r"unconstrained has shape \(12, 5\) and should have \(12, 3\)")


def test_a_size_out_of_all_proportion(folder: Path) -> None:
    file = weights_file(folder)
    state = torch.load(file, weights_only=True)
    state["embed_dim"] = torch.tensor(10**9)
    torch.save(state, file)
    refused(folder, "embed_dim=1000000000 fits none of its tensors")


def test_a_link_that_leads_out(folder: Path) -> None:
    file = weights_file(folder)
    moved = folder.parent / "elsewhere.bin"
    file.rename(moved)
    try:
        file.symlink_to(moved)
    except OSError:
        pytest.skip("no symbolic links here")
    refused(folder, "outside the artifact")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"intervention_types": ["<class 'evil.Intervention'>"]}, "isn't known here.*never run"),
        ({"intervention_types": ["<class 'os.system'>"]}, "isn't known here"),
        ({"intervention_types": []}, "1 representations and 0 intervention_types"),
        ({"representations": [[1, "block_output", "pos", 1] + [None] * 30]}, "doesn't know"),
        ({"representations": [{"leyer": 1}]}, "doesn't know"),
        ({"representations": 5}, "isn't what pyvene saves"),
        ({"representations": [[1, "block_output", "pos", 2, 3]]}, "intkey|needs embed_dim|is missing"),
        ({"intervention_dimensions": [[3, 1]]}, "acts on the dims|intervene"),
    ],
)
def test_a_config_that_makes_no_sense(folder: Path, changes: dict[str, Any], said: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    if changes.get("intervention_dimensions"):
        state = torch.load(weights_file(folder), weights_only=True)
        state["interchange_dim"] = torch.tensor([3, 1])
        torch.save(state, weights_file(folder))
    refused(folder, said)


def test_another_model(folder: Path) -> None:
    with pytest.raises(pv.ArtifactError, match="made for 12 features and this model has 24"):
        pv.IntervenableModel.load(folder, model=pv.tiny("gpt2"))


def test_broken_model_weights_change_nothing(folder: Path) -> None:
    torch.save(
        {"transformer.h.1.mlp.c_fc.bias": torch.ones(48), "nothing": torch.ones(1)}, folder / "pytorch_model.bin"
    )
    refused(folder, "nothing is none of its tensors", include_model=True)
    torch.save({"transformer.h.1.mlp.c_fc.bias": torch.ones(47)}, folder / "pytorch_model.bin")
    refused(folder, r"has shape \(47,\) and should have \(48,\)", include_model=True)
    (folder / "pytorch_model.bin").unlink()
    refused(folder, r"no file pytorch_model\.bin", include_model=True)


def test_what_pyvene_does_not_save_whole(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["intervention_types"] = ["<class 'pyvene.models.interventions.NoiseIntervention'>"]
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, "doesn't save what its NoiseIntervention consists of")

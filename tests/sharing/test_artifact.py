"""Saving in a folder and loading again: what comes back, what is written down, what is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import intervene as pv

Inputs = dict[str, Tensor]
LOCATIONS = {"sources->base": (2, 3)}


class Halved(pv.Intervention):
    """A class of one's own, which reads a keyword of its own."""

    def __init__(self, *, share: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.share = share

    def operate(self, base: Tensor, source: Tensor) -> Tensor:
        return base + self.share * (source - base)


class Scaled(pv.TrainableIntervention):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = nn.Parameter(torch.ones(int(self.embed_dim or 1)))

    def operate(self, base: Tensor, source: Tensor) -> Tensor:
        return base * self.scale


WIDTH = 24
TYPES: dict[str, dict[str, Any]] = {
    "vanilla": {"intervention_type": pv.VanillaIntervention},
    "zero": {"intervention_type": pv.ZeroIntervention},
    "subspaces": {"intervention_type": pv.VanillaIntervention, "subspace_partition": [[0, 8], [8, 24]]},
    "addition": {
        "intervention_type": pv.AdditionIntervention,
        "source_representation": torch.linspace(-1, 1, WIDTH, dtype=torch.bfloat16),
    },
    "rotated": {"intervention_type": pv.RotatedSpaceIntervention, "low_rank_dimension": 3},
    "low rank": {"intervention_type": pv.LowRankRotatedSpaceIntervention, "low_rank_dimension": 2},
    "boundless": {"intervention_type": pv.BoundlessRotatedSpaceIntervention},
    "mask": {"intervention_type": pv.SigmoidMaskIntervention},
    "rotated mask": {"intervention_type": pv.SigmoidMaskRotatedSpaceIntervention},
    "autoencoder": {"intervention_type": pv.AutoencoderIntervention, "latent_dim": 6},
    "jump relu": {"intervention_type": pv.JumpReLUAutoencoderIntervention, "latent_dim": 40},
    "lora": {"intervention_type": pv.LoRAIntervention, "low_rank_dimension": 2},
    "noise": {"intervention_type": pv.NoiseIntervention},
    "principal components": {
        "intervention": lambda: pv.PCARotatedSpaceIntervention(embed_dim=WIDTH, low_rank_dimension=3).fit(
            torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(1))
        )
    },
    "own keyword": {"intervention": lambda: Halved(embed_dim=WIDTH, share=0.25)},
    "own parameters": {"intervention_type": Scaled},
    "at a head": {"component": "head_query_output", "unit": "h.pos", "intervention_type": pv.ZeroIntervention},
    "at a path": {"component": "transformer.h.1.mlp.output", "intervention_type": pv.VanillaIntervention},
}


def made(fields: dict[str, Any]) -> dict[str, Any]:
    component = "mlp_output" if fields.get("intervention_type") is pv.LoRAIntervention else "block_output"
    built = {k: v() if k == "intervention" else v for k, v in fields.items()}
    return {"layer": 1, "component": component, **built}


def stirred(intervenable: pv.IntervenableModel) -> pv.IntervenableModel:
    """One step of training, so that no parameter has the value it begins with."""
    parameters = intervenable.get_trainable_parameters()
    if parameters:
        optimizer = torch.optim.SGD(parameters, lr=0.3)
        sum((p * torch.randn_like(p)).sum() for p in parameters).backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()
    return intervenable


def logits(intervenable: pv.IntervenableModel, inputs: Inputs) -> Tensor:
    source = {"input_ids": inputs["input_ids"].flip(0) + 1}
    needs = any(place.intervention.needs_source for place in intervenable.places)
    heads = any(place.unit == "h.pos" for place in intervenable.places)
    with torch.no_grad():
        if heads:
            _, output = intervenable(inputs, unit_locations=None)
        elif needs:
            _, output = intervenable(inputs, sources=source, unit_locations=LOCATIONS)
        else:
            _, output = intervenable(inputs)
    found: Tensor = output.logits
    return found


@pytest.mark.parametrize("name", TYPES)
def test_what_is_loaded_does_what_was_saved(name: str, model: nn.Module, inputs: Inputs, tmp_path: Path) -> None:
    torch.manual_seed(3)
    saved = stirred(pv.IntervenableModel([made(TYPES[name])], model))
    torch.manual_seed(4)
    before = torch.get_rng_state()
    folder = saved.save(tmp_path / "mine")
    assert torch.equal(torch.get_rng_state(), before)
    loaded = pv.IntervenableModel.load(folder, model=model)
    assert list(loaded.interventions) == list(saved.interventions)
    torch.manual_seed(5)
    expected = logits(saved, inputs)
    torch.manual_seed(5)
    assert torch.equal(logits(loaded, inputs), expected)
    for (key, mine), theirs in zip(saved.interventions.items(), loaded.interventions.values(), strict=True):
        assert type(mine.intervention) is type(theirs.intervention)
        state, found = mine.intervention.state_dict(), theirs.intervention.state_dict()
        assert list(state) == list(found), key
        assert all(torch.equal(state[n], found[n]) and state[n].dtype == found[n].dtype for n in state)
        asked = [p.requires_grad for p in mine.intervention.parameters()]
        assert asked == [p.requires_grad for p in theirs.intervention.parameters()]
    assert loaded.config.representations[0].unit == saved.config.representations[0].unit


def test_a_rotation_stays_orthogonal_when_it_is_trained_on(model: nn.Module, tmp_path: Path) -> None:
    saved = stirred(pv.IntervenableModel([made(TYPES["rotated"])], model))
    loaded: Any = stirred(pv.IntervenableModel.load(saved.save(tmp_path / "mine"), model=model))
    weight = loaded.interventions["layer.1.block_output"][0].rotate_layer.weight
    torch.testing.assert_close(weight.T @ weight, torch.eye(WIDTH))


def test_many_places_linked_and_grouped(model: nn.Module, inputs: Inputs, tmp_path: Path) -> None:
    linked = {"intervention_type": pv.LowRankRotatedSpaceIntervention, "low_rank_dimension": 2}
    config = pv.IntervenableConfig(
        [
            {"layer": 0, **linked, "intervention_link_key": "a", "group_key": 0},
            {"layer": 2, **linked, "intervention_link_key": "a", "group_key": 0},
            {"layer": 2, "intervention_type": pv.VanillaIntervention, "group_key": 1},
        ],
        mode="serial",
    )
    saved = stirred(pv.IntervenableModel(config, model))
    folder = saved.save(tmp_path / "mine")
    assert len(load_file(next(folder.glob("interventions-*")))) == len(saved.places[0].intervention.state_dict())
    loaded = pv.IntervenableModel.load(folder, model=model)
    assert loaded.config.mode == "serial"
    assert loaded.config.groups() == config.groups()
    assert loaded.places[0].intervention is loaded.places[1].intervention
    assert list(loaded.interventions) == ["layer.0.block_output", "layer.2.block_output", "layer.2.block_output#1"]


def test_a_model_without_an_adapter(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    saved = stirred(pv.IntervenableModel([{"component": "0.output", "intervention_type": Scaled}], model))
    loaded = pv.IntervenableModel.load(saved.save(tmp_path / "mine"), model=model)
    x = torch.randn(2, 4)
    assert torch.equal(loaded(x, sources=x)[1], saved(x, sources=x)[1])


def test_saving_changes_nothing(model: nn.Module, tmp_path: Path) -> None:
    saved = stirred(pv.IntervenableModel([made(TYPES["rotated"])], model))
    before = {n: t.clone() for n, t in saved.state_dict().items()}
    versions = [p._version for p in saved.parameters()]
    saved.save(tmp_path / "mine")
    assert all(torch.equal(t, before[n]) for n, t in saved.state_dict().items())
    assert [p._version for p in saved.parameters()] == versions


def test_saving_again_replaces_the_artifact_and_leaves_other_files(model: nn.Module, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    pv.IntervenableModel([made(TYPES["rotated"])], model).save(folder)
    (folder / "notes.txt").write_text("mine")
    second = pv.IntervenableModel([made(TYPES["mask"])], model)
    second.save(folder)
    names = sorted(file.name.partition("-")[0] for file in folder.iterdir())
    assert names == ["README.md", "config.json", "interventions", "notes.txt"]
    loaded = pv.IntervenableModel.load(folder, model=model)
    assert type(loaded.places[0].intervention) is pv.SigmoidMaskIntervention


def test_a_models_own_folder_is_not_written_over(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(pv.ArtifactError, match="belongs to something else"):
        pv.IntervenableModel([made(TYPES["zero"])], model).save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


def test_somebodys_own_card_stays(model: nn.Module, tmp_path: Path) -> None:
    intervenable = pv.IntervenableModel([made(TYPES["zero"])], model)
    intervenable.save(tmp_path)
    assert "layer.1.block_output" in (tmp_path / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text("My own words.", encoding="utf-8")
    intervenable.save(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "My own words."


def test_the_card(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import ModelCard

    representations = [made(TYPES["low rank"]), made(TYPES["zero"])]
    pv.IntervenableModel(representations, model).save(tmp_path / "mine", base_model="gpt2")
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert card.data.base_model == "gpt2"
    assert card.data.library_name == "torch-intervene"
    for expected in (
        "`intervene.LowRankRotatedSpaceIntervention`",
        "low_rank_dimension=2",
        f"| torch-intervene | {pv.__version__} |",
        f"| torch | {version('torch')} |",  # torch.__version__ also names the build
        'model = GPT2LMHeadModel.from_pretrained("gpt2")',
        'pv.IntervenableModel.load("./mine", model=model)',
    ):
        assert expected in card.text, expected


def test_the_cards_snippet_runs(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    model.save_pretrained("gpt2")  # type: ignore[operator]
    pv.IntervenableModel([made(TYPES["rotated"])], model).save("mine", base_model="gpt2")
    found = re.search(r"```python\n(.*?)```", Path("mine/README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found.group(1), names)
    assert list(names["intervenable"].interventions) == ["layer.1.block_output"]


def test_a_path_of_this_machine_is_not_published(model: nn.Module, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "secret-project")  # type: ignore[operator]
    from transformers import GPT2LMHeadModel

    loaded: Any = GPT2LMHeadModel.from_pretrained(tmp_path / "secret-project")
    folder = pv.IntervenableModel([made(TYPES["zero"])], loaded).save(tmp_path / "mine")
    for file in ("README.md", "config.json"):
        assert "secret-project" not in (folder / file).read_text(encoding="utf-8")


# -- trained weights of the model ------------------------------------------------------------------------------------


def test_model_weights_come_when_asked_for(model: nn.Module, tmp_path: Path) -> None:
    trained = pv.tiny("gpt2")
    for parameter in trained.parameters():
        parameter.requires_grad_(False)
    bias = trained.get_parameter("transformer.h.1.mlp.c_fc.bias")
    bias.requires_grad_(True)
    with torch.no_grad():
        bias.add_(1.0)
    folder = pv.IntervenableModel([made(TYPES["zero"])], trained).save(tmp_path / "mine", include_model=True)
    assert list(load_file(next(folder.glob("model-*")))) == ["transformer.h.1.mlp.c_fc.bias"]
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.warns(UserWarning, match="include_model=True"):
        pv.IntervenableModel.load(folder, model=model)
    pv.IntervenableModel.load(folder, model=model, include_model=False)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    pv.IntervenableModel.load(folder, model=model, include_model=True)
    changed = {n: p for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert list(changed) == ["transformer.h.1.mlp.c_fc.bias"]
    assert torch.equal(changed["transformer.h.1.mlp.c_fc.bias"], bias)
    assert all(p.requires_grad for p in model.parameters())


def test_no_model_weights_to_save_or_load(model: nn.Module, tmp_path: Path) -> None:
    intervenable = pv.IntervenableModel([made(TYPES["zero"])], model)
    folder = intervenable.save(tmp_path / "mine")
    with pytest.raises(pv.ArtifactError, match="saved without include_model=True"):
        pv.IntervenableModel.load(folder, model=model, include_model=True)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(pv.InterventionError, match="none does"):
        intervenable.save(tmp_path / "other", include_model=True)
    assert not (tmp_path / "other").exists()


# -- classes of one's own --------------------------------------------------------------------------------------------


def test_a_class_that_is_not_known_here(model: nn.Module, tmp_path: Path, inputs: Inputs) -> None:
    saved = pv.IntervenableModel([made(TYPES["own keyword"])], model)
    folder = saved.save(tmp_path / "mine")
    rewrite(folder, lambda config: config["interventions"]["layer.1.block_output"].update({"class": "theirs.Gone"}))
    with pytest.raises(pv.ArtifactError, match=r"is a theirs\.Gone, which isn't known here.*interventions=.*never run"):
        pv.IntervenableModel.load(folder, model=model)
    for name in ("Gone", "theirs.Gone", "layer.1.block_output"):
        loaded = pv.IntervenableModel.load(folder, model=model, interventions={name: Halved})
        assert torch.equal(logits(loaded, inputs), logits(saved, inputs))
    wrong: Any = {"Gone": lambda base, source: base}
    with pytest.raises(TypeError, match="a class derived from Intervention"):
        pv.IntervenableModel.load(folder, model=model, interventions=wrong)


def test_a_module_that_the_artifact_names_is_not_imported(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pv.IntervenableModel([made(TYPES["zero"])], model).save(tmp_path / "mine")
    (folder / "evil.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    rewrite(folder, lambda config: config["interventions"]["layer.1.block_output"].update({"class": "evil.Zero"}))
    with pytest.raises(pv.ArtifactError, match="never run"):
        pv.IntervenableModel.load(folder, model=model)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(("package", "action"), [("safetensors", "save"), ("huggingface_hub", "push")])
def test_a_missing_package_is_named_with_its_extra(
    package: str, action: str, model: nn.Module, tmp_path: Path, uninstall: Callable[[str], None]
) -> None:
    intervenable = pv.IntervenableModel([made(TYPES["zero"])], model)
    uninstall(package)
    act = (
        partial(intervenable.save, tmp_path / "mine") if action == "save" else partial(intervenable.push_to_hub, "me/x")
    )
    with pytest.raises(pv.MissingDependencyError, match=rf"{package}.*torch-intervene\[hf\]"):
        act()
    assert list(tmp_path.iterdir()) == []


def test_a_link_within_the_folder_is_fine_and_one_that_leads_out_is_not(model: nn.Module, tmp_path: Path) -> None:
    folder = pv.IntervenableModel([made(TYPES["rotated"])], model).save(tmp_path / "mine")
    file = tensors_file(folder)
    file.rename(folder / "kept")
    try:
        file.symlink_to(folder / "kept")
    except OSError:
        pytest.skip("no symbolic links here")
    pv.IntervenableModel.load(folder, model=model)
    (folder / "kept").rename(tmp_path / "elsewhere")
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(pv.ArtifactError, match="outside the artifact"):
        pv.IntervenableModel.load(folder, model=model)


def test_a_function_cannot_be_saved(model: nn.Module, tmp_path: Path) -> None:
    intervenable = pv.IntervenableModel([{"layer": 1, "intervention": lambda base: base * 2}], model)
    with pytest.raises(pv.InterventionError, match="derive a class from"):
        intervenable.save(tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


# -- what must be refused --------------------------------------------------------------------------------------------


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def tensors_file(folder: Path) -> Path:
    return next(folder.glob("interventions-*.safetensors"))


def replace_tensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Other tensors, with a config that describes their file truly."""
    from intervene.sharing.tensors import sha256

    save_file(tensors, tensors_file(folder))
    rewrite(folder, lambda c: c["files"]["interventions"].update({"sha256": sha256(tensors_file(folder))}))


def spoil_header(folder: Path, length: int, rest: bytes = b"") -> None:
    from intervene.sharing.tensors import sha256

    tensors_file(folder).write_bytes(struct.pack("<Q", length) + rest)
    rewrite(folder, lambda c: c["files"]["interventions"].update({"sha256": sha256(tensors_file(folder))}))


def header(entries: dict[str, Any]) -> bytes:
    return json.dumps(entries).encode()


KEY = "layer.1.block_output/rotate_layer.unconstrained"
HUGE = {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}

SPOILERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), r"has no file config\.json"),
    "a config cut off": (
        lambda f: (f / "config.json").write_text((f / "config.json").read_text()[:-20]),
        "isn't readable as JSON",
    ),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "list where an object was expected"),
    "nested without end": (lambda f: (f / "config.json").write_text("[" * 200_000), "isn't readable as JSON"),
    "not an artifact": (lambda f: (f / "config.json").write_text("{}"), "says format None"),
    "a newer format": (lambda f: rewrite(f, lambda c: c.update(format_version=2)), "format version 2.*reads 1"),
    "no interventions": (lambda f: rewrite(f, lambda c: c.pop("interventions")), "'interventions' is missing"),
    "no representations": (lambda f: rewrite(f, lambda c: c.pop("representations")), "isn't a whole artifact"),
    "a name for nothing": (
        lambda f: rewrite(f, lambda c: c["representations"][0].update(intervention="other")),
        r"name the interventions \['other'\]",
    ),
    "a field that is none": (
        lambda f: rewrite(f, lambda c: c["representations"][0].update(leyer=1)),
        "no field 'leyer'",
    ),
    "a mode that is none": (lambda f: rewrite(f, lambda c: c.update(mode="wild")), "'parallel' or 'serial'"),
    "a path outside": (
        lambda f: rewrite(f, lambda c: c["files"]["interventions"].update(file="../secret.safetensors")),
        "isn't the name of a file",
    ),
    "an absolute path": (
        lambda f: rewrite(f, lambda c: c["files"]["interventions"].update(file=str(tensors_file(f)))),
        "isn't the name of a file",
    ),
    "a path of Windows": (
        lambda f: rewrite(f, lambda c: c["files"]["interventions"].update(file="..\\secret.safetensors")),
        "isn't the name of a file",
    ),
    "a file that is no name": (
        lambda f: rewrite(f, lambda c: c["files"]["interventions"].update(file=["x"])),
        "isn't the name of a file",
    ),
    "a missing file": (lambda f: tensors_file(f).unlink(), "has no file interventions-"),
    "tensors cut off": (
        lambda f: tensors_file(f).write_bytes(tensors_file(f).read_bytes()[:-10]),
        "cut off or changed",
    ),
    "a bit turned over": (
        lambda f: tensors_file(f).write_bytes(tensors_file(f).read_bytes()[:-1] + b"\x55"),
        "cut off or changed",
    ),
    "an empty file": (lambda f: spoil_header(f, 0), "safetensors file"),
    "a huge header": (lambda f: spoil_header(f, 2**62), f"announces a header of {2**62}"),
    "a header beyond the file": (lambda f: spoil_header(f, 10**7, b"{}"), "announces a header of 10000000"),
    "a header that isn't JSON": (lambda f: spoil_header(f, 4, b"\xff\xff\xff\xff"), "isn't a readable safetensors"),
    "a tensor larger than the file": (
        lambda f: spoil_header(f, len(header({KEY: HUGE})), header({KEY: HUGE})),
        "isn't a readable safetensors",
    ),
    "a tensor of nobody": (
        lambda f: replace_tensors(f, {"layer.9.block_output/w": torch.ones(1)}),
        "belongs to no intervention",
    ),
    "no tensors": (lambda f: replace_tensors(f, {}), "unconstrained is missing"),
    "wrong shapes": (
        lambda f: replace_tensors(f, {KEY: torch.ones(24, 3)}),
        r"unconstrained has shape \(24, 3\) and should have \(24, 24\)",
    ),
    "one tensor more": (
        lambda f: replace_tensors(f, {**load_file(tensors_file(f)), "layer.1.block_output/extra": torch.ones(1)}),
        "extra is none of its tensors",
    ),
    "a keyword that is none": (
        lambda f: rewrite(f, lambda c: c["interventions"]["layer.1.block_output"]["keywords"].update(embed_dom=3)),
        "takes no keyword 'embed_dom'",
    ),
    "a size out of all proportion": (
        lambda f: rewrite(f, lambda c: c["interventions"]["layer.1.block_output"]["keywords"].update(embed_dim=10**9)),
        "embed_dim=1000000000 fits none of its tensors",
    ),
    "a partition out of all proportion": (
        lambda f: rewrite(
            f,
            lambda c: c["interventions"]["layer.1.block_output"]["keywords"].update(subspace_partition=[[0, 10**12]]),
        ),
        "subspace_partition names feature 1000000000000, which no model has",
    ),
    "a partition beyond the features": (
        lambda f: rewrite(
            f,
            lambda c: c["interventions"]["layer.1.block_output"]["keywords"].update(subspace_partition=[[0, 10**6]]),
        ),
        "names feature 3; there are 3",
    ),
    "complex numbers": (
        lambda f: replace_tensors(f, {KEY: torch.ones(24, 24, dtype=torch.complex64)}),
        "unconstrained has numbers of torch.complex64",
    ),
    "whole numbers": (
        lambda f: replace_tensors(f, {KEY: torch.ones(24, 24, dtype=torch.int32)}),
        "unconstrained has numbers of torch.int32",
    ),
    "numbers that nothing computes with": (
        lambda f: replace_tensors(f, {KEY: torch.ones(24, 24).to(torch.float8_e4m3fn)}),
        "unconstrained has numbers of torch.float8_e4m3fn",
    ),
    "keywords of another kind": (
        lambda f: rewrite(f, lambda c: c["interventions"]["layer.1.block_output"].update(keywords=[1])),
        "isn't a whole artifact",
    ),
}


@pytest.mark.parametrize("name", SPOILERS)
def test_what_is_broken_or_malicious_is_refused(
    name: str, model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, said = SPOILERS[name]
    folder = pv.IntervenableModel([made(TYPES["rotated"])], model).save(tmp_path / "mine")
    spoil(folder)
    monkeypatch.chdir(tmp_path)
    files = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    before = {n: t.clone() for n, t in model.state_dict().items()}
    state = torch.get_rng_state()
    with pytest.raises(pv.ArtifactError, match=said):
        pv.IntervenableModel.load(folder, model=model)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == files
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("spoiled", ["pca_components", "pca_mean", "pca_std"])
@pytest.mark.parametrize("value", [None, torch.ones(3, 25), torch.ones(2, 24)], ids=["gone", "wider", "fewer"])
def test_principal_components_of_another_shape(
    spoiled: str, value: Tensor | None, model: nn.Module, tmp_path: Path
) -> None:
    folder = pv.IntervenableModel([made(TYPES["principal components"])], model).save(tmp_path / "mine")
    tensors = {**load_file(tensors_file(folder)), f"layer.1.block_output/{spoiled}": value}
    replace_tensors(folder, {name: tensor for name, tensor in tensors.items() if tensor is not None})
    with pytest.raises(pv.ArtifactError, match=r"pca_mean and pca_std \(width,\), here with width 24"):
        pv.IntervenableModel.load(folder, model=model)


def test_another_model(model: nn.Module, tmp_path: Path) -> None:
    folder = pv.IntervenableModel([made(TYPES["rotated"])], model).save(tmp_path / "mine")
    wider = pv.tiny("gpt2", n_embd=48)
    with pytest.raises(pv.ArtifactError, match=r"made for 24 features and this model has 48 there.*GPT2LMHeadModel"):
        pv.IntervenableModel.load(folder, model=wider)
    shallower = pv.tiny("gpt2", n_layer=1)
    with pytest.raises(pv.UnknownSiteError):
        pv.IntervenableModel.load(folder, model=shallower)


@pytest.mark.parametrize("where", ["nowhere/at/all", "./nothing", "a folder"])
def test_a_place_that_is_neither_folder_nor_repository(where: str, model: nn.Module) -> None:
    with pytest.raises(pv.ArtifactError, match="neither a folder here nor the id of a repository"):
        pv.IntervenableModel.load(where, model=model)


def test_save_intervention_knows_a_folder(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    intervenable = pv.IntervenableModel([made(TYPES["zero"])], model)
    assert intervenable.save_intervention("./mine") == str(Path("mine"))
    assert intervenable.save_intervention(Path("user/name")) == str(Path("user/name"))
    assert intervenable.save_intervention("user/name") == str(Path("user/name"))
    assert (tmp_path / "user" / "name" / "config.json").is_file()

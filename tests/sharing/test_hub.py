"""Sharing on the hub, with the real client against a hub on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import intervene as pv

from .conftest import TOKEN
from .loopback_hub import Hub, xet_environment

Inputs = dict[str, Tensor]


def steering(model: nn.Module, strength: float = 1.0) -> pv.IntervenableModel:
    vector = torch.linspace(-1, 1, 24) * strength
    return pv.IntervenableModel(
        [
            {
                "layer": 1,
                "component": "block_output",
                "intervention_type": pv.AdditionIntervention,
                "source_representation": vector,
            }
        ],
        model,
    )


def logits(intervenable: pv.IntervenableModel, inputs: Inputs) -> Tensor:
    with torch.no_grad():
        _, output = intervenable(inputs)
    found: Tensor = output.logits
    return found


def test_what_is_pushed_is_what_is_loaded(hub: Hub, model: nn.Module, inputs: Inputs) -> None:
    shared = steering(model)
    address = shared.save_intervention("me/steering", token=TOKEN)
    assert address.startswith(f"{hub.endpoint}/me/steering/commit/")
    names = set(hub.files("me/steering"))
    assert {"config.json", "README.md", ".gitattributes"} < names
    loaded = pv.IntervenableModel.load("me/steering", model=model)
    assert torch.equal(logits(loaded, inputs), logits(shared, inputs))


def test_the_card_names_the_repository(hub: Hub, model: nn.Module) -> None:
    steering(model).push_to_hub("me/steering", token=TOKEN, base_model="openai-community/gpt2")
    card = hub.files("me/steering")["README.md"].decode()
    assert 'IntervenableModel.load("me/steering", model=model)' in card
    assert "base_model: openai-community/gpt2" in card
    assert "layer.1.block_output" in card


def test_pushing_again_is_one_commit_and_removes_what_is_older(hub: Hub, model: nn.Module, inputs: Inputs) -> None:
    steering(model).push_to_hub("me/steering", token=TOKEN)
    first = set(hub.files("me/steering"))
    hub.repos["me/steering"].commit("main", {**hub.files("me/steering"), "notes.txt": b"mine"})
    commits = len(hub.repos["me/steering"].commits)
    again = steering(model, 3.0)
    again.push_to_hub("me/steering", token=TOKEN, commit_message="Steer harder")
    assert len(hub.repos["me/steering"].commits) == commits + 1
    now = set(hub.files("me/steering"))
    assert "notes.txt" in now
    assert len([name for name in now if name.endswith(".safetensors")]) == 1
    assert now != first
    loaded = pv.IntervenableModel.load("me/steering", model=model)
    assert torch.equal(logits(loaded, inputs), logits(again, inputs))


def test_a_revision_is_another_state(hub: Hub, model: nn.Module, inputs: Inputs) -> None:
    mild, strong = steering(model), steering(model, 5.0)
    mild.push_to_hub("me/steering", token=TOKEN)
    strong.push_to_hub("me/steering", token=TOKEN, revision="strong")
    loaded = pv.IntervenableModel.load("me/steering", model=model)
    assert torch.equal(logits(loaded, inputs), logits(mild, inputs))
    for revision in ("strong", hub.repos["me/steering"].branches["strong"]):
        loaded = pv.IntervenableModel.load("me/steering", model=model, revision=revision)
        assert torch.equal(logits(loaded, inputs), logits(strong, inputs))


def test_only_the_files_of_an_artifact_are_fetched(hub: Hub, model: nn.Module, tmp_path: Path) -> None:
    steering(model).push_to_hub("me/steering", token=TOKEN)
    more = {"modeling_evil.py": b"raise SystemExit", "big.bin": b"0" * 1000}
    hub.repos["me/steering"].commit("main", {**hub.files("me/steering"), **more})
    pv.IntervenableModel.load("me/steering", model=model, local_directory=tmp_path / "here")
    fetched = {file.name for file in (tmp_path / "here").iterdir() if file.is_file()}
    assert fetched == set(hub.files("me/steering")) - set(more) - {".gitattributes"}


def test_trained_weights_of_the_model_travel_when_asked_for(hub: Hub, model: nn.Module, inputs: Inputs) -> None:
    trained = pv.tiny("gpt2")
    with torch.no_grad():
        trained.get_parameter("transformer.h.0.mlp.c_fc.bias").add_(1.0)
    shared = steering(trained)
    shared.push_to_hub("me/steering", token=TOKEN, include_model=True)
    before = logits(steering(model), inputs)
    with pytest.warns(UserWarning, match="include_model=True"):
        loaded = pv.IntervenableModel.load("me/steering", model=model)
    assert torch.equal(logits(loaded, inputs), before)
    assert not any(entry.startswith("GET") and "model-" in entry for entry in hub.log)
    loaded = pv.IntervenableModel.load("me/steering", model=model, include_model=True)
    assert torch.equal(logits(loaded, inputs), logits(shared, inputs))


def test_a_private_repository_needs_its_owner(hub: Hub, model: nn.Module, tmp_path: Path) -> None:
    steering(model).push_to_hub("me/secret", token=TOKEN, private=True)
    pv.IntervenableModel.load("me/secret", model=model, token=TOKEN)
    for token in ("another-token", None):
        with pytest.raises(pv.HubError, match=r"there is no 'me/secret' .* or it is private"):
            pv.IntervenableModel.load("me/secret", model=model, token=token, local_directory=tmp_path / "new")


@pytest.mark.parametrize(
    ("repo_id", "token", "said"),
    [
        ("me/steering", None, r"refuses \(401\).*hf auth login"),
        ("me/steering", "wrong", r"refuses \(401\)"),
        ("you/steering", TOKEN, r"refuses \(403\).*no right to 'you/steering'"),
    ],
)
def test_pushing_needs_the_right(hub: Hub, model: nn.Module, repo_id: str, token: str | None, said: str) -> None:
    with pytest.raises(pv.HubError, match=said):
        steering(model).push_to_hub(repo_id, token=token)
    assert hub.repos == {}


def test_pushing_to_somebody_elses_repository(hub: Hub, model: nn.Module) -> None:
    steering(model).push_to_hub("me/steering", token=TOKEN)
    before = dict(hub.repos["me/steering"].branches)
    for token in ("another-token", None):
        with pytest.raises(pv.HubError, match=r"refuses \(40[13]\)"):
            steering(model, 2.0).push_to_hub("me/steering", token=token)
    assert hub.repos["me/steering"].branches == before


def test_a_bare_name_is_ones_own(hub: Hub, model: nn.Module) -> None:
    steering(model).save_intervention("steering", token=TOKEN)
    assert list(hub.repos) == ["me/steering"]


def test_a_missing_repository_and_revision(hub: Hub, model: nn.Module) -> None:
    with pytest.raises(pv.HubError, match=r"no folder 'me/nothing' here.*there is no 'me/nothing' at http"):
        pv.IntervenableModel.load("me/nothing", model=model, token=TOKEN)
    steering(model).push_to_hub("me/steering", token=TOKEN)
    with pytest.raises(pv.HubError, match="no revision 'v9'"):
        pv.IntervenableModel.load("me/steering", model=model, revision="v9")


def test_a_repository_without_an_artifact(hub: Hub, model: nn.Module) -> None:
    steering(model).push_to_hub("me/steering", token=TOKEN)
    hub.repos["me/steering"].commit("main", {"README.md": b"nothing here"})
    with pytest.raises(pv.ArtifactError, match=r"has no file config\.json"):
        pv.IntervenableModel.load("me/steering", model=model)


def test_a_folder_that_exists_comes_before_the_hub(
    hub: Hub, model: nn.Module, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    steering(model, 2.0).save("me/steering")
    steering(model).push_to_hub("me/steering", token=TOKEN)
    local = pv.IntervenableModel.load("me/steering", model=model)
    assert torch.equal(logits(local, inputs), logits(steering(model, 2.0), inputs))
    far = pv.IntervenableModel.load("me/steering", model=model, from_huggingface_hub=True)
    assert torch.equal(logits(far, inputs), logits(steering(model), inputs))


def test_without_a_connection_the_cache_serves(hub: Hub, model: nn.Module, inputs: Inputs) -> None:
    from huggingface_hub import constants

    shared = steering(model)
    shared.push_to_hub("me/steering", token=TOKEN)
    pv.IntervenableModel.load("me/steering", model=model)
    nowhere = "http://127.0.0.1:9"
    loaded = pv.IntervenableModel.load("me/steering", model=model, endpoint=nowhere)
    assert torch.equal(logits(loaded, inputs), logits(shared, inputs))
    with pytest.raises(pv.HubError, match=r"no connection to http://127\.0\.0\.1:9"):
        pv.IntervenableModel.load("me/other", model=model, endpoint=nowhere)
    with pytest.raises(pv.HubError, match="no connection"):
        shared.push_to_hub("me/steering", token=TOKEN, endpoint=nowhere)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        loaded = pv.IntervenableModel.load("me/steering", model=model)
        assert torch.equal(logits(loaded, inputs), logits(shared, inputs))
        with pytest.raises(pv.HubError, match="HF_HUB_OFFLINE"):
            shared.push_to_hub("me/steering", token=TOKEN)


# -- the storage of large files ---------------------------------------------------------------------------------------


def test_large_files_go_the_way_that_the_client_prefers(hub: Hub, model: nn.Module, request: Any) -> None:
    by_xet = "[xet]" in request.node.name
    steering(model).push_to_hub("me/steering", token=TOKEN)
    pv.IntervenableModel.load("me/steering", model=model)
    seen = " ".join(hub.log)
    assert ("/v1/shards" in seen) == ("/v1/reconstructions/" in seen) == by_xet
    assert ("/info/lfs/objects/batch" in seen) == (not by_xet)
    assert len(hub.xet.files) == int(by_xet)


@pytest.mark.parametrize("hub", ["xet"], indirect=True)
def test_what_xet_stored_is_read_without_it(
    hub: Hub, model: nn.Module, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    shared = steering(model)
    shared.push_to_hub("me/steering", token=TOKEN)
    hub.log.clear()
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    loaded = pv.IntervenableModel.load("me/steering", model=model)
    assert torch.equal(logits(loaded, inputs), logits(shared, inputs))
    assert any("/storage/" in entry for entry in hub.log)


@pytest.mark.parametrize(
    ("path", "status"), [("xet-write-token", 401), ("xet-write-token", 403), ("v1/xorbs", 403), ("v1/shards", 400)]
)
@pytest.mark.parametrize("hub", ["xet"], indirect=True)
def test_a_storage_that_takes_nothing(hub: Hub, model: nn.Module, inputs: Inputs, path: str, status: int) -> None:
    mild = steering(model)
    mild.push_to_hub("me/steering", token=TOKEN)
    before = dict(hub.repos["me/steering"].branches)
    hub.denied[path] = status
    with pytest.raises(pv.HubError, match=rf"cannot push to 'me/steering': the storage .*{status}.*HF_HUB_DISABLE_XET"):
        steering(model, 5.0).push_to_hub("me/steering", token=TOKEN)
    assert hub.repos["me/steering"].branches == before
    loaded = pv.IntervenableModel.load("me/steering", model=model)
    assert torch.equal(logits(loaded, inputs), logits(mild, inputs))


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("xet-read-token", 401, r"refuses \(401\)"),
        ("v1/reconstructions", 403, "the storage .*403"),
        ("v1/reconstructions", 404, "the storage .*404"),
        ("^/xorbs", 404, "the storage .*"),
    ],
)
@pytest.mark.parametrize("hub", ["xet"], indirect=True)
def test_a_storage_that_gives_nothing(hub: Hub, model: nn.Module, path: str, status: int, said: str) -> None:
    steering(model).push_to_hub("me/steering", token=TOKEN)
    hub.denied[path] = status
    with pytest.raises(pv.HubError, match=f"cannot download 'me/steering': .*{said}"):
        pv.IntervenableModel.load("me/steering", model=model)


@pytest.mark.parametrize("hub", ["xet"], indirect=True)
def test_a_storage_that_gives_something_else(hub: Hub, model: nn.Module) -> None:
    """A chunk whose content is another's; the client doesn't check, so the artifact's own checksum must."""
    steering(model).push_to_hub("me/steering", token=TOKEN)
    ((name, xorb),) = hub.xet.xorbs.items()
    hub.xet.xorbs[name] = xorb[:-1] + bytes([xorb[-1] ^ 1])
    with pytest.raises(pv.ArtifactError):
        pv.IntervenableModel.load("me/steering", model=model)


@pytest.mark.parametrize("hub", ["xet"], indirect=True)
def test_a_storage_that_is_not_there(hub: Hub, model: nn.Module) -> None:
    steering(model).push_to_hub("me/steering", token=TOKEN)
    hub.store = "http://127.0.0.1:9"
    with pytest.raises(pv.HubError, match="the storage of large files"):
        pv.IntervenableModel.load("me/steering", model=model)
    with pytest.raises(pv.HubError, match="the storage of large files"):
        steering(model, 2.0).push_to_hub("me/steering", token=TOKEN)


def test_a_cache_that_cannot_be_written_is_no_fault_of_the_hub(hub: Hub, model: nn.Module, tmp_path: Path) -> None:
    steering(model).push_to_hub("me/steering", token=TOKEN)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file") as found:
        pv.IntervenableModel.load("me/steering", model=model, cache_dir=tmp_path / "file")
    assert not isinstance(found.value, pv.HubError)


USER = """
    import sys
    import torch
    import intervene as pv

    model = pv.tiny("gpt2")
    if sys.argv[1] == "push":
        config = {"layer": 0, "intervention_type": pv.AdditionIntervention, "source_representation": torch.ones(24)}
        print(pv.IntervenableModel([config], model).save_intervention("me/from-environment"))
    print(*pv.IntervenableModel.load("me/from-environment", model=model).sites)
"""


def libraries_without(name: str, home: Path) -> Path:
    """A folder of libraries with all that is installed here but one distribution."""
    home.mkdir()
    for place in (Path(place) for place in sys.path if "site-packages" in place):
        for entry in place.iterdir():
            # A path file may lead to the libraries again.
            leads_back = entry.suffix == ".pth" and "site-packages" in entry.read_text(encoding="utf-8")
            if not entry.name.startswith(name) and not leads_back and not (home / entry.name).exists():
                (home / entry.name).symlink_to(entry)
    return home


@pytest.mark.slow
@pytest.mark.parametrize("way", ["xet", "xet not installed"])
@pytest.mark.parametrize("hub", ["xet"], indirect=True)
def test_the_clients_own_variables_are_heeded(hub: Hub, tmp_path: Path, way: str) -> None:
    """In a process of its own, to which nothing but its environment says where the hub is."""
    variables = {**os.environ, **xet_environment(tmp_path), "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN}
    variables |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "0"}
    program, options = textwrap.dedent(USER), []
    if way == "xet not installed":
        libraries = libraries_without("hf_xet", tmp_path / "libraries")
        options, program = ["-S"], f"import site; site.addsitedir({str(libraries)!r})\n{program}"
    for action, offline in (("push", "0"), ("load", "1")):
        done = subprocess.run(
            [sys.executable, *options, "-c", program, action],
            capture_output=True,
            text=True,
            check=False,
            env={**variables, "HF_HUB_OFFLINE": offline},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[-1] == "layer.0.block_output"
        assert (hub.endpoint in done.stdout) == (action == "push")
        if action == "push":
            assert any("/v1/shards" in entry for entry in hub.log) == (way == "xet")
        hub.log.clear()
    assert hub.log == []

"""SAEs in SAELens' format, against what SAELens computed with them (saelens/record.py)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import intervene as pv
from intervene.errors import SAEFormatError

SAVED = Path(__file__).parent / "saelens"
NAMES = sorted(folder.name for folder in SAVED.iterdir() if (folder / "cfg.json").exists())
SWAPPED = [1, 4, 7]

SAE = pv.JumpReLUAutoencoderIntervention


def recorded(name: str) -> dict[str, Tensor]:
    return load_file(SAVED / name / "recorded.safetensors")


def near(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_there_is_a_sae_of_each_architecture() -> None:
    assert {json.loads((SAVED / n / "cfg.json").read_text()).get("architecture") for n in NAMES} == {
        "standard",
        "topk",
        "jumprelu",
        None,  # before version 6
    }


@pytest.mark.parametrize("name", NAMES)
def test_latents_and_reconstruction_are_saelens_own(name: str) -> None:
    sae, wanted = SAE.from_saelens(SAVED / name), recorded(name)
    near(sae.encode(wanted["x"]), wanted["latents"])
    near(sae.decode(wanted["latents"], wanted["x"]), wanted["reconstruction"])
    assert 0 < (wanted["latents"] > 0).float().mean() < 1


@pytest.mark.parametrize("name", NAMES)
def test_swapped_latents_are_saelens_own_plus_the_error(name: str) -> None:
    wanted = recorded(name)
    x, other = wanted["x"], wanted["other"]
    bare = SAE.from_saelens(SAVED / name, use_error_term=False)
    near(bare(x, other, SWAPPED), wanted["swapped_reconstruction"])
    kept = SAE.from_saelens(SAVED / name)
    near(kept(x, other, SWAPPED), wanted["swapped_reconstruction"] + x - wanted["reconstruction"])
    assert torch.equal(kept(x, x), x)


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_sae_is_restored_by_its_spec(name: str) -> None:
    before, wanted = SAE.from_saelens(SAVED / name), recorded(name)
    assert not any(p.requires_grad for p in before.parameters())
    after = SAE(**json.loads(json.dumps(before.spec())))
    after.load_state_dict(before.state_dict())
    assert torch.equal(after(wanted["x"], wanted["other"]), before(wanted["x"], wanted["other"]))


def test_dtype_and_folded_scale(tmp_path: Path) -> None:
    folder = _altered(tmp_path, "standard", normalize_activations="expected_average_only_in")
    with pytest.raises(SAEFormatError, match="norm_scaling_factor="):
        SAE.from_saelens(folder)
    wanted = recorded("standard")
    scaled = SAE.from_saelens(folder, norm_scaling_factor=4.0)
    near(scaled.encode(wanted["x"] / 4), wanted["latents"])
    near(scaled.decode(wanted["latents"]), wanted["reconstruction"] / 4)
    assert SAE.from_saelens(SAVED / "topk", dtype=torch.bfloat16).W_dec.dtype == torch.bfloat16


def test_the_decoder_bias_is_subtracted_unless_the_config_says_otherwise(tmp_path: Path) -> None:
    folder = _altered(tmp_path, "topk_before_version_6")
    config = json.loads((folder / "cfg.json").read_text())
    del config["apply_b_dec_to_input"]
    (folder / "cfg.json").write_text(json.dumps(config))
    wanted = recorded("topk_before_version_6")
    near(SAE.from_saelens(folder).encode(wanted["x"]), wanted["latents"])


def test_a_finetuning_scale_stands_before_the_decoder(tmp_path: Path) -> None:
    folder = _altered(tmp_path, "standard")
    scale = torch.linspace(0.5, 2, 10)
    weights = load_file(folder / "sae_weights.safetensors")
    save_file({**weights, "scaling_factor": scale}, folder / "sae_weights.safetensors")
    plain, scaled, x = SAE.from_saelens(SAVED / "standard"), SAE.from_saelens(folder), recorded("standard")["x"]
    near(scaled.decode(scaled.encode(x)), plain.decode(plain.encode(x) * scale))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"architecture": "gated"}, r"'gated' is not known; there are standard, topk, jumprelu"),
        ({"normalize_activations": "covariance_whitening"}, "covariance_whitening"),
        ({"d_sae": 11}, r"expected W_enc of shape \(6, 11\), found W_enc of shape \(6, 10\)"),
        ({"d_in": "six"}, "d_in is a whole number, found 'six'"),
        ({"architecture": "jumprelu"}, "expected threshold"),
        ({"architecture": "topk"}, "k is a whole number, found None"),
    ],
)
def test_what_is_not_known_is_refused(config: dict[str, object], says: str, tmp_path: Path) -> None:
    with pytest.raises(SAEFormatError, match=says):
        SAE.from_saelens(_altered(tmp_path, "standard", **config))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SAEFormatError, match=r"no cfg.json and no sae_weights.safetensors: there is no such folder"):
        SAE.from_saelens(tmp_path / "nowhere")
    folder = _altered(tmp_path, "topk")
    (folder / "sae_weights.safetensors").unlink()
    with pytest.raises(SAEFormatError, match=r"no sae_weights.safetensors: it holds cfg.json"):
        SAE.from_saelens(folder)
    (folder / "sae_weights.safetensors").write_bytes(b"")
    (folder / "cfg.json").write_text("{")
    with pytest.raises(SAEFormatError, match="not JSON"):
        SAE.from_saelens(folder)


def test_topk_alone_has_a_k() -> None:
    with pytest.raises(pv.InterventionArgumentError, match="only topk, needs k="):
        SAE(embed_dim=4, latent_dim=8, architecture="topk")
    with pytest.raises(pv.InterventionArgumentError, match="only topk, needs k="):
        SAE(embed_dim=4, latent_dim=8, k=2)
    with pytest.raises(pv.InterventionArgumentError, match="architecture is one of"):
        SAE(embed_dim=4, latent_dim=8, architecture="gated")  # type: ignore[arg-type]


def _altered(tmp_path: Path, name: str, **config: object) -> Path:
    folder = tmp_path / name
    shutil.copytree(SAVED / name, folder)
    found = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**found, **config}))
    return folder

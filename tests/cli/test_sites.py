"""`intervene sites`: addresses, shapes and ports of every kind of model there is."""

from __future__ import annotations

import json

import pytest
import torch

import intervene
from intervene.components import components
from intervene.registry import families


def sites(run, *arguments):
    result = run("sites", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("family", sorted(families().keys() - {"mamba_ssm"}))  # that one in a process of its own
def test_every_family_lists_all_its_sites(run, family):
    if not families()[family].available():
        pytest.skip(f"{families()[family].load_spec().library} is not installed")
    data = sites(run, f"tiny:{family}")
    adapted = intervene.adapt(intervene.tiny(family))
    addresses = set()
    for row in data["sites"]:
        start = f"{row['tower']}." if row["tower"] else ""
        addresses |= {f"{start}layer.{n}.{row['component']}" for n in row["layers"]} or {start + row["component"]}
        assert row["meaning"] == components()[row["component"]].meaning
        assert len(row["shape"]) == len(row["axes"]) > 0
    assert addresses == {site.address for site in adapted.sites}
    assert data["layers"] == adapted.layers


def test_shapes_and_ports_are_those_of_the_model(run):
    rows = {row["component"]: row for row in sites(run, "tiny:gpt2")["sites"]}
    query = rows["head_query_output"]
    assert query["address"] == "layer.{0..2}.head_query_output"
    assert query["layers"] == [0, 1, 2]
    assert query["axes"] == ["batch", "head", "position", "feature"]
    assert query["shape"] == ["batch", 3, "position", 8]
    assert query["port"] == "transformer.h.{0..2}.attn.c_attn output"
    assert query["lens"].startswith("Chunk(")
    assert rows["attention_pattern"]["shape"] == ["batch", 3, "query_position", "key_position"]
    assert rows["logits"]["shape"] == ["batch", "position", 61]
    assert rows["mlp_activation"]["shape"][-1] == 96


@pytest.mark.parametrize("family", ["dinov2", "timm_vit", "vit"])
def test_an_image_decides_no_positions(run, family):
    if not families()[family].available():
        pytest.skip(f"{families()[family].load_spec().library} is not installed")
    rows = {row["component"]: row["shape"] for row in sites(run, f"tiny:{family}")["sites"]}
    assert rows["patch_embedding_output"] == ["batch", 4, 24]
    assert rows["class_token"] == ["batch", 1, 24]
    assert rows["head_query_output"] == ["batch", 3, 5, 8]
    assert rows["attention_pattern"] == ["batch", 3, 5, 5]
    assert rows["logits"] == ["batch", 5]


def test_text_has_each_site_once_and_fits_the_terminal(run):
    result = run("sites", "tiny:gpt2")
    assert result.exit_code == 0
    assert result.stdout.count("layer.{0..2}.head_attention_value_output") == 1
    assert "transformer.h.{0..2}.attn.c_proj input >> Heads(heads=3)" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    assert "\x1b" not in result.stdout


def test_one_component_and_one_layer(run):
    rows = sites(run, "tiny:gpt2", "--component", "attention_weight", "--layer", "-1")["sites"]
    assert [row["address"] for row in rows] == ["layer.2.attention_pattern"]
    assert rows[0]["port"] == "attention pattern in transformer.h.2.attn"
    assert {row["layers"][0] for row in sites(run, "tiny:gpt2", "--layer", "1")["sites"]} == {1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--component", "mlp"], "Did you mean 'mlp_input' or"),
        (["--layer", "3"], "layer 3 is out of range: there are 3 layers (0 to 2)"),
        (["--component", "logits", "--layer", "0"], "logits exists once"),
    ],
)
def test_refusals(run, options, message):
    result = run("sites", "tiny:gpt2", *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


def test_a_saved_model_is_of_the_class_it_was_saved_as(run, folder, tmp_path):
    assert sites(run, folder)["class"] == "GPT2LMHeadModel"
    for name in intervene.registry.family("gpt2").models:
        intervene.tiny("gpt2", name).save_pretrained(tmp_path / name)  # type: ignore[operator]
        data = sites(run, tmp_path / name)
        assert data["class"] == name
        assert "logits" not in {row["component"] for row in data["sites"]} or name != "GPT2Model"


@pytest.mark.parametrize("options", [(), ("--config-only",)])
def test_experts_of_a_model_as_it_was_saved(run, tmp_path, options):
    """transformers loads it with another implementation, under which no expert's tensors exist."""
    intervene.tiny("mixtral").save_pretrained(tmp_path / "model")  # type: ignore[operator]
    rows = {row["component"]: row for row in sites(run, tmp_path / "model", *options)["sites"]}
    assert rows["expert_output"]["shape"] == ["batch", "position", 2, 24]
    assert rows["router_logits"]["shape"] == ["batch", "position", 5]


def test_config_alone_gives_the_same_table_and_needs_no_weights(run, folder, tmp_path):
    from transformers import GPT2Config

    whole = sites(run, folder)
    config = GPT2Config.from_pretrained(folder)
    config.save_pretrained(tmp_path)
    alone = sites(run, tmp_path, "--config-only")
    assert {**alone, "model": ""} == {**whole, "model": ""}
    assert run("sites", tmp_path).exit_code == 1


def test_layers_that_differ_are_not_folded_together(run, tmp_path, monkeypatch):
    model = intervene.tiny("gpt2", n_layer=4)
    into, out = (model.get_submodule(f"transformer.h.1.mlp.{name}") for name in ("c_fc", "c_proj"))
    into.nf = 7  # type: ignore[assignment]
    into.weight, into.bias = torch.nn.Parameter(torch.zeros(24, 7)), torch.nn.Parameter(torch.zeros(7))
    out.weight = torch.nn.Parameter(torch.zeros(7, 24))
    monkeypatch.setattr("intervene.cli.loading.tiny", lambda name: model)
    rows = [row for row in sites(run, "tiny:gpt2")["sites"] if row["component"] == "mlp_activation"]
    assert [(row["address"], row["shape"][-1]) for row in rows] == [
        ("layer.{0,2..3}.mlp_activation", 96),
        ("layer.1.mlp_activation", 7),
    ]


@pytest.fixture(scope="module")
def unadapted(tmp_path_factory):
    from transformers import T5Config, T5ForConditionalGeneration

    path = tmp_path_factory.mktemp("t5")
    config = T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2, vocab_size=16)
    T5ForConditionalGeneration(config).save_pretrained(path)
    return path


@pytest.mark.parametrize("options", [(), ("--config-only",)])
def test_a_model_of_no_known_family_has_its_modules(run, unadapted, options):
    from transformers import T5ForConditionalGeneration

    data = sites(run, unadapted, *options)
    assert (data["class"], data["family"], data["layers"]) == ("T5ForConditionalGeneration", None, None)
    kinds = {row["address"]: row["class"] for row in data["sites"]}
    assert kinds["encoder.block.1.output"] == "T5Block"
    assert kinds["output"] == "T5ForConditionalGeneration"
    model = T5ForConditionalGeneration.from_pretrained(unadapted)
    adapted = intervene.adapt(model)
    for address in kinds:
        assert adapted[address].address == address
    missing = {name for name, _ in model.named_modules()} - {a.removesuffix("output").rstrip(".") for a in kinds}
    assert {type(model.get_submodule(name)).__name__ for name in missing} == {"ModuleList"}


def test_a_model_of_no_known_family_is_said_to_be_one(run, unadapted):
    result = run("sites", unadapted)
    assert result.exit_code == 0, result.stderr
    assert ["encoder.block.1.output", "T5Block"] in [line.split() for line in result.stdout.splitlines()]
    assert result.stderr.startswith("note: no adapter knows T5ForConditionalGeneration, so its sites are its modules")
    assert "gpt2" in result.stderr


def test_modules_have_neither_components_nor_layers(run, unadapted):
    result = run("sites", unadapted, "--component", "mlp_output", "--layer", "0")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no adapter knows T5ForConditionalGeneration" in result.stderr
    assert "leave out --component, --layer." in result.stderr


def test_a_model_of_several_towers(run):
    data = sites(run, "tiny:blip")
    rows = {row["address"]: row for row in data["sites"]}
    assert rows["vision.layer.{0..2}.head_query_output"]["shape"] == ["batch", 3, 5, 8]
    assert rows["text_decoder.layer.{0..1}.cross_attention_pattern"]["shape"] == ["batch", 4, "query_position", 5]
    assert rows["text_decoder.logits"]["shape"] == ["batch", "position", 61]
    last = sites(run, "tiny:blip", "--component", "mlp_output", "--layer", "-1")["sites"]
    assert [row["address"] for row in last] == ["vision.layer.2.mlp_output", "text_decoder.layer.1.mlp_output"]
    assert {row["tower"] for row in sites(run, "tiny:blip", "--tower", "vision")["sites"]} == {"vision"}
    assert "5 layers: 3 in vision, 2 in text_decoder" in run("sites", "tiny:blip").stdout
    refused = run("sites", "tiny:blip", "--tower", "text_encoder")
    assert refused.exit_code == 1
    assert "no tower 'text_encoder'; it has vision, text_decoder" in refused.stderr

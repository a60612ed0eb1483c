"""`intervene trace`, on a model in a local folder."""

from __future__ import annotations

import errno
import json
import os
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig, BloomForCausalLM

import intervene
from intervene.cli.console import remarks
from intervene.sweeps import SweepWarning

from .conftest import WORDS

PROMPT = "The Silver Crane Tower is located in the city of"
SUBJECT = "Silver Crane Tower"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def trace(run, folder):
    def call(*arguments, **environment):
        return run("trace", folder, "--prompt", PROMPT, "--subject", SUBJECT, *arguments, **environment)

    return call


def library(folder, **options):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    return intervene.causal_trace(model, tokenizer, prompt=PROMPT, subject=SUBJECT, **options)


def test_shows_predictions_heatmap_and_readings_and_writes_the_picture(trace, folder, elsewhere):
    result = trace()
    assert result.exit_code == 0, result.stderr
    expected = library(folder)
    assert f"{expected.clean[0].token} " in result.stdout
    assert f"{expected.clean[0].probability:.3f}" in result.stdout
    assert f"{expected.corrupted[0].probability:.3f}" in result.stdout
    for token in expected.axes[1].texts:
        assert f"{token} " in result.stdout
    assert f"p({expected.target}) with clean block_output restored" in result.stdout
    assert "At the last position ('of')" in result.stdout
    assert "The picture is in causal_trace.png" in result.stdout
    assert (elsewhere / "causal_trace.png").read_bytes().startswith(PNG)
    assert "\x1b" not in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_json_is_what_the_library_computes(trace, folder, elsewhere):
    options = ["--samples", 3, "--seed", 5, "--sigma", 2.0, "--component", "mlp_output", "--window", 2]
    result = trace(*options, "--layers", "0-1,3", "--json", "-o", "here.svg")
    data = json.loads(result.stdout)
    expected = library(
        folder, samples=3, seed=5, sigma=2.0, component="mlp_output", window=2, layers=[0, 1, 3], progress=False
    )
    assert data["values"] == expected.values.tolist()
    assert (data["base"], data["source"]) == (expected.base, expected.source)
    assert data["axes"][0]["labels"] == [0, 1, 3]
    assert data["target"] == expected.target == data["clean"][0]["token"]
    assert data["noise"] == {"sigma": 2.0, "samples": 3, "seed": 5}
    assert (data["component"], data["window"], data["picture"]) == ("mlp_output", 2, "here.svg")
    assert (elsewhere / "here.svg").exists()


def test_readings_are_those_of_the_values(trace):
    data = json.loads(trace("--json", "--no-picture").stdout)
    subject, last = data["readings"]
    assert (subject["position"], subject["token"]) == (3, "Tower")
    assert (last["position"], last["token"]) == (9, "of")
    values = torch.tensor(data["values"])
    for reading in (subject, last):
        column = values[:, reading["position"]]
        assert reading["value"] == pytest.approx(float(column.max()))
        assert reading["layer"] == int(column.argmax())
        share = (column - data["base"]) / (data["source"] - data["base"])
        assert reading["restored"] == pytest.approx(float(share.max()), abs=1e-5)
        assert reading["layers_half"] == [i for i, s in enumerate(share.tolist()) if s >= 0.5]


def test_a_subject_at_the_end_has_one_reading(run, folder):
    result = run("trace", folder, "--prompt", "The Silver Crane", "--subject", "Crane", "--json", "--no-picture")
    assert [r["place"] for r in json.loads(result.stdout)["readings"]] == ["the subject's last token"]


def test_without_a_picture_none_is_written(trace, elsewhere):
    result = trace("--no-picture", "--samples", 1)
    assert result.exit_code == 0
    assert "picture" not in result.stdout
    assert "one noise draw" in result.stdout
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("standing", [True, False])
def test_a_picture_that_may_not_be_written_is_refused_before_the_model_is_loaded(run, elsewhere, monkeypatch, standing):
    if standing:
        (elsewhere / "causal_trace.png").touch()
    kept = Path("causal_trace.png" if standing else ".")
    asked = os.access
    monkeypatch.setattr("os.access", lambda path, mode: not (path == kept and mode & os.W_OK) and asked(path, mode))
    monkeypatch.setattr("intervene.cli.loading.causal_lm", lambda *a, **o: pytest.fail("the model was loaded"))
    monkeypatch.setattr("intervene.cli.loading.demo_model", lambda *a, **o: pytest.fail("the model was loaded"))
    for command in (("trace", "./nosuch", "--prompt", PROMPT, "--subject", SUBJECT), ("demo",)):
        result = run(*command)
        assert (result.exit_code, result.stdout) == (1, "")
        where = "causal_trace.png" if standing else f"the folder {elsewhere}"
        assert result.stderr == (
            f"error: the picture can't be written to causal_trace.png: {where} is write-protected; say -o FILE for "
            f"another place, or --no-picture\n"
        )


def test_without_a_picture_the_folder_may_be_write_protected(trace, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)
    assert trace("--no-picture", "--samples", 1).exit_code == 0


def test_the_result_is_shown_where_the_picture_fails_in_the_end(trace, monkeypatch):
    def full(self, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    shown = trace("--samples", 1, "--no-picture").stdout
    monkeypatch.setattr(intervene.tracing.CausalTrace, "plot", full)
    result = trace("--samples", 1)
    assert (result.exit_code, result.stdout) == (1, shown)
    assert result.stderr == "error: the picture can't be written to causal_trace.png: No space left on device\n"
    data = trace("--samples", 1, "--json")
    assert (data.exit_code, json.loads(data.stdout)["picture"]) == (1, None)


def test_without_matplotlib_the_heatmap_is_still_drawn(trace, uninstall, elsewhere):
    uninstall("matplotlib")
    result = trace()
    assert result.exit_code == 0
    assert "Tower*" in result.stdout
    assert "picture" not in result.stdout
    assert "no picture was written" in result.stderr
    assert 'pip install "torch-intervene[plot]"' in result.stderr
    assert not list(elsewhere.iterdir())
    assert json.loads(trace("--json").stdout)["picture"] is None


def test_dollars_in_a_prompt_are_no_mathematics(run, folder, elsewhere):
    result = run("trace", folder, "--prompt", "The $5 _{ $5 is", "--subject", "$5", "--samples", 1)
    assert result.exit_code == 0, result.exception
    assert (elsewhere / "causal_trace.png").read_bytes().startswith(PNG)


def test_attention_patterns_under_eager(trace):
    options = ("--component", "attention_pattern", "--no-picture", "--samples", 1)
    refused = trace(*options)
    assert refused.exit_code == 1
    assert "eager" in refused.stderr
    assert trace(*options, "--attention", "eager").exit_code == 0


def test_dtype(trace, folder):
    data = json.loads(trace("--dtype", "bfloat16", "--json", "--no-picture").stdout)
    exact = library(folder, progress=False)
    assert data["source"] != exact.source
    assert data["source"] == pytest.approx(exact.source, abs=0.05)


@pytest.mark.parametrize(
    ("dtype", "way"),
    [
        ("float16", "it overflows in float16; try --dtype float32, or bfloat16"),
        ("bfloat16", "its weights are none, or it overflows in bfloat16"),
        ("float32", "its weights are none, or it overflows in float32"),
    ],
)
def test_probabilities_that_are_not_numbers_are_refused(run, folder, tmp_path, dtype, way):
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.nn.init.constant_(model.get_parameter("transformer.ln_f.weight"), float("nan"))
    model.save_pretrained(tmp_path / "nan")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "nan")
    options = ("--prompt", PROMPT, "--subject", SUBJECT, "--target", "of", "--dtype", dtype)
    result = run("trace", tmp_path / "nan", *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith(f"error: the model's probabilities are not numbers even without noise: {way}\n")


@pytest.mark.parametrize(
    ("dtype", "ways"),
    [("float32", "a smaller --sigma"), ("float16", "a smaller --sigma or --dtype float32, or bfloat16")],
)
def test_noise_that_overflows_is_named(trace, dtype, ways):
    result = trace("--sigma", "1e39", "--samples", 1, "--dtype", dtype)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith(
        f"once the subject is corrupted: with noise of sigma 1e+39 the model overflows in {dtype}; try {ways}\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--component", "atention_output"], "Did you mean 'attention_output'"),
        (["--layers", "2-9"], "layers [4, 5, 6, 7, 8, 9] out of range: there are 4 (0 to 3)"),
        (["--target", " "], "the target is empty"),
        (["--device", "nosuch"], "device 'nosuch' can't be used"),
        (["--attention", "nosuch"], "attn_implementation"),
    ],
)
def test_refusals(trace, options, message):
    result = trace(*options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


def test_a_subject_that_is_not_in_the_prompt(run, folder):
    result = run("trace", folder, "--prompt", PROMPT, "--subject", "Space Needle")
    assert result.exit_code == 1
    assert "doesn't hold the subject 'Space Needle'" in result.stderr


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_a_prompt_longer_than_the_learned_positions(run, folder, tmp_path, monkeypatch, family):
    model = intervene.tiny(family, vocab_size=len(WORDS), max_position_embeddings=12)
    model.save_pretrained(tmp_path / "short")  # type: ignore[operator]
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "short")

    def command(length):
        prompt = "Crane " * length
        options = ("--subject", "Crane", "--target", "of", "--samples", 1, "--no-picture")
        return run("trace", tmp_path / "short", "--prompt", prompt, *options)

    fits = command(12)
    assert fits.exit_code == 0, fits.stderr
    monkeypatch.setattr("intervene.cli.report.causal_trace", lambda *a, **o: pytest.fail("the model ran"))
    result = command(13)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: the prompt has 13 tokens, and the model takes 12: say a shorter one\n"


def test_a_prompt_longer_than_a_maximum_that_rotary_positions_only_state(run, folder, tmp_path):
    model = intervene.tiny("llama", vocab_size=len(WORDS), max_position_embeddings=8)
    model.save_pretrained(tmp_path / "rotary")  # type: ignore[operator]
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "rotary")
    options = ("--prompt", PROMPT, "--subject", SUBJECT, "--samples", 1, "--no-picture")
    assert run("trace", tmp_path / "rotary", *options).exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "x.gif"], "must end in .png, .pdf, .svg"),
        (["-o", "nowhere/x.png"], "there is no folder nowhere"),
        (["--layers", "5-2"], "runs down"),
        (["--layers", "a"], "neither a layer nor a range"),
        (["--layers", "1,0-2"], "named twice"),
        (["--window", "0"], "--window"),
        (["--prompt", ""], "'--prompt': '' says nothing"),
        (["--subject", " "], "'--subject': ' ' says nothing"),
        (["--sigma", "0"], "0.0 is no finite number above 0"),
        (["--sigma", "-1"], "-1.0 is no finite number above 0"),
        (["--sigma", "inf"], "inf is no finite number above 0"),
        (["--sigma", "nan"], "nan is no finite number above 0"),
        (["--seed", "-1"], "'--seed'"),
        (["--seed", "9" * 23], "'--seed'"),
    ],
)
def test_wrong_usage_is_refused_before_the_model_is_loaded(run, options, message):
    result = run("trace", "./nosuch", "--prompt", PROMPT, "--subject", SUBJECT, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.replace("│", " ").split())


def test_sweep_warnings_become_notes(capsys):
    with remarks():
        warnings.warn("slower this time", SweepWarning, stacklevel=1)
    assert capsys.readouterr().err == "note: slower this time\n"


def test_other_warnings_stay_what_they_are(capsys):
    with pytest.warns(UserWarning, match="another"), remarks():
        warnings.warn("another", UserWarning, stacklevel=1)
    assert "note" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def bloom(tmp_path_factory, folder):
    """A causal language model that no adapter knows, in a folder."""
    path = tmp_path_factory.mktemp("bloom")
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=len(WORDS), hidden_size=24, n_layer=3, n_head=3, initializer_range=0.4)
    BloomForCausalLM(config).save_pretrained(path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(path)
    return path


def test_a_model_that_no_adapter_knows(run, bloom, elsewhere):
    asked = ("--prompt", PROMPT, "--subject", SUBJECT, "--samples", 2, "--no-picture", "--json")
    blocks, by_path, inner = (
        run("trace", bloom, *asked, *more)
        for more in (
            (),
            ("--component", "transformer.h.{layer}.output"),
            ("--component", "transformer.h.{layer}.mlp.dense_h_to_4h.output"),
        )
    )
    assert (blocks.exit_code, by_path.exit_code, inner.exit_code) == (0, 0, 0)
    assert "no adapter knows BloomForCausalLM: restored is transformer.h.{layer}.output" in blocks.stderr
    assert "each BloomBlock" in blocks.stderr
    assert "no adapter" not in by_path.stderr + inner.stderr
    values = [json.loads(result.stdout)["values"] for result in (blocks, by_path, inner)]
    assert [len(values[0]), len(values[0][0])] == [3, len(PROMPT.split())]
    assert values[0] == values[1] != values[2]


def test_a_component_of_a_model_that_no_adapter_knows(run, bloom, elsewhere):
    result = run("trace", bloom, "--prompt", PROMPT, "--subject", SUBJECT, "--component", "mlp_output")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no adapter knows BloomForCausalLM" in result.stderr

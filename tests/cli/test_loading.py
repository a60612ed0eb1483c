"""What can't be loaded is said in words; what is on the hub is loaded from there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, ViTConfig

PROMPT = ("--prompt", "The Silver Crane Tower", "--subject", "Silver")


def refusal(run, name) -> str:
    result = run("trace", name, *PROMPT)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Traceback" not in result.stderr
    return result.stderr


def test_names_that_lead_nowhere(run, tmp_path):
    (tmp_path / "weights.bin").write_text("x")
    assert "there is no folder ./nosuch" in refusal(run, "./nosuch")
    assert "weights.bin is a file" in refusal(run, tmp_path / "weights.bin")
    assert "has no config.json" in refusal(run, tmp_path)
    assert "it has weights.bin" in refusal(run, tmp_path)
    assert "no local folder of that name" in refusal(run, "nosuch/model")
    assert "alphanumeric" in refusal(run, "no such model")


def test_a_folder_that_cannot_be_entered(run, folder, monkeypatch):
    asked = os.access
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != folder and asked(path, mode))
    assert refusal(run, folder) == f"error: {folder} can't be looked into: Permission denied\n"


def test_a_folder_within_one_that_cannot_be_entered(run, folder, monkeypatch):
    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refused)
    assert refusal(run, folder) == f"error: {folder} can't be looked into: Permission denied\n"


def test_a_folder_with_a_broken_config(run, tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert "not a valid JSON" in refusal(run, tmp_path)


def test_a_folder_without_weights(run, folder, tmp_path):
    GPT2Config.from_pretrained(folder).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    assert "the model of the folder" in refusal(run, tmp_path)


def test_a_folder_without_a_tokenizer(run, folder, tmp_path):
    GPT2LMHeadModel.from_pretrained(folder).save_pretrained(tmp_path)
    assert "tokenizer" in refusal(run, tmp_path)


@pytest.mark.parametrize("length", [0, 1000, 5000])
def test_weights_that_were_cut_short(run, folder, tmp_path, length):
    cut = shutil.copytree(folder, tmp_path / "cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:length])
    message = refusal(run, cut.parent)
    assert f"error: the model of the folder {cut.parent} can't be loaded: " in message
    assert "header" in message
    assert run("sites", cut.parent).stderr == message


@pytest.mark.parametrize("length", [0, 3])
def test_pickled_weights_that_were_cut_short(run, folder, tmp_path, length):
    copy = shutil.copytree(folder, tmp_path / "cut")
    (copy / "model.safetensors").unlink()
    torch.save(GPT2LMHeadModel.from_pretrained(folder).state_dict(), copy / "pytorch_model.bin")
    whole = (copy / "pytorch_model.bin").read_bytes()
    (copy / "pytorch_model.bin").write_bytes(whole[:length])
    assert f"error: the model of the folder {copy} can't be loaded: " in refusal(run, copy)


def test_a_tokenizer_of_another_model(run, folder, tmp_path):
    GPT2LMHeadModel(GPT2Config(vocab_size=3, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    assert "don't belong together" in refusal(run, tmp_path)


def test_a_model_of_another_kind(run, tmp_path):
    ViTConfig().save_pretrained(tmp_path)
    message = refusal(run, tmp_path)
    assert "is a vit model, which is no causal language model" in message
    assert "intervene sites" in message


def test_a_tiny_model_has_no_facts(run):
    assert "no tokenizer" in refusal(run, "tiny:gpt2")


def test_a_local_folder_goes_before_the_hub(run, folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    result = run("trace", folder.name, *PROMPT, "--no-picture", "--json", "--samples", 1)
    assert json.loads(result.stdout)["model"] == folder.name


@contextmanager
def hub(folder: Path, name: str) -> Iterator[str]:
    """A server on this machine that answers for one model the way the hub does."""
    commit = "0" * 40

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            prefix, _, rest = self.path.partition("/resolve/")
            file = folder / rest.partition("/")[2]
            headers = {}
            content = b"{}"
            if prefix == f"/{name}" and file.is_file():
                content = file.read_bytes()
                headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
            elif self.path == f"/api/models/{name}":
                content = json.dumps({"id": name, "sha": commit, "siblings": []}).encode()
                headers = {"Content-Type": "application/json"}
            self.send_response(200 if headers else 404)
            if not headers:
                missing = "EntryNotFound" if name in self.path else "RepoNotFound"
                headers = {"X-Error-Code": missing, "X-Repo-Commit": commit}
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("known", [True, False])
def test_a_model_of_the_hub(folder, tmp_path, known):
    name = "someone/facts" if known else "someone/else"
    with hub(folder, "someone/facts") as endpoint:
        done = subprocess.run(
            [sys.executable, "-m", "intervene.cli", "trace", name, *PROMPT, "--json", "--samples", "1", "-o", "x.png"],
            cwd=tmp_path,
            env={
                **os.environ,
                "HF_ENDPOINT": endpoint,
                "HF_HOME": str(tmp_path / "cache"),
                "HF_HUB_OFFLINE": "0",
                "HF_HUB_DISABLE_XET": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    if known:
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["picture"] == "x.png"
        assert (tmp_path / "x.png").stat().st_size > 1000
    else:
        assert (done.returncode, done.stdout) == (1, "")
        assert "error: the config of someone/else" in done.stderr

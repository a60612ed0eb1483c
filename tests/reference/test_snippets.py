"""Every Python block of the reference runs as written, with `intervene` imported under pyvene's name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import intervene as pv

from ..sharing.loopback_hub import connect, serving
from .stand_ins import folders, names_that_the_text_leaves_out

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "pyvene-interventions.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass
class Snippet:
    """One block of the page: where it begins, its code, and the section that it stands in."""

    line: int
    code: str
    section: str

    def __str__(self) -> str:
        return f"line {self.line} ({self.section})"


def snippets() -> list[Snippet]:
    text = PAGE.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        headings = re.findall(r"^#{2,3} (.*)$", text[: match.start()], re.MULTILINE)
        code = match.group(1).replace("import pyvene as pv", "import intervene as pv")
        found.append(Snippet(text[: match.start(1)].count("\n") + 1, code, headings[-1]))
    return found


SNIPPETS = snippets()
WRONG = 'component="mlp",'


@dataclass
class Run:
    """What running the page left: each block's exception or None, and the names after each block."""

    errors: list[Exception | None]
    names: list[dict[str, Any]]

    def after(self, text: str) -> dict[str, Any]:
        """The names after the block that contains ``text``."""
        return next(n for n, s in zip(self.names, SNIPPETS, strict=True) if text in s.code)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    here = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch, serving({"a-token": "username"}) as hub:
        patch.chdir(here)
        folders(Path())
        # A hub on this machine, with the reader logged in as the text's "username".
        connect(hub, patch, tmp_path_factory.mktemp("hub"), speaks_xet=True)
        patch.setenv("HF_TOKEN", "a-token")
        names: dict[str, Any] = {"__name__": "reference", "pv": pv, **names_that_the_text_leaves_out()}
        run = Run([], [])
        for snippet in SNIPPETS:
            # Blank lines before the block make a traceback point at the page's own line.
            code = compile("\n" * (snippet.line - 1) + snippet.code, str(PAGE), "exec")
            try:
                exec(code, names)
                run.errors.append(None)
            except Exception as error:
                run.errors.append(error)
            run.names.append(dict(names))
        yield run


@pytest.mark.parametrize("index", range(len(SNIPPETS)), ids=[str(s) for s in SNIPPETS])
def test_runs(page: Run, index: int) -> None:
    error = page.errors[index]
    if WRONG in SNIPPETS[index].code:
        # The block shows a mistake first, which is told apart from what is right below it.
        assert isinstance(error, pv.UnknownSiteError)
        assert all(name in str(error) for name in ("mlp_input", "mlp_activation", "mlp_output"))
        right = SNIPPETS[index].code.partition("# RIGHT")[2]
        exec("#" + right, {"pv": pv})
    elif error is not None:
        raise error


def test_the_page_has_its_snippets() -> None:
    assert len(SNIPPETS) == 13
    assert sum(WRONG in s.code for s in SNIPPETS) == 1


def test_workflow_1_restores_the_clean_run_at_every_layer(page: Run) -> None:
    names = page.after("run_causal_trace")
    results = names["results"]
    with torch.no_grad():
        model, clean, corrupted = names["model"], names["clean_tokens"], names["corrupted_tokens"]
        site = pv.adapt(model)["layer.1.block_output"].at(positions=-1)
        value = pv.adapt(model).read([site], **clean)[site]
        with pv.adapt(model).session(writes={site: value}):
            logits = model(**corrupted).logits[0, -1]
    expected = torch.softmax(logits, -1)[names["tokenizer"].encode(" Seattle")[0]]
    assert results[1, -1] == expected


def test_workflow_2_prints_a_difference_by_layer(page: Run) -> None:
    names = page.after("def patch_attention")
    assert len(names["results"]) == 12
    assert len(set(names["results"])) > 1


def test_workflow_3_trains_the_rotation_alone(page: Run) -> None:
    names = page.after("optimizer.step()")
    rotation = names["rotation"]
    assert rotation.weight.shape == (64, 64)
    torch.testing.assert_close(rotation.weight.T @ rotation.weight, torch.eye(64), atol=1e-4, rtol=0)
    assert all(p.grad is None and p.requires_grad for p in names["model"].parameters())


def test_workflow_4_steers_what_is_generated(page: Run) -> None:
    names = page.after("Generate with steering")
    model, inputs, outputs = names["model"], names["inputs"], names["outputs"]
    plain = model.generate(**inputs, max_new_tokens=100, do_sample=False)
    assert outputs.shape[0] == 1
    assert torch.equal(outputs[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    assert not torch.equal(outputs, plain)


def test_saved_and_shared_interventions_come_back(page: Run) -> None:
    saved = page.after("Generate with steering")["intervenable"]
    loaded = page.after("./my_intervention")["intervenable"]
    assert loaded is not saved
    assert loaded.sites == saved.sites
    for one, other in zip(saved.interventions.values(), loaded.interventions.values(), strict=True):
        assert type(one[0]) is type(other[0])
        assert torch.equal(one.source_representation, other.source_representation)

"""Every example runs, small: it draws its picture, writes its figures, and finds what it looks for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
import typer
from typer.testing import CliRunner

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
Run = Callable[..., str]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports an example by its name, as a script beside it would."""
    before = set(sys.modules)
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield import_module
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(EXAMPLES)):
            del sys.modules[name]


def run(module: ModuleType, name: str, folder: Path, *arguments: str) -> str:
    """The page that the example wrote; its picture is looked at too."""
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer()
        app.command()(module.main)
    page, picture = folder / "page.md", folder / "picture.png"
    page.write_text(f"before\n<!-- figures: {name} -->\nold\n<!-- end of figures -->\nafter\n")
    result = CliRunner().invoke(app, [*arguments, "--page", str(page), "--picture", str(picture)])
    assert result.exit_code == 0, result.output
    assert picture.stat().st_size > 5000
    text = page.read_text()
    assert text.startswith("before\n<!-- figures: ")
    assert text.endswith("<!-- end of figures -->\nafter\n")
    assert "old" not in text
    return text


def cells(page: str) -> list[list[str]]:
    """The table's rows, without its head."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_hierarchical_equality(example: Callable[[str], ModuleType], tmp_path: Path) -> None:
    module = example("hierarchical_equality")
    small = ["--mlp-examples", "20480", "--mlp-epochs", "40", "--examples", "4096", "--epochs", "60", "--layers", "2"]
    page = run(module, "hierarchical_equality", tmp_path, *small, "--baselines", "1")
    (_, das, *_, chance) = cells(page)[0]
    assert float(das) > 0.95
    assert float(das) > float(chance) + 0.15


def test_planted_direction(example: Callable[[str], ModuleType], tmp_path: Path) -> None:
    page = run(example("planted"), "planted_direction", tmp_path, "direction", "--width", "32", "--steps", "400")
    (_, cosine, accuracy), (_, _, chance) = cells(page)
    assert float(cosine) > 0.95
    assert float(accuracy) > 0.9 > float(chance)


def test_planted_subspace(example: Callable[[str], ModuleType], tmp_path: Path) -> None:
    options = ["--width", "16", "--steps", "500", "--dimensions", "4"]
    page = run(example("planted"), "planted_subspace", tmp_path, "subspace", *options)
    ((_, found, _, share, accuracy),) = cells(page)
    assert int(found) == 4
    assert float(share) > 0.95
    assert float(accuracy) > 0.8


def test_ioi(example: Callable[[str], ModuleType], tmp_path: Path) -> None:
    page = run(example("ioi"), "ioi", tmp_path, "--layers", "2", "--width", "16", "--steps", "5", "--sentences", "8")
    rows = cells(page)
    assert [row[0] for row in rows] == [f"{layer}.{head}" for layer in range(2) for head in range(4)]


def test_the_direct_effects_of_all_heads_add_up_with_the_rest_of_the_stream(
    example: Callable[[str], ModuleType],
) -> None:
    ioi = example("ioi")
    data = ioi.Data(0)
    model = ioi.train(2, 4, 16, 3, data, 0)
    sentences = data.draw(6, template=0)
    heads = ioi.inspect(
        model, sentences, ioi.patch(model, sentences, "head_attention_value_output", ("layer", "head")), data.names
    )

    # What the heads add: the stream as it is, less the stream without attention's outputs, biases left out.
    def by_hand() -> torch.Tensor:
        import intervene

        adapted = intervene.adapt(model)
        final = adapted.site("block_output", 1)
        kept = adapted.read([final], input_ids=sentences.ids)[final][:, -1]
        writes = {adapted.site("attention_output", layer).at(positions=-1): 0.0 for layer in range(2)}
        mlps = {
            adapted.site("mlp_output", layer): adapted.read([f"layer.{layer}.mlp_output"], input_ids=sentences.ids)[
                f"layer.{layer}.mlp_output"
            ]
            for layer in range(2)
        }
        with torch.no_grad(), adapted.session(reads=[final], writes={**writes, **mlps}) as session:
            model(input_ids=sentences.ids)
        removed = kept - session.values[final][:, -1]
        deviation = kept.var(-1, unbiased=False).add(model.transformer.ln_f.eps).sqrt()
        removed = removed - sum(block.attn.c_proj.bias for block in model.transformer.h)
        removed = (removed - removed.mean(-1, keepdim=True)) / deviation[:, None] * model.transformer.ln_f.weight
        logits = removed @ model.lm_head.weight.T
        rows = torch.arange(len(logits))
        return (logits[rows, sentences.io] - logits[rows, sentences.s]).mean()

    torch.testing.assert_close(heads.direct.sum(), by_hand(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("recipe", ["contrast", "heads", "ablate"])
def test_steering(example: Callable[[str], ModuleType], tmp_path: Path, recipe: str) -> None:
    """In full: each takes a few seconds, on the model that ships."""
    rows = cells(run(example("steering"), f"steering_{recipe}", tmp_path, recipe))
    if recipe == "contrast":
        strongest = rows[-1]
        assert float(strongest[1]) > 0.9 > 0.1 > float(strongest[3])
    elif recipe == "heads":
        at_8 = next(row for row in rows if row[0] == "8")
        assert float(at_8[1]) > 0.9 > float(at_8[2]) + 0.3
    else:
        mean = rows[-1]
        assert float(mean[1]) < 0.05
        assert float(mean[2]) > 0.95


def test_a_page_without_a_place_for_the_figures_is_refused(
    example: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    figures = example("figures")
    page = tmp_path / "page.md"
    page.write_text("nothing here")
    with pytest.raises(ValueError, match="has no <!-- figures: x -->"):
        figures._write(page, "x", "text")
    assert page.read_text() == "nothing here"

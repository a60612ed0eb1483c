"""Every example runs, small: it draws its picture, writes its figures, and finds what it looks for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import typer
from matplotlib.figure import Figure
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
    tried = ["--widths", "32", "--rates", "0.01"]
    page = run(module, "hierarchical_equality", tmp_path, *small, *tried, "--baselines", "1")
    (_, validation, das, *_, chance) = cells(page)[0]
    assert float(validation) > 0.95
    assert float(das) > 0.95
    assert float(das) > float(chance) + 0.15


def test_hierarchical_equality_is_chosen_on_validation_swaps(
    example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = example("hierarchical_equality")
    drawn, counterfactuals = [], module.counterfactuals

    def drawing(examples: int, batch_size: int, seed: int) -> Any:
        drawn.append(seed)
        return counterfactuals(examples, batch_size, seed)

    monkeypatch.setattr(module, "counterfactuals", drawing)
    outcome = module.run([4, 8], [1e-2, 1e-3], 1, 1024, 1, 1024, 1, 1, 0)
    assert len(set(drawn)) == 3
    best, *others = outcome.tried
    assert len(others) == 3
    assert all(max(best.validation) >= max(one.validation) for one in others)
    test = counterfactuals(2560, 256, drawn[2])
    assert outcome.das == [module.by_kind(one, test) for one in best.aligned]


def test_price_tagging(example: Callable[[str], ModuleType], tmp_path: Path) -> None:
    module = example("price_tagging")
    small = ["--layers", "1", "--width", "16", "--steps", "20", "--train-prompts", "256", "--examples", "128"]
    page = run(module, "price_tagging", tmp_path, *small, "--epochs", "1")
    *found, nothing = cells(page)
    assert [row[:2] for row in found] == [["0", "[price]"], ["0", ":"]]
    # Half of the swaps at random leave the value as it was, and of the rest some leave the answer.
    assert 0.5 < float(nothing[2]) < 0.9
    assert all(0 <= float(number) <= 1 for row in found for number in row[2:4])


def test_the_price_is_swapped_with_its_truth_value_where_a_rule_carries_it(
    example: Callable[[str], ModuleType],
) -> None:
    """The causal model, the prompts and the measure agree: a swap of the whole price is right where it should be."""
    module = example("price_tagging")
    causal = module.causal_model()
    base, source = {"lower": 10, "price": 5, "upper": 30}, {"lower": 10, "price": 20, "upper": 30}
    assert not causal.run_forward(base)["answer"]
    assert causal.run_interchange(base, {"above lower": source})["answer"]
    assert not causal.run_interchange(base, {"below upper": source})["answer"]
    ids = module.tokens(base)
    assert len(ids) == len(module.PROMPT)
    assert [int(ids[module.PROMPT.index(f"[{name}]")]) for name in base] == [10, 5, 30]
    answers = {module.answer({"answer": value}).item() for value in (True, False)}
    assert len(answers) == 2
    assert answers.isdisjoint(range(module.PRICES))


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


def test_the_terminal_shows_what_stands_in_brackets(
    example: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [["[price]", "[red]"]]
    example("figures").report("x", "of [a]", ["[b]", "c"], rows, seconds=1.0, figure=Figure(), picture=None, page=None)
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("of [a]", "[b]", "[price]", "[red]"))

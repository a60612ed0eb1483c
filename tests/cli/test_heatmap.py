"""The heatmap in the terminal: what is shown with and without colour, wide and narrow."""

from __future__ import annotations

import io
import re

import pytest
import torch
from rich.console import Console

from intervene.cli.heatmap import Heatmap
from intervene.errors import SweepError
from intervene.sweeps import Axis, SweepResult


def result(values: torch.Tensor, tokens: tuple[str, ...], metric: str = "probability") -> SweepResult:
    """Of values (layers, positions) between base 0 and source 1."""
    layers, positions = values.shape
    axes = (Axis("layer", tuple(range(layers))), Axis("position", tuple(range(positions)), tokens))
    return SweepResult(values, values[None], axes, metric, 0.0, 1.0, "loop")


def draw(heatmap: Heatmap, width: int = 80, colour: str | None = None, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    kind = {"force_terminal": True, "color_system": colour} if colour else {"no_color": True, "color_system": None}
    Console(file=file, width=width, legacy_windows=False, **kind).print(heatmap)
    return raw.getvalue().decode(encoding)


VALUES = torch.tensor([[0.0, 0.25, 1.0], [0.5, 0.75, 0.999]])
TOKENS = ("The", "Tower*", "of")


def test_positions_go_down_and_layers_across():
    lines = draw(Heatmap(result(VALUES, TOKENS), "p(Rome)")).splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["The", "0", "▒▒", "50"],
        ["Tower*", "░░", "25", "▓▓", "75"],
        ["of", "██100", "██100"],
        ["0", "1"],
    ]
    assert lines[4].strip() == "layer"
    assert lines[5] == "0 [ ][░][▒][▓][█] 1  p(Rome), cells in %"


def test_an_ascii_terminal_gets_ascii():
    text = draw(Heatmap(result(VALUES, ("Straße", "a-very-long-token-indeed*", "of"))), encoding="ascii")
    assert text.isascii()
    assert "Stra\\xdfe" in text
    assert "a-very-long-tok..*" in text
    assert "##100" in text


def test_colours_are_the_cells_background():
    text = draw(Heatmap(result(VALUES, TOKENS)), colour="truecolor")
    assert "\x1b[38;2;0;0;0;48;2;252;251;253m  0   " in text
    assert "48;2;63;0;125m 100  " in text
    assert "░" not in text


def test_sixteen_colours_are_too_few():
    assert "██100" in draw(Heatmap(result(VALUES, TOKENS)), colour="standard")


@pytest.mark.parametrize("colour", [None, "truecolor"])
@pytest.mark.parametrize(("layers", "width"), [(6, 80), (12, 80), (48, 80), (48, 40), (96, 30), (3, 12)])
def test_nothing_is_wider_than_the_terminal_and_every_layer_is_shown(layers, width, colour):
    values = torch.linspace(0, 1, layers)[:, None].expand(layers, 2)
    text = draw(Heatmap(result(values, ("a", "subject*"))), width, colour)
    lines = [Console(width=999).render_str(line, markup=False) for line in text.splitlines()]
    assert max(len(_plain(line.plain)) for line in lines[:-1]) <= width
    rows = [_plain(line.plain) for line in lines if _plain(line.plain).startswith("       a ")]
    size = min(6, max(1, (width - 9) // layers))
    if colour:
        assert sum(len(row) - 9 for row in rows) == layers * size


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_a_metric_other_than_a_probability_has_no_percentages():
    text = draw(Heatmap(result(4 * VALUES - 1, TOKENS, "logit difference")))
    assert "%" not in text
    assert "█████" in text
    assert text.splitlines()[-1].startswith("-1 [ ][░][▒][▓][█] 3  logit difference")


def test_values_that_are_not_numbers_are_question_marks():
    values = VALUES.clone()
    values[0, 0] = float("nan")
    assert "?" in draw(Heatmap(result(values, TOKENS))).splitlines()[0]


def test_equal_values_have_equal_cells():
    flat = SweepResult(
        torch.full((2, 1), 0.5),
        torch.full((1, 2, 1), 0.5),
        (Axis("layer", (0, 1)), Axis("position", (0,), ("a",))),
        "probability",
        0.5,
        0.5,
        "loop",
    )
    assert draw(Heatmap(flat)).splitlines()[0].split() == ["a", "50", "50"]


def test_tokens_that_have_no_print_are_escaped():
    assert "\\n" in draw(Heatmap(result(VALUES, ("\n", "b", "[red]"))))
    assert "[red]" in draw(Heatmap(result(VALUES, ("\n", "b", "[red]"))))


def test_one_axis_is_one_column():
    line = SweepResult(
        torch.tensor([0.0, 1.0]),
        torch.tensor([[0.0, 1.0]]),
        (Axis("position", (0, 1), ("a", "b*")),),
        "probability",
        0.0,
        1.0,
        "loop",
    )
    assert [row.split() for row in draw(Heatmap(line)).splitlines()[:2]] == [["a", "0"], ["b*", "██100"]]


def test_three_axes_are_refused():
    axes = (Axis("component", ("x",)), Axis("layer", (0,)), Axis("position", (0,)))
    cube = SweepResult(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1, 1), axes, "probability", 0.0, 1.0, "loop")
    with pytest.raises(SweepError, match="select"):
        Heatmap(cube)

"""A sweep's result: axes, texts, exports and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import intervene
from intervene import SweepError, SweepResult
from intervene.sweeps import Axis

TOKENS = ("The*", "Needle*", "is", "in")


def result(**changes: Any) -> SweepResult:
    """Three layers by four positions, two examples, values 0 to 11."""
    values = torch.arange(12.0).reshape(3, 4)
    fields: dict[str, Any] = {
        "values": values,
        "samples": torch.stack([values - 1, values + 1]),
        "axes": (Axis("layer", (0, 2, 5)), Axis("position", (0, 1, 2, 3), TOKENS)),
        "metric": "probability",
        "base": 0.25,
        "source": 0.75,
        "method": "growing batch",
        "title": "p(Seattle)",
        "notes": {"noise": {"sigma": 3.0, "samples": 2, "seed": 0}},
    }
    return SweepResult(**{**fields, **changes})


def cube() -> SweepResult:
    """Components by layers by positions."""
    values = torch.arange(24.0).reshape(2, 3, 4)
    axes = (Axis("component", ("mlp_output", "attention_output")), *result().axes)
    return result(values=values, samples=values[None], axes=axes)


def test_axes_of_a_sweep() -> None:
    model = intervene.tiny("gpt2")
    ids = torch.tensor([[5, 6, 7]])
    found = intervene.sweep(
        model,
        base={"input_ids": ids},
        source={"input_ids": ids + 9},
        metric=lambda logits: logits[:, 3],
        component=["mlp_output", "attention_weight"],
        attention="eager",
        layers=[-1, 0],
        positions=[2, 0],
        tokens=["a", "b", "c"],
        progress=False,
    )
    assert [(a.name, a.labels, a.texts) for a in found.axes] == [
        ("component", ("mlp_output", "attention_pattern"), None),
        ("layer", (2, 0), None),
        ("position", (2, 0), ("c", "a")),
    ]
    assert found.values.shape == (2, 2, 2)
    assert found.samples.shape == (1, 2, 2, 2)
    assert found.title == "<lambda> after patching mlp_output, attention_weight"


def test_axis_by_name() -> None:
    assert result().axis("position").texts == TOKENS
    with pytest.raises(SweepError, match="no axis 'head'; there are layer, position"):
        result().axis("head")


def test_numpy() -> None:
    values = result().numpy()
    assert values.dtype == np.float32
    assert values.tolist() == torch.arange(12.0).reshape(3, 4).tolist()


def test_to_pandas() -> None:
    frame = result().to_pandas()
    assert list(frame.columns) == ["layer", "position", "token", "value"]
    assert len(frame) == 12
    row = frame[(frame.layer == 5) & (frame.position == 1)].iloc[0]
    assert (row.token, row.value) == ("Needle*", 9.0)
    assert list(cube().to_pandas().columns) == ["component", "layer", "position", "token", "value"]


def test_to_dict_is_plain_data() -> None:
    plain = json.loads(json.dumps(result().to_dict()))
    assert plain["values"][2] == [8.0, 9.0, 10.0, 11.0]
    assert plain["axes"] == [
        {"name": "layer", "labels": [0, 2, 5]},
        {"name": "position", "labels": [0, 1, 2, 3], "texts": list(TOKENS)},
    ]
    assert (plain["base"], plain["source"], plain["method"]) == (0.25, 0.75, "growing batch")
    assert plain["noise"] == {"sigma": 3.0, "samples": 2, "seed": 0}


def test_best() -> None:
    assert result().best(2) == [({"layer": 5, "position": 3}, 11.0), ({"layer": 5, "position": 2}, 10.0)]
    assert len(result().best(100)) == 12


def test_select() -> None:
    chosen = cube().select(component="attention_output", layer=2)
    assert [a.name for a in chosen.axes] == ["position"]
    assert chosen.values.tolist() == [16.0, 17.0, 18.0, 19.0]
    assert chosen.samples.tolist() == [[16.0, 17.0, 18.0, 19.0]]
    assert chosen.title == "p(Seattle), component attention_output, layer 2"
    with pytest.raises(SweepError, match=r"axis layer has no 1; it has \[0, 2, 5\]"):
        cube().select(layer=1)
    with pytest.raises(SweepError, match="no axis 'head'"):
        cube().select(head=1)


def test_repr_says_what_was_found() -> None:
    assert repr(result()) == (
        "<SweepResult 3 layers x 4 positions of probability: 0 to 11, base 0.25, source 0.75 (growing batch)>"
    )


def _shown(ticks: Any) -> list[str]:
    return [t.get_text() for t in ticks]


def test_heatmap(tmp_path: Path) -> None:
    path = tmp_path / "trace.png"
    axes = result().plot(path=path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert _shown(axes.get_yticklabels()) == list(TOKENS)
    assert _shown(axes.get_xticklabels()) == ["0", "2", "5"]
    assert axes.get_xlabel() == "restored layer"
    assert axes.get_title() == "p(Seattle)"
    (image,) = axes.images
    # Tokens go down and layers across, as in Meng et al.'s figures.
    assert np.array_equal(np.asarray(image.get_array()), result().numpy().T)
    assert image.colorbar is not None
    assert image.colorbar.ax.get_ylabel() == "probability"


def test_heatmap_of_heads() -> None:
    heads = result(axes=(Axis("layer", (0, 2, 5)), Axis("head", (0, 1, 2, 3))), notes={}, title="")
    axes = heads.plot()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("patched layer", "head")
    assert axes.get_title() == "probability after patching"


def test_plot_on_given_axes() -> None:
    from matplotlib.figure import Figure

    given = Figure().subplots()
    assert result().plot(given) is given


def test_line(tmp_path: Path) -> None:
    path = tmp_path / "line.svg"
    axes = result().select(position=1).plot(path=path)
    assert path.stat().st_size > 0
    labels = [line.get_label() for line in axes.lines]
    assert labels == ["patched", "base", "source"]
    assert np.asarray(axes.lines[0].get_ydata()).tolist() == [1.0, 5.0, 9.0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("restored layer", "probability")


def test_line_without_a_source() -> None:
    axes = result(source=None).select(layer=0).plot()
    assert [line.get_label() for line in axes.lines] == ["patched", "base"]
    assert _shown(axes.get_xticklabels()) == list(TOKENS)


def test_no_plot_of_three_axes() -> None:
    with pytest.raises(SweepError, match=r"\['component', 'layer', 'position'\].*select"):
        cube().plot()


def test_a_written_number_leaves_no_source() -> None:
    model = intervene.tiny("gpt2")

    def metric(logits: Tensor) -> Tensor:
        return logits[:, 3]

    found = intervene.sweep(model, base={"input_ids": torch.tensor([[5, 6]])}, source=0, metric=metric, progress=False)
    assert found.source is None
    assert json.loads(json.dumps(found.to_dict()))["source"] is None

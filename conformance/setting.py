"""Settings: the model variant, mode and inputs that hypothesis draws for one example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from .subject import Subject

ROWS, COLUMNS = 3, 6


@dataclass(frozen=True)
class Setting:
    """Everything about an example but the intervention.

    Attributes:
        model: the model class.
        attention: the attention implementation, None for the model's own.
        dtype: the weights' dtype.
        training: whether the model is in training mode (its dropout is then seeded alike in every run).
        grad: whether gradients are enabled.
        rows: examples in the batch.
        columns: positions, padding included.
        padding: "none", "left" or "right".
        padded: how many columns of each row are padding.
        embeds: whether the model is given embeddings in place of ids.
        past: how many positions an earlier call has left in the cache that this one continues from; 0 for no cache.
        seed: of the inputs and of every random value.
    """

    model: str
    attention: str | None
    dtype: str = "float32"
    training: bool = False
    grad: bool = False
    rows: int = 1
    columns: int = 2
    padding: str = "none"
    padded: tuple[int, ...] = ()
    embeds: bool = False
    past: int = 0
    seed: int = 0

    def __str__(self) -> str:
        words = [self.model, self.dtype, self.attention or "", "training" if self.training else "eval"]
        words += ["with gradients" if self.grad else ""]
        sizes = f"{self.rows} row(s) of {self.columns} column(s)"
        pads = f", {self.padding}-padded by {list(self.padded)}" if self.padding != "none" else ""
        given = ", as embeddings" if self.embeds else ""
        given += f", after {self.past} in the cache" if self.past else ""
        return f"{' '.join(w for w in words if w)}; {sizes}{pads}{given}; seed {self.seed}"


@st.composite
def settings(
    draw: st.DrawFn,
    subject: Subject,
    variants: Sequence[tuple[str, str | None]],
    *,
    dtypes: Sequence[str] = ("float32", "bfloat16"),
    modes: bool = True,
    padding: bool = True,
    sides: Sequence[str] = ("right", "left"),
    rows: int = 1,
    columns: int = 1,
    past: bool | None = None,
) -> Setting:
    """Settings for one of ``variants``, of at least ``rows`` x ``columns``; with ``past`` one column that continues
    from a cache, which None leaves to be drawn for models whose forward is then another (a scan's one-step form)."""
    model, attention = draw(st.sampled_from(list(variants)))
    count = draw(st.integers(rows, ROWS))
    if past is None:
        past = draw(st.booleans()) if subject.has("state_space", model) else False
    earlier = draw(st.integers(1, COLUMNS)) if past else 0
    length = 1 if past else subject.columns(model) or draw(st.integers(columns, COLUMNS))
    takes = subject.tower.inputs
    possible = ["none"]
    if padding and "attention_mask" in takes and length > 1:
        possible += [s for s in sides if s != "left" or subject.has("left_padding", model)]
    side = draw(st.sampled_from(possible))
    padded: tuple[int, ...] = ()
    if side != "none":
        one = st.integers(0, length - 1)
        padded = tuple(draw(st.lists(one, min_size=count, max_size=count)))
    return Setting(
        model,
        attention,
        draw(st.sampled_from(list(dtypes))),
        draw(st.booleans()) if modes else False,
        draw(st.booleans()) if modes else False,
        count,
        length,
        side,
        padded,
        draw(st.booleans()) if "inputs_embeds" in takes and "input_ids" in takes else False,
        earlier,
        draw(st.integers(0, 2**16)),
    )


def make_inputs(subject: Subject, model: nn.Module, setting: Setting) -> dict[str, Any]:
    """The model's inputs for a setting, drawn from its seed."""
    generator = torch.Generator().manual_seed(setting.seed)
    if subject.make_inputs is not None:
        return _placed(subject.make_inputs(model, setting.rows, setting.columns, generator), subject.device)
    takes = subject.tower.inputs
    inputs: dict[str, Any] = subject.adapter.example_inputs(model, setting.rows, setting.columns, generator)
    dtype = getattr(torch, setting.dtype)
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    if setting.padding != "none":
        mask = _mask(setting)
        inputs["attention_mask"] = mask
        if "position_ids" in takes:
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    inputs = _placed(inputs, subject.device)
    if setting.embeds:
        embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
        inputs["inputs_embeds"] = embedding(inputs.pop("input_ids")).detach()
    return inputs


def _placed(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def make_past(subject: Subject, model: nn.Module, setting: Setting) -> dict[str, Any]:
    """The arguments with which a call continues from an earlier one of the setting's ``past`` positions."""
    if not setting.past:
        return {}
    earlier = replace(setting, columns=setting.past, past=0, seed=setting.seed + 1)
    with torch.no_grad():
        return dict(subject.adapter.example_past(model, make_inputs(subject, model, earlier)))


def real(setting: Setting) -> Tensor:
    """Which columns of each row are real, (rows, columns) of bool: padding's own outputs mean nothing."""
    if setting.padding == "none":
        return torch.ones(setting.rows, setting.columns, dtype=torch.bool)
    return _mask(setting).bool()


def _mask(setting: Setting) -> Tensor:
    columns = torch.arange(setting.columns).expand(setting.rows, -1)
    padded = torch.tensor(setting.padded).unsqueeze(1)
    real = columns >= padded if setting.padding == "left" else columns < setting.columns - padded
    return real.long()

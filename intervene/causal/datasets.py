"""Factual and counterfactual data from a causal model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import CausalModelError
from . import sampling

if TYPE_CHECKING:
    from .model import CausalModel, Setting

Sampler = Callable[..., Mapping[str, Any]]
Encoder = Callable[[Mapping[str, Any]], Tensor]


@dataclass(frozen=True)
class Encoding:
    """How settings become an example's entries.

    Attributes:
        model: whose inputs and outputs are encoded.
        input_function, output_function: setting -> tensor; the model's own where None.
        device: of the tensors.
        tensors: False leaves settings as they are.
    """

    model: CausalModel
    input_function: Encoder | None
    output_function: Encoder | None
    device: str
    tensors: bool

    def input(self, setting: Mapping[str, Any]) -> Any:
        """An input as its tensor."""
        return (self.input_function or self.model.input_to_tensor)(setting).to(self.device) if self.tensors else setting

    def label(self, run: Mapping[str, Any]) -> Any:
        """A whole run as the tensor of its label."""
        return (self.output_function or self.model.output_to_tensor)(run).to(self.device) if self.tensors else run

    def sources(self, inputs: Sequence[Mapping[str, Any]], slots: int, base: Any) -> Any:
        """Sources in as many slots as a model has intermediate variables; what is left over is zeros."""
        empty = slots - len(inputs)
        if not self.tensors:
            return [*inputs, *({} for _ in range(empty))]
        return torch.stack([*(self.input(i) for i in inputs), *(torch.zeros_like(base) for _ in range(empty))])

    def number(self, intervention_id: Any) -> Any:
        """An intervention's id, (1,)."""
        return torch.tensor([intervention_id], device=self.device) if self.tensors else [intervention_id]


def factual(
    model: CausalModel,
    size: int,
    sampler: Sampler | None,
    keep: Callable[[Setting], bool] | None,
    encode: Encoding,
    draw: sampling.Draw,
) -> list[dict[str, Any]]:
    """``size`` inputs with the model's outputs."""
    draw_input = sampler or (lambda: sampling.uniform_input(model, draw))
    examples: list[dict[str, Any]] = []
    refused = 0
    while len(examples) < size:
        setting = dict(draw_input())
        if keep is not None and not keep(setting):
            refused = _refuse(refused, "input")
            continue
        refused = 0
        run = model.run_forward(setting)
        examples.append({"input_ids": encode.input(setting), "labels": encode.label(run)})
    return examples


def counterfactual(
    model: CausalModel,
    size: int,
    batch_size: int,
    intervention_id: Callable[[Setting], Any] | None,
    sampler: Sampler | None,
    intervention_sampler: Callable[[], Setting] | None,
    keep: Callable[[Setting], bool] | None,
    encode: Encoding,
    draw: sampling.Draw,
) -> list[dict[str, Any]]:
    """Bases, sources, and the outputs of the interchange."""
    if batch_size < 1 or size % batch_size:
        raise CausalModelError(f"size is a multiple of batch_size; found {size} and {batch_size}")
    between = model.intermediates
    identify = intervention_id or (lambda chosen: sum(1 << i for i, v in enumerate(between) if v in chosen))
    draw_intervention = intervention_sampler or (lambda: sampling.intervention(model, draw))
    draw_base = sampler or (lambda: sampling.uniform_input(model, draw))
    draw_source = _source_sampler(model, draw_base)
    examples: list[dict[str, Any]] = []
    refused = 0
    while len(examples) < size:
        intervention = draw_intervention()
        model._known(intervention)
        if keep is not None and not keep(intervention):
            refused = _refuse(refused, "intervention")
            continue
        refused = 0
        chosen = [v for v in model.variables if v in intervention]
        if len(chosen) > len(between):
            raise CausalModelError(
                f"an intervention sets {', '.join(chosen)}, and there is room for as many sources as there are "
                f"intermediate variables: {len(between)}"
            )
        for _ in range(batch_size):
            base = dict(draw_base())
            sources = {v: dict(draw_source(v, intervention[v])) for v in chosen}
            encoded = encode.input(base)
            examples.append(
                {
                    "input_ids": encoded,
                    "source_input_ids": encode.sources(list(sources.values()), len(between), encoded),
                    "labels": encode.label(model.run_interchange(base, sources)),
                    "base_labels": encode.label(model.run_forward(base)),
                    "intervention_id": encode.number(identify(intervention)),
                }
            )
    return examples


def _source_sampler(model: CausalModel, sampler: Sampler) -> Callable[[str, Any], Mapping[str, Any]]:
    """A draw of an input that gives a variable a value, asked of ``sampler`` where it can be asked."""
    accepted = inspect.signature(sampler).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())
    if open_ended or {"output_var", "output_var_value"} <= set(accepted):
        return lambda variable, value: sampler(output_var=variable, output_var_value=value)
    return lambda variable, value: sampling.input_giving(model, sampler, variable, value)


def _refuse(refused: int, what: str) -> int:
    if refused + 1 >= sampling.TRIES:
        raise CausalModelError(f"the filter refused {sampling.TRIES:,} {what}s in a row")
    return refused + 1


def concatenated(setting: Mapping[str, Any], variables: Sequence[str]) -> Tensor:
    """The variables' values in one float32 vector.

    Raises:
        CausalModelError: a value that is no number or array of numbers.
    """
    parts = []
    for variable in variables:
        if variable not in setting:
            raise CausalModelError(f"the setting has no value for {variable!r}; it has {', '.join(setting)}")
        try:
            parts.append(torch.as_tensor(setting[variable], dtype=torch.float32).reshape(-1))
        except (TypeError, ValueError, RuntimeError) as error:
            raise CausalModelError(
                f"the value of {variable!r}, {setting[variable]!r}, is no number or array of numbers: pass "
                f"input_function= or output_function= to encode it ({error})"
            ) from error
    return torch.cat(parts)

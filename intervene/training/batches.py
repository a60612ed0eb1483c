"""How a batch of counterfactual data becomes a call of an intervenable model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import TrainingError

Prepare = Callable[[Any], "Call | Mapping[str, Any]"]

_ALONGSIDE = ("attention_mask", "position_ids", "token_type_ids")
_CALLED_WITH = ("base", "sources", "unit_locations", "subspaces", "source_representations")


@dataclass
class Call:
    """One call of an intervenable model and what should come out of it.

    Attributes:
        base: the base's inputs.
        sources: the sources' inputs, one for each intervention or group; None where no intervention needs any.
        labels: what the model should say after the interchange.
        unit_locations, subspaces, source_representations: as an `IntervenableModel` takes them.
    """

    base: Any
    sources: Any = None
    labels: Any = None
    unit_locations: Mapping[str, Any] | None = None
    subspaces: Any = None
    source_representations: Any = None
    extra: dict[str, Any] = field(default_factory=dict)

    def run(self, intervenable: Any) -> Any:
        """The model's intervened output."""
        _, output = intervenable(
            self.base,
            self.sources,
            self.unit_locations,
            subspaces=self.subspaces,
            source_representations=self.source_representations,
            **self.extra,
        )
        return output

    def to(self, device: torch.device) -> Call:
        """The same with every tensor on ``device``; what was handed in stays where it is."""
        moved = {name: _moved(value, device) for name, value in vars(self).items()}
        return Call(**moved)


def call_of(batch: Any) -> Call:
    """The call that a batch stands for, in the forms that are common.

    - a mapping with ``base``, ``sources`` and ``labels``, and with ``unit_locations`` and ``subspaces`` where wanted
    - a mapping with ``input_ids``, ``source_input_ids`` and ``labels``, as pyvene's data and
      `CausalModel.generate_counterfactual_dataset` have: ``source_input_ids`` is like ``input_ids`` for one source,
      and has the sources as its second axis for several. ``attention_mask`` goes with ``input_ids``,
      ``source_attention_mask`` with the sources; keys such as ``"source_0->base.0.pos"`` give locations.
    - a tuple ``(base, source, labels)``; ``source`` may be a list of several. A tensor of whole numbers stands for
      ``input_ids``, any other for the model's one positional input.

    Raises:
        TrainingError: the batch is none of these; the message says what was found.
    """
    if isinstance(batch, Mapping) and "base" in batch:
        unknown = [k for k in batch if k not in (*_CALLED_WITH, "labels")]
        if unknown:
            raise TrainingError(f"a batch with 'base' has no {unknown[0]!r}; it has {', '.join(_CALLED_WITH)}, labels")
        return Call(**batch)
    if isinstance(batch, Mapping) and "input_ids" in batch:
        return _tokens(batch)
    if isinstance(batch, (tuple, list)) and len(batch) == 3:
        base, source, labels = batch
        several = isinstance(source, (list, tuple))
        return Call(_inputs(base), [_inputs(s) for s in (source if several else [source])], labels)
    found = list(batch) if isinstance(batch, Mapping) else type(batch).__name__
    raise TrainingError(
        f"a batch is a mapping with 'base', 'sources' and 'labels', one with 'input_ids', 'source_input_ids' and "
        f"'labels', or a tuple (base, source, labels); found {found}. For another form pass prepare=, a function "
        f"from a batch to such a mapping"
    )


def prepared(batch: Any, prepare: Prepare | None) -> Call:
    """The call that a batch stands for, by ``prepare`` where one is given."""
    made = batch if prepare is None else prepare(batch)
    call = made if isinstance(made, Call) else call_of(made)
    if call.labels is None:
        raise TrainingError("the batch has no labels: what the model should say after the interchange")
    return call


def _tokens(batch: Mapping[str, Any]) -> Call:
    base = {k: batch[k] for k in ("input_ids", *_ALONGSIDE) if k in batch}
    source = {k: batch[f"source_{k}"] for k in ("input_ids", *_ALONGSIDE) if f"source_{k}" in batch}
    sources: list[dict[str, Any]] | None = None
    if source:
        if source["input_ids"].dim() == base["input_ids"].dim() + 1:
            count = source["input_ids"].shape[1]
            sources = [{k: v[:, index] for k, v in source.items()} for index in range(count)]
        else:
            sources = [source]
    locations = batch.get("unit_locations") or _spread_locations(batch)
    return Call(base, sources, batch.get("labels"), locations, batch.get("subspaces"))


def _spread_locations(batch: Mapping[str, Any]) -> dict[str, Any] | None:
    """Locations that stand in columns of their own: ``"source_0->base.0.pos"`` for the source's side of the first
    source, ``.1.`` for the base's, and likewise ``.h``."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for key, value in batch.items():
        if "->" in str(key):
            link, side, unit = key.split(".", 2)
            found.setdefault(link, {}).setdefault(side, {})[unit] = (
                value.tolist() if hasattr(value, "tolist") else value
            )
    return {link: (_one_side(sides["0"]), _one_side(sides["1"])) for link, sides in found.items()} or None


def _one_side(units: Mapping[str, Any]) -> list[Any]:
    """The location of a link's one intervention; heads come before positions, as in the unit "h.pos"."""
    return [[units[u] for u in sorted(units)] if len(units) > 1 else next(iter(units.values()))]


def _inputs(value: Any) -> Any:
    if isinstance(value, Tensor) and not value.is_floating_point():
        return {"input_ids": value}
    return value


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {k: _moved(v, device) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and any(isinstance(v, (Tensor, Mapping, list, tuple)) for v in value):
        return type(value)(_moved(v, device) for v in value)
    return value

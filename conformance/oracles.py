"""Oracles: what a relation's other side is, without the adapter.

The adapter gives the component under test. Everything it is compared with comes from modules found by the spec's
own paths, called directly, or from what the model itself returns (hidden states, attentions, logits). Where a relation
names several components, the others are read through the adapter too; each of them has a relation of its own that
ties it to a module or an output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from ..components import components
from ..specs import Relation
from ..specs import relations as kinds
from ..specs.expressions import evaluate
from .case import Case
from .scan import parameter, recurrent_states, selective_scan, split
from .violation import Violation


@dataclass(frozen=True)
class Side:
    """Two tensors that a relation says are equal: the component's, and the oracle's."""

    where: str
    found: Tensor
    wanted: Tensor


_FLAGS = {
    "hidden_states": "output_hidden_states",
    "attentions": "output_attentions",
    "cross_attentions": "output_attentions",
}
"""The argument that makes transformers' models return an oracle."""


class Reading:
    """One plain forward of a case: components through the adapter, oracles from hooks of this module's own."""

    def __init__(self, case: Case, relation: Relation) -> None:
        self.case = case
        self.layers = case.subject.tower.count(case.subject.config_of(case.setting.model))
        names = [c for c in relation.components if c in case.subject.claimed]
        sites = [
            case.site(name, layer)
            for name in names
            for layer in (range(self.layers) if components()[name].layered else [None])
        ]
        recorded = (
            "" if isinstance(relation, kinds.AttentionMix) and relation.pattern else getattr(relation, "oracle", "")
        )
        flag = _FLAGS.get(recorded)
        asked: dict[str, Any] = {} if flag is None else {flag: True}
        root, _ = case.subject.root(case.model)
        with case.adapted.session(reads=sites) as session, case.outputs_of(case.model) as outputs:
            outputs[""] = case.call(**asked)
        self.output: Any = outputs[root]
        self._values = session.values

    def __call__(self, component: str, layer: int | None = None) -> Tensor:
        """The component, of the last layer where the layer is not said."""
        if not components()[component].layered:
            return self._site(component, None)
        return self._site(component, self.layers - 1 if layer is None else layer)

    def _site(self, component: str, layer: int | None) -> Tensor:
        value: Tensor = self._values[self.case.site(component, layer)]
        return value

    def recorded(self, name: str) -> Any:
        """An entry of what the model returned, or the tower's root."""
        if isinstance(self.output, Tensor):
            found = self.output if name == "output" else None
        else:
            found = self.output.get(name) if hasattr(self.output, "get") else getattr(self.output, name, None)
        if found is None:
            raise Violation(f"the model returned no {name!r} to compare with")
        return found

    def evaluated(self, expression: str) -> int:
        """An expression of the spec, for the case's config."""
        subject = self.case.subject
        return evaluate(expression, subject.tower.config_of(subject.config_of(self.case.setting.model)))

    def block(self, layer: int) -> nn.Module:
        """The block, found by the spec's own path."""
        blocks = submodule(self.case.model, self.case.subject.tower.blocks)
        block: nn.Module = blocks.get_submodule(str(layer))
        return block

    def total(self, terms: Sequence[str], layer: int | None) -> Tensor:
        """The components added up from left to right."""
        result = self(terms[0], layer)
        for term in terms[1:]:
            result = result + self(term, layer)
        return result


def submodule(root: nn.Module, paths: Sequence[str]) -> nn.Module:
    """The first of ``paths`` that exists."""
    names: dict[str, nn.Module] = dict(root.named_modules())
    for path in paths:
        if path in names:
            return names[path]
    raise Violation(f"none of the spec's module paths {', '.join(paths)} is in {type(root).__name__}")


def sides(relation: Relation, case: Case) -> list[Side]:
    """Every pair of tensors that the relation says are equal, over all layers."""
    reading = Reading(case, relation)
    with torch.no_grad():
        found = list(_sides(relation, reading))
    if not found:
        raise Violation(f"{relation.statement}: nothing to compare")
    return found


def _layers(component: str, reading: Reading) -> list[int | None]:
    return list(range(reading.layers)) if components()[component].layered else [None]


@singledispatch
def _sides(relation: Relation, reading: Reading) -> Iterator[Side]:
    raise TypeError(f"no oracle for relations of kind {relation.kind}")


@_sides.register
def _chain(relation: kinds.Chain, reading: Reading) -> Iterator[Side]:
    if relation.start:
        yield Side("layer 0", reading(relation.start), reading(relation.input, 0))
    for layer in range(reading.layers - 1):
        yield Side(f"l = {layer}", reading(relation.output, layer), reading(relation.input, layer + 1))


@_sides.register
def _hidden_states(relation: kinds.HiddenStates, reading: Reading) -> Iterator[Side]:
    recorded = reading.recorded(relation.oracle)
    for layer in range(reading.layers):
        index = layer + relation.offset
        ends = bool(relation.last) and index == len(recorded) - 1
        component = relation.last if ends else relation.component
        yield Side(f"l = {layer}", reading(component, layer), recorded[index])


@_sides.register
def _residual_sum(relation: kinds.ResidualSum, reading: Reading) -> Iterator[Side]:
    for layer in _layers(relation.result, reading):
        yield Side(f"l = {layer}", reading(relation.result, layer), reading.total(relation.terms, layer))


@_sides.register
def _projection(relation: kinds.Projection, reading: Reading) -> Iterator[Side]:
    for layer in _layers(relation.result, reading):
        root = reading.case.model if layer is None else reading.block(layer)
        terms = reading.total(relation.terms, layer)
        terms = terms if relation.position is None else terms[:, relation.position]
        module = submodule(root, relation.module)
        wanted = module(_as_weights(terms, module))
        wanted = wanted[0] if isinstance(wanted, tuple) else wanted
        found = reading(relation.result, layer)
        wanted = _in_rows(wanted, found)
        if relation.part is not None:
            wanted = _part(wanted, relation.part, reading)
        if relation.then:
            wanted = submodule(root, relation.then)(wanted)
        yield Side(f"l = {layer}", found, wanted)


def _in_rows(tokens: Tensor, found: Tensor) -> Tensor:
    """(batch, position, feature), also of a module that gives the tokens of all rows as one list."""
    listed = tokens.dim() == 2 and found.dim() == 3
    return tokens.reshape(found.shape[0], -1, tokens.shape[-1]) if listed else tokens


def _as_weights(value: Tensor, module: nn.Module) -> Tensor:
    """``value`` in the dtype of the module's weights: some models keep their residual stream in a finer one."""
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    return value if weight is None else value.to(weight.dtype)


def _part(whole: Tensor, part: kinds.Part, reading: Reading) -> Tensor:
    if part.chunk is None:
        start = reading.evaluated(part.start) if part.start else 0
        stop = reading.evaluated(part.stop) if part.stop else whole.shape[-1]
        return whole[..., start:stop]
    groups = reading.evaluated(part.per) if part.per else 1
    of = part.of or 1
    split = whole.reshape(*whole.shape[:-1], groups, of, -1)
    return split[..., part.chunk, :].flatten(-2)


@_sides.register
def _convolution(relation: kinds.Convolution, reading: Reading) -> Iterator[Side]:
    for layer in range(reading.layers):
        block = reading.block(layer)
        source = reading(relation.source, layer)
        convolved = submodule(block, relation.module)(source.transpose(1, 2))[..., : source.shape[1]]
        wanted = submodule(block, relation.activation)(convolved).transpose(1, 2)
        yield Side(f"l = {layer}", reading(relation.result, layer), wanted)


@_sides.register
def _selective_scan(relation: kinds.SelectiveScan, reading: Reading) -> Iterator[Side]:
    groups = reading.evaluated(relation.groups)
    for layer in range(reading.layers):
        module = submodule(reading.block(layer), relation.module)
        found = reading(relation.result, layer)
        wanted = selective_scan(
            reading(relation.source, layer)[..., : found.shape[-1]],
            reading(relation.step, layer) + parameter(module, relation.bias),
            split(reading(relation.input_matrix, layer), groups),
            split(reading(relation.output_matrix, layer), groups),
            -parameter(module, "A_log").exp(),
            parameter(module, "D"),
        )
        yield Side(f"l = {layer}", found, wanted)


@_sides.register
def _gate_product(relation: kinds.GateProduct, reading: Reading) -> Iterator[Side]:
    for layer in range(reading.layers):
        source, gate = reading(relation.source, layer), reading(relation.gate, layer)
        if relation.module:
            wanted = submodule(reading.block(layer), relation.module)(source, gate)
        else:
            wanted = source * torch.nn.functional.silu(gate)
        yield Side(f"l = {layer}", reading(relation.result, layer), wanted)


@_sides.register
def _recurrent_state(relation: kinds.RecurrentState, reading: Reading) -> Iterator[Side]:
    for layer, wanted in enumerate(recurrent_states(reading.case.past)):
        yield Side(f"l = {layer}", reading(relation.component, layer), wanted)


@_sides.register
def _embedding(relation: kinds.Embedding, reading: Reading) -> Iterator[Side]:
    wanted = submodule(reading.case.model, relation.module)(reading.case.inputs[relation.input])
    found = reading(relation.result)
    if wanted.dim() == 4:
        # A convolution keeps an image's rows and columns apart, and its features before them; some modules behind them.
        before = wanted.shape[1] == found.shape[-1]
        wanted = wanted.flatten(2).transpose(1, 2) if before else wanted.flatten(1, 2)
    yield Side("the model", found, wanted)


@_sides.register
def _positions(relation: kinds.Positions, reading: Reading) -> Iterator[Side]:
    start = reading.evaluated(relation.start)
    for layer in _layers(relation.part, reading):
        part = reading(relation.part, layer)
        axis = part.dim() - 2
        whole = reading(relation.whole, layer).narrow(axis, start, part.shape[axis])
        yield Side(f"l = {layer}", part, whole)


@_sides.register
def _learned(relation: kinds.Learned, reading: Reading) -> Iterator[Side]:
    found = reading(relation.result)
    count, start = found.shape[1], reading.evaluated(relation.start)
    terms = [_parameter(reading.case.model, path) for path in relation.parameters]
    terms = [term if term.shape[1] == count else term.narrow(1, start, count) for term in terms]
    yield Side("every row", found, torch.stack(terms).sum(0).expand_as(found))


def _parameter(model: nn.Module, path: str) -> Tensor:
    """The one parameter whose path is, or ends with, the given one."""
    found = [p for name, p in model.named_parameters() if f".{name}".endswith(f".{path}")]
    if len(found) != 1:
        raise Violation(f"{len(found)} parameters of {type(model).__name__} have a path that ends with {path}")
    return found[0]


@_sides.register
def _heads_reshape(relation: kinds.HeadsReshape, reading: Reading) -> Iterator[Side]:
    for layer in _layers(relation.whole, reading):
        heads = reading(relation.heads, layer)
        side_by_side = torch.cat(heads.unbind(1), dim=-1)
        yield Side(f"l = {layer}", side_by_side, reading(relation.whole, layer))


@_sides.register
def _rotation(relation: kinds.Rotation, reading: Reading) -> Iterator[Side]:
    angles = submodule(reading.case.model, relation.module)
    for layer in range(reading.layers):
        source = reading(relation.source, layer)
        source = source * source.shape[-1] ** -0.5 if relation.scaled else source
        columns = torch.arange(source.shape[-2], device=source.device).expand(source.shape[0], -1)
        cosine, sine = (t.unsqueeze(1) for t in angles(source, reading.case.inputs.get("position_ids", columns)))
        turned, kept = source[..., : cosine.shape[-1]], source[..., cosine.shape[-1] :]
        first, second = turned.chunk(2, dim=-1)
        turned = turned * cosine + torch.cat([-second, first], dim=-1) * sine
        yield Side(f"l = {layer}", reading(relation.result, layer), torch.cat([turned, kept], dim=-1))


@_sides.register
def _routing(relation: kinds.Routing, reading: Reading) -> Iterator[Side]:
    for layer in range(reading.layers):
        found = reading(relation.result, layer)
        largest = reading(relation.logits, layer).float().softmax(-1).sort(-1, descending=True).values
        largest = largest[..., : found.shape[-1]]
        yield Side(f"l = {layer}", found, (largest / largest.sum(-1, keepdim=True)).to(found.dtype))


@_sides.register
def _expert_input(relation: kinds.ExpertInput, reading: Reading) -> Iterator[Side]:
    for layer in range(reading.layers):
        found = reading(relation.result, layer)
        yield Side(f"l = {layer}", found, reading(relation.source, layer).unsqueeze(-2).expand_as(found))


@_sides.register
def _expert_projection(relation: kinds.ExpertProjection, reading: Reading) -> Iterator[Side]:
    for layer in range(reading.layers):
        source = reading(relation.source, layer)
        # Of equal logits, which bfloat16 often gives, a router takes those that topk happens to: so does this.
        shares = torch.softmax(reading(relation.logits, layer).float(), -1)
        chosen = shares.flatten(0, -2).topk(source.shape[-2]).indices.reshape(source.shape[:-1])
        weight = dict(reading.block(layer).named_parameters())[relation.weight]
        wanted = torch.einsum("btkoi,btki->btko", weight[chosen], source)
        yield Side(f"l = {layer}", reading(relation.result, layer), wanted)


@_sides.register
def _expert_sum(relation: kinds.ExpertSum, reading: Reading) -> Iterator[Side]:
    for layer in range(reading.layers):
        weighted = reading(relation.terms, layer) * reading(relation.weights, layer).unsqueeze(-1)
        found = reading(relation.result, layer)
        yield Side(f"l = {layer}", found, weighted.sum(-2).to(found.dtype))


@_sides.register
def _scores(relation: kinds.Scores, reading: Reading) -> Iterator[Side]:
    for layer in range(reading.layers):
        queries, keys = reading(relation.queries, layer), reading(relation.keys, layer)
        keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)
        wanted = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
        yield Side(f"l = {layer}", reading(relation.scores, layer), wanted)


@_sides.register
def _softmax(relation: kinds.Softmax, reading: Reading) -> Iterator[Side]:
    for layer in range(reading.layers):
        wanted = reading(relation.scores, layer).softmax(-1)
        yield Side(f"l = {layer}", reading(relation.pattern, layer), wanted)


@_sides.register
def _attentions(relation: kinds.Attentions, reading: Reading) -> Iterator[Side]:
    for layer, wanted in enumerate(reading.recorded(relation.oracle)):
        found = reading(relation.component, layer)
        yield Side(f"l = {layer}", found.to(wanted.dtype), wanted)


@_sides.register
def _attention_mix(relation: kinds.AttentionMix, reading: Reading) -> Iterator[Side]:
    recorded = reading.recorded(relation.recorded) if relation.recorded else None
    for layer in range(reading.layers):
        pattern = reading(relation.pattern, layer) if recorded is None else recorded[layer]
        values = reading(relation.values, layer)
        shared = pattern.shape[1] // values.shape[1]
        mixed = pattern @ values.repeat_interleave(shared, dim=1)
        yield Side(f"l = {layer}", reading(relation.result, layer), mixed)


@_sides.register
def _model_output(relation: kinds.ModelOutput, reading: Reading) -> Iterator[Side]:
    yield Side("the last layer", reading(relation.component), reading.recorded(relation.oracle))

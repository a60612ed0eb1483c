"""What a spec claims about how components hang together: one dataclass for each kind of relation.

Each relation holds in evaluation mode (no dropout), in one forward without a cache, for every layer
where its components are layered. `statement` says it in one line for reports and error messages.
A field's metadata tells the loader how to read it; `scope` is where the component must belong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

from .expressions import holds

__all__ = [
    "KINDS",
    "AttentionMix",
    "Attentions",
    "Chain",
    "Condition",
    "Convolution",
    "Embedding",
    "ExpertInput",
    "ExpertProjection",
    "ExpertSum",
    "GateProduct",
    "HeadsReshape",
    "HiddenStates",
    "Learned",
    "ModelOutput",
    "Normalization",
    "Part",
    "Positions",
    "Projection",
    "RecurrentState",
    "Relation",
    "Requirement",
    "ResidualSum",
    "Rotation",
    "Routing",
    "Scores",
    "SelectiveScan",
    "Softmax",
]

Condition = bool | str
"""A constant, or text in the condition grammar of `intervene.specs.expressions`."""


@dataclass(frozen=True)
class Requirement:
    """What must be so for a component to exist, or a relation to be checked, in a run.

    Attributes:
        reason: what a user reads where it isn't so, with what to do.
        attention: attention implementations (transformers' `attn_implementation`) under which it
            exists; empty for any.
        when: condition over the config.
        past: it exists in a forward that continues from a cache, and in no other.
    """

    reason: str
    attention: tuple[str, ...] = ()
    when: Condition = True
    past: bool = False


@dataclass(frozen=True)
class Part:
    """The part of a fused module's output that a projection gives, along the last axis.

    Either chunk `chunk` of `of` equal ones (with `per`: within each of `per` equal groups, which is
    how NeoX interleaves q, k and v inside each head), or the slice from `start` up to `stop`.

    Attributes:
        chunk: which chunk, from 0.
        of: how many chunks.
        per: expression, how many groups are chunked each for itself.
        start: expression, first feature of the slice.
        stop: expression, feature after the last one of the slice.
    """

    chunk: int | None = None
    of: int | None = None
    per: str | None = None
    start: str | None = None
    stop: str | None = None

    def __str__(self) -> str:
        if self.chunk is None:
            return f"[{self.start} : {self.stop}]"
        inside = f" within each of {self.per} groups" if self.per else ""
        return f"[chunk {self.chunk} of {self.of}{inside}]"


def _component(scope: str = "", *, optional: bool = False) -> Any:
    """A field that names one component; `scope` "block", "model" or either."""
    metadata = {"read": "component", "scope": scope}
    return field(default="", metadata=metadata) if optional else field(metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Relation:
    """One claim about the components of a tower. Subclasses add what their kind needs.

    Attributes:
        name: stable id within the tower; "kind:subject" unless the spec gives another.
        bitwise: equal bit for bit. Only where both sides come from the same tensor or from
            elementwise operations in the model's own order; a repeated matrix product or reduction
            may round otherwise when its memory is aligned otherwise.
        when: condition over the config under which the relation is claimed.
        models: model classes it is claimed for; empty for all of the family.
        requires: what a run must have for the check, beyond its components' own requirements.
        unpadded: claimed for inputs without padding alone.
        note: for the reader.
        line: line in the spec's file.
    """

    kind: ClassVar[str] = ""

    name: str = ""
    bitwise: bool = field(default=False, metadata={"read": "flag"})
    when: Condition = field(default=True, metadata={"read": "condition"})
    models: tuple[str, ...] = field(default=(), metadata={"read": "models"})
    requires: Requirement | None = field(default=None, metadata={"read": "requirement"})
    unpadded: bool = field(default=False, metadata={"read": "flag"})
    note: str = field(default="", metadata={"read": "text"})
    line: int = field(default=0, compare=False)

    @property
    def subject(self) -> str:
        """The component that the relation says something about: the first one its kind names."""
        return next(self._components())

    @property
    def components(self) -> tuple[str, ...]:
        """Every component that the relation names, each once."""
        return tuple(dict.fromkeys(self._components()))

    @property
    def statement(self) -> str:
        """The claim in one line, l being a layer and h a head."""
        raise NotImplementedError

    @property
    def recorded(self) -> str:
        """The entry of the model's output that the claim is about; "" where it is about none."""
        found: str = getattr(self, "oracle", "")
        return found

    def applies(self, model: str, config: object) -> bool:
        """Whether the relation is claimed for this model class and (tower's) config."""
        return (not self.models or model in self.models) and holds(self.when, config)

    def _components(self) -> Iterator[str]:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.metadata.get("read") == "component" and value:
                yield value
            elif each.metadata.get("read") == "components":
                yield from value


@dataclass(frozen=True, kw_only=True)
class Chain(Relation):
    """output[l] == input[l+1], and input[0] == start where one is named."""

    kind: ClassVar[str] = "chain"

    output: str = _component("block")
    input: str = _component("block")
    start: str = _component("model", optional=True)

    @property
    def statement(self) -> str:
        begins = f"; {self.start} = {self.input}[0]" if self.start else ""
        return f"{self.output}[l] = {self.input}[l+1]{begins}"


@dataclass(frozen=True, kw_only=True)
class HiddenStates(Relation):
    """oracle[l + offset] == component[l], oracle being the model's own recorded hidden states.

    transformers replaces the last recorded state by the final norm's output in most language
    models: `last` names the component that it then equals, and that index is no longer the block's.
    """

    kind: ClassVar[str] = "hidden_states"

    component: str = _component("block")
    offset: int = field(default=1, metadata={"read": "integer"})
    last: str = _component("model", optional=True)
    oracle: str = field(default="hidden_states", metadata={"read": "text"})

    @property
    def statement(self) -> str:
        index = f"l+{self.offset}" if self.offset else "l"
        ends = f"; the last entry = {self.last}" if self.last else ""
        return f"{self.component}[l] = {self.oracle}[{index}]{ends}"


@dataclass(frozen=True, kw_only=True)
class ResidualSum(Relation):
    """result == the terms added up from left to right."""

    kind: ClassVar[str] = "residual_sum"

    result: str = _component()
    terms: tuple[str, ...] = field(metadata={"read": "components", "scope": ""})

    @property
    def statement(self) -> str:
        return f"{self.result} = {' + '.join(self.terms)}"


@dataclass(frozen=True, kw_only=True)
class Projection(Relation):
    """result == then(part(module(the terms added up from left to right))).

    `module` lists paths of which the first one that exists is meant: relative to the block where
    `result` belongs to blocks, else to the model. Layered terms of an unlayered result are taken
    at the last layer. `then` names a second module (a layer scale, say) in the same way; `position`
    the one position of the terms that is handed to the module.
    """

    kind: ClassVar[str] = "projection"

    result: str = _component()
    terms: tuple[str, ...] = field(metadata={"read": "components", "scope": ""})
    module: tuple[str, ...] = field(metadata={"read": "paths"})
    part: Part | None = field(default=None, metadata={"read": "part"})
    then: tuple[str, ...] = field(default=(), metadata={"read": "paths"})
    position: int | None = field(default=None, metadata={"read": "integer"})

    @property
    def statement(self) -> str:
        part = str(self.part) if self.part else ""
        terms = " + ".join(self.terms)
        if self.position is not None:
            terms += f", position {self.position}"
        projected = f"{_alternatives(self.module)}({terms}){part}"
        return (
            f"{self.result} = {_alternatives(self.then)}({projected})" if self.then else f"{self.result} = {projected}"
        )


@dataclass(frozen=True, kw_only=True)
class Normalization(Projection):
    """As `Projection`, where the module is a norm: pins what a sub-layer reads."""

    kind: ClassVar[str] = "normalization"


@dataclass(frozen=True, kw_only=True)
class Convolution(Relation):
    """result == activation(module(source)), module being a depthwise convolution that sees no later position.

    The module is given (batch, feature, position), padded so that it gives more positions than it takes: the first
    ones count.
    """

    kind: ClassVar[str] = "convolution"

    result: str = _component("block")
    source: str = _component("block")
    module: tuple[str, ...] = field(metadata={"read": "paths"})
    activation: tuple[str, ...] = field(metadata={"read": "paths"})

    @property
    def statement(self) -> str:
        return f"{self.result} = {' or '.join(self.activation)}({' or '.join(self.module)}({self.source}))"


@dataclass(frozen=True, kw_only=True)
class SelectiveScan(Relation):
    """result == the selective state-space model over source, as in Gu and Dao 2023, https://arxiv.org/abs/2312.00752.

    For each feature with its decay A < 0 and skip D: state = exp(dt A) state + dt B source and result = C state + D
    source, dt being softplus(step + bias). ``source`` may have more features than ``result``: its first ones count.
    ``module`` holds A_log and D, of each feature or each head (Dao and Gu 2024, https://arxiv.org/abs/2405.21060);
    ``bias`` is the path of the bias in it. B and C are shared by the features of each of ``groups``.
    """

    kind: ClassVar[str] = "selective_scan"

    result: str = _component("block")
    source: str = _component("block")
    step: str = _component("block")
    input_matrix: str = _component("block")
    output_matrix: str = _component("block")
    module: tuple[str, ...] = field(metadata={"read": "paths"})
    bias: str = field(metadata={"read": "text"})
    groups: str = field(default="1", metadata={"read": "expression"})

    @property
    def statement(self) -> str:
        inputs = ", ".join((self.source, self.step, self.input_matrix, self.output_matrix))
        return f"{self.result} = the selective scan of {' or '.join(self.module)} over ({inputs})"


@dataclass(frozen=True, kw_only=True)
class GateProduct(Relation):
    """result == source * SiLU(gate), or module(source, gate) where the module is a norm that gates."""

    kind: ClassVar[str] = "gate_product"

    result: str = _component("block")
    source: str = _component("block")
    gate: str = _component("block")
    module: tuple[str, ...] = field(default=(), metadata={"read": "paths"})

    @property
    def statement(self) -> str:
        if self.module:
            return f"{self.result} = {' or '.join(self.module)}({self.source}, {self.gate})"
        return f"{self.result} = {self.source} * silu({self.gate})"


@dataclass(frozen=True, kw_only=True)
class RecurrentState(Relation):
    """component[l] == the recurrent state that the cache, as the forward is handed it, holds for layer l."""

    kind: ClassVar[str] = "recurrent_state"

    component: str = _component("block")

    @property
    def statement(self) -> str:
        return f"{self.component}[l] = the cache's recurrent state of layer l before the step"


@dataclass(frozen=True, kw_only=True)
class Embedding(Relation):
    """result == module(the model's input named `input`); `module` is relative to the model."""

    kind: ClassVar[str] = "embedding"

    result: str = _component("model")
    input: str = field(metadata={"read": "text"})
    module: tuple[str, ...] = field(metadata={"read": "paths"})

    @property
    def statement(self) -> str:
        return f"{self.result} = {_alternatives(self.module)}({self.input})"


@dataclass(frozen=True, kw_only=True)
class Positions(Relation):
    """part == whole at consecutive positions, from `start` on, as many as part has."""

    kind: ClassVar[str] = "positions"

    part: str = _component()
    whole: str = _component()
    start: str = field(metadata={"read": "expression"})

    @property
    def statement(self) -> str:
        return f"{self.part} = {self.whole} from position {self.start} on"


@dataclass(frozen=True, kw_only=True)
class Learned(Relation):
    """result == parameters of the model added up, the same in every row.

    Each is the one whose path in the model is the given one or ends with it, of shape (1, positions, feature). Of one
    with more positions than result, those from `start` on are taken.
    """

    kind: ClassVar[str] = "learned"

    result: str = _component("model")
    parameters: tuple[str, ...] = field(metadata={"read": "texts"})
    start: str = field(default="0", metadata={"read": "expression"})

    @property
    def statement(self) -> str:
        return f"{self.result} = {' + '.join(self.parameters)}, from position {self.start} on"


@dataclass(frozen=True, kw_only=True)
class HeadsReshape(Relation):
    """whole, (batch, position, H*d), is heads, (batch, H, position, d), put side by side."""

    kind: ClassVar[str] = "heads_reshape"

    heads: str = _component("block")
    whole: str = _component("block")

    @property
    def statement(self) -> str:
        return f"{self.whole} = {self.heads} with its heads side by side"


@dataclass(frozen=True, kw_only=True)
class Rotation(Relation):
    """result == source, both (batch, heads, position, d), turned by each position's angles.

    `module`, relative to the model, gives the cosines and sines of the positions. They turn the first of a head's
    features, as many as there are of them, each with the one half of these further on (Su et al. 2021,
    https://arxiv.org/abs/2104.09864). `scaled`: source is divided by the square root of d first, in models that scale
    their queries before the rotation and not the scores after it.
    """

    kind: ClassVar[str] = "rotation"

    result: str = _component("block")
    source: str = _component("block")
    module: tuple[str, ...] = field(metadata={"read": "paths"})
    scaled: bool = field(default=False, metadata={"read": "flag"})

    @property
    def statement(self) -> str:
        scaled = " / sqrt(d)" if self.scaled else ""
        return f"{self.result} = {self.source}{scaled} rotated by {' or '.join(self.module)}"


@dataclass(frozen=True, kw_only=True)
class Routing(Relation):
    """result, (..., choices), == the largest of softmax(logits), (..., experts), the first the largest, over their sum.

    As Mixtral weighs its experts (Jiang et al. 2024, https://arxiv.org/abs/2401.04088).
    """

    kind: ClassVar[str] = "routing"

    result: str = _component("block")
    logits: str = _component("block")

    @property
    def statement(self) -> str:
        return f"{self.result} = the largest of softmax({self.logits}), over their sum"


@dataclass(frozen=True, kw_only=True)
class ExpertInput(Relation):
    """result, (..., choice, feature), == source, (..., feature), for each choice."""

    kind: ClassVar[str] = "expert_input"

    result: str = _component("block")
    source: str = _component("block")

    @property
    def statement(self) -> str:
        return f"{self.result} = {self.source}, for each choice"


@dataclass(frozen=True, kw_only=True)
class ExpertProjection(Relation):
    """result == each chosen expert's matrix times source, both (..., choice, feature).

    `weight` is the path, relative to the block, of a parameter (experts, out, in); the experts are those of the largest
    logits.
    """

    kind: ClassVar[str] = "expert_projection"

    result: str = _component("block")
    source: str = _component("block")
    logits: str = _component("block")
    weight: str = field(metadata={"read": "text"})

    @property
    def statement(self) -> str:
        return f"{self.result} = {self.weight}[the largest of {self.logits}] @ {self.source}"


@dataclass(frozen=True, kw_only=True)
class ExpertSum(Relation):
    """result, (..., feature), == terms, (..., choice, feature), added up with weights, (..., choice)."""

    kind: ClassVar[str] = "expert_sum"

    result: str = _component("block")
    terms: str = _component("block")
    weights: str = _component("block")

    @property
    def statement(self) -> str:
        return f"{self.result} = {self.terms} weighted by {self.weights}, added up"


@dataclass(frozen=True, kw_only=True)
class Scores(Relation):
    """scores[h] == queries[h] @ keys[group(h)].T / sqrt(d), in models that mask nothing and scale so."""

    kind: ClassVar[str] = "scores"

    scores: str = _component("block")
    queries: str = _component("block")
    keys: str = _component("block")

    @property
    def statement(self) -> str:
        return f"{self.scores}[h] = {self.queries}[h] @ {self.keys}[group(h)].T / sqrt(d)"


@dataclass(frozen=True, kw_only=True)
class Softmax(Relation):
    """pattern == softmax(scores) over key positions."""

    kind: ClassVar[str] = "softmax"

    pattern: str = _component("block")
    scores: str = _component("block")

    @property
    def statement(self) -> str:
        return f"{self.pattern} = softmax({self.scores})"


@dataclass(frozen=True, kw_only=True)
class Attentions(Relation):
    """component[l] == oracle[l], oracle being the model's own recorded attention patterns.

    Compared in the oracle's dtype, to which some models cast the pattern.
    """

    kind: ClassVar[str] = "attentions"

    component: str = _component("block")
    oracle: str = field(default="attentions", metadata={"read": "text"})

    @property
    def statement(self) -> str:
        return f"{self.component}[l] = {self.oracle}[l]"


@dataclass(frozen=True, kw_only=True)
class AttentionMix(Relation):
    """result[h] == oracle[l][h] @ values[group(h)], oracle being the model's own patterns.

    Query heads share key and value heads in consecutive groups: group(h) = h // (H // H_kv). `pattern` names the
    component that takes the oracle's place where the library records none.
    """

    kind: ClassVar[str] = "attention_mix"

    result: str = _component("block")
    values: str = _component("block")
    pattern: str = _component("block", optional=True)
    oracle: str = field(default="attentions", metadata={"read": "text"})

    @property
    def recorded(self) -> str:
        return "" if self.pattern else self.oracle

    @property
    def statement(self) -> str:
        pattern = self.pattern or f"{self.oracle}[l]"
        return f"{self.result}[h] = {pattern}[h] @ {self.values}[group(h)]"


@dataclass(frozen=True, kw_only=True)
class ModelOutput(Relation):
    """component == the entry `oracle` of what the model returns.

    A block component is taken at the last layer.
    """

    kind: ClassVar[str] = "model_output"

    component: str = _component()
    oracle: str = field(metadata={"read": "text"})

    @property
    def statement(self) -> str:
        return f"{self.component} = the model's output {self.oracle!r}"


KINDS: dict[str, type[Relation]] = {
    kind.kind: kind
    for kind in (
        Chain,
        HiddenStates,
        ResidualSum,
        Projection,
        Normalization,
        Convolution,
        SelectiveScan,
        GateProduct,
        RecurrentState,
        Embedding,
        Positions,
        Learned,
        HeadsReshape,
        Rotation,
        Routing,
        ExpertInput,
        ExpertProjection,
        ExpertSum,
        Scores,
        Softmax,
        Attentions,
        AttentionMix,
        ModelOutput,
    )
}
"""Kind, as a spec writes it, to its dataclass."""


def _alternatives(paths: tuple[str, ...]) -> str:
    text = " or ".join(paths)
    return f"({text})" if len(paths) > 1 else text


def required(kind: type[Relation]) -> tuple[str, ...]:
    """Keys that a spec must give for this kind, `kind` itself left out."""
    return tuple(each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING)

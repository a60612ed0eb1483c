"""Configs: which intervention acts at which place, as data.

A config is built without a model. It can also be a dict or a list of dicts, and goes to JSON and back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..components import aliases, components
from ..errors import ConfigError, UnknownSiteError, did_you_mean
from ..interventions import Intervention, VanillaIntervention, intervention_class

UNITS = ("pos", "h", "h.pos", "t")
MODES = ("parallel", "serial")
Mode = Literal["parallel", "serial"]
_TENSOR = "tensor"
# The fields that an intervention is made with, where the representation names a type.
_OF_INTERVENTION = (
    "low_rank_dimension",
    "subspace_partition",
    "source_representation",
    "hidden_source_representation",
    "latent_dim",
)


@dataclass(frozen=True, eq=False, repr=False)
class RepresentationConfig:
    """One place in a model and the intervention that acts there.

    Attributes:
        layer: which block, negative ones from the end; of no meaning for a component that a model has once.
        component: a canonical component (``"mlp_output"``, in one of several towers ``"vision.mlp_output"``) or a
            module path that ends in ``.input`` or ``.output`` (``"transformer.h.0.mlp.output"``).
        unit: what unit locations count: ``"pos"`` positions, ``"h"`` heads, ``"h.pos"`` positions of heads, ``"t"``
            time steps of a recurrent module.
        max_number_of_units: how many units an intervention is meant for; kept for the record, locations decide.
        low_rank_dimension: rank of a low-rank intervention; of a rotation, how many rotated directions are swapped.
        intervention_type: an intervention class or its registered name; `IntervenableConfig` says which otherwise.
        intervention: an intervention instance or a function of (base, source), in place of a type.
        subspace_partition: parts of the (rotated) features that ``subspaces`` in a call choose from: lists of
            indices, or pairs (start, stop).
        group_key: interventions of one group share one source; groups take sources in ascending order of this key.
        intervention_link_key: interventions with the same key are one intervention and share its weights.
        moe_key: which expert, for ``expert_output`` and the like; the tokens that were sent to it are acted on.
        source_representation: a constant source, (features,) or what broadcasts to the activation.
        hidden_source_representation: says that a constant source exists and is stored elsewhere.
        latent_dim: width of an autoencoder's latents.

    Raises:
        UnknownSiteError: a component that is neither canonical nor a module path; the message names the nearest.
        ConfigError: a value that a field can't have.
    """

    layer: int | None = 0
    component: str = "block_output"
    unit: str = "pos"
    max_number_of_units: int = 1
    low_rank_dimension: int | None = None
    intervention_type: type[Intervention] | str | None = None
    intervention: Any = None
    subspace_partition: Sequence[Sequence[int]] | None = None
    group_key: int | None = None
    intervention_link_key: int | str | None = None
    moe_key: int | None = None
    source_representation: Tensor | None = None
    hidden_source_representation: bool | None = None
    latent_dim: int | None = None

    _an_instance_has: ClassVar[tuple[str, ...]] = _OF_INTERVENTION

    def __post_init__(self) -> None:
        self._check_component()
        if self.unit not in UNITS:
            raise ConfigError(f"unit {self.unit!r} is none of {', '.join(map(repr, UNITS))}")
        if self.layer is not None and (isinstance(self.layer, bool) or not isinstance(self.layer, int)):
            raise ConfigError(f"layer is a whole number or None, not {self.layer!r}")
        if self.intervention_type is not None and self.intervention is not None:
            raise ConfigError("give either intervention_type or intervention: an instance has a type already")
        if isinstance(self.intervention_type, str):
            object.__setattr__(self, "intervention_type", intervention_class(self.intervention_type))
        kind = self.intervention_type
        if kind is not None and not (isinstance(kind, type) and issubclass(kind, Intervention)):
            raise ConfigError(
                f"intervention_type is a class derived from Intervention or its registered name, not {kind!r}; "
                f"an instance or a function goes to intervention="
            )
        if self.intervention is not None and not callable(self.intervention):
            raise ConfigError(f"intervention is an Intervention or a function, not {self.intervention!r}")
        if isinstance(self.intervention, Intervention):
            self._check_instance(self.intervention)

    def _check_instance(self, instance: Intervention) -> None:
        """Refuse fields that say something else than the instance was made with, which would do nothing."""
        for name in self._an_instance_has:
            asked = getattr(self, name)
            if asked is None or _made_with(instance, name, asked):
                continue
            kind = type(instance).__name__
            raise ConfigError(
                f"{name} is given beside an instance, intervention={kind}(...), which was made without it; say it "
                f"there, {kind}({name}=...), or name the class as intervention_type"
            )

    def _check_component(self) -> None:
        _check_component(self.component)

    @property
    def is_path(self) -> bool:
        """Whether the component is a module path rather than a canonical name."""
        return not _is_component(self.component)

    def replace(self, **changes: Any) -> RepresentationConfig:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as JSON can hold them.

        Raises:
            ConfigError: ``intervention`` is a plain function, which has no name that another program could find.
        """
        return {name: _plain(name, value) for name, value in self._given()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RepresentationConfig:
        """The opposite of `to_dict`; any mapping of field names does.

        Raises:
            ConfigError: a name that is no field; the message names the nearest.
        """
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(f"a representation has no field {name!r}.{did_you_mean(str(name), known)}")
        return cls(**{name: _rich(name, value) for name, value in values.items()})

    def _given(self) -> Iterator[tuple[str, Any]]:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor) or value != field.default:
                yield field.name, value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RepresentationConfig):
            return NotImplemented
        return all(alike(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={_shown(value)}" for name, value in self._given())
        return f"RepresentationConfig({shown})"


Representations = RepresentationConfig | Mapping[str, Any] | Sequence[RepresentationConfig | Mapping[str, Any]]


class IntervenableConfig:
    """What an `IntervenableModel` does to a model.

    Args:
        representations: the places, in the order in which they act: `RepresentationConfig` objects, dicts of their
            fields, or one of either.
        intervention_types: the type for representations that name none: one for all, or a list with one for each.
        mode: ``"parallel"`` writes what every source holds into the base; ``"serial"`` writes the first source's into
            the second source's run, that one's into the next, and the last one's into the base.
        model_type: the model's class, for the record.

    Raises:
        ConfigError: a mode, field or list that doesn't fit.
        UnknownSiteError: an unknown component.
    """

    def __init__(
        self,
        representations: Representations | None = None,
        intervention_types: Any = VanillaIntervention,
        mode: Mode = "parallel",
        *,
        model_type: str | type | None = None,
    ) -> None:
        if mode not in MODES:
            raise ConfigError(f"mode is 'parallel' or 'serial', not {mode!r}")
        self.representations = _representations(representations)
        self.intervention_types = _types(intervention_types, len(self.representations))
        self.mode: Mode = mode
        self.model_type = None if model_type is None else str(model_type)
        grouped = [r.group_key is not None for r in self.representations]
        if any(grouped) and not all(grouped):
            raise ConfigError("either every representation has a group_key or none has one")

    def type_of(self, index: int) -> type[Intervention] | None:
        """The intervention class of a representation; None where it has an instance or a function instead."""
        representation = self.representations[index]
        if representation.intervention is not None:
            return None
        if representation.intervention_type is not None:
            return representation.intervention_type  # type: ignore[return-value]
        return self.intervention_types[index] if isinstance(self.intervention_types, list) else self.intervention_types

    def keywords(self, index: int) -> dict[str, Any]:
        """What a representation says about how its intervention is made."""
        representation = self.representations[index]
        given = {name: getattr(representation, name) for name in _OF_INTERVENTION}
        return {name: value for name, value in given.items() if value is not None}

    def groups(self) -> list[list[int]]:
        """The representations by group, each with one source: by ``group_key`` in ascending order, or one by one."""
        keys = [r.group_key for r in self.representations]
        if all(k is None for k in keys):
            return [[index] for index in range(len(keys))]
        return [[i for i, k in enumerate(keys) if k == key] for key in sorted(set(keys))]  # type: ignore[type-var]

    def to_dict(self) -> dict[str, Any]:
        """The config as JSON can hold it; `from_dict` is the opposite."""
        types = self.intervention_types
        return {
            "mode": self.mode,
            "model_type": self.model_type,
            "intervention_types": [_name(t) for t in types] if isinstance(types, list) else _name(types),
            "representations": [r.to_dict() for r in self.representations],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> IntervenableConfig:
        """A config from a mapping of its arguments.

        Raises:
            ConfigError: a name that is no argument; the message names the nearest.
        """
        known = ("representations", "intervention_types", "mode", "model_type")
        for name in values:
            if name not in known:
                raise ConfigError(f"a config has no {name!r}.{did_you_mean(str(name), known)}")
        return cls(**values)

    def to_json(self) -> str:
        """The config as a JSON document."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> IntervenableConfig:
        """The opposite of `to_json`."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def of(cls, config: IntervenableConfig | Representations) -> IntervenableConfig:
        """``config`` itself, or a config of the representation or representations that were given."""
        if isinstance(config, IntervenableConfig):
            return config
        if isinstance(config, Mapping) and "representations" in config:
            return cls.from_dict(config)
        return cls(representations=config)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IntervenableConfig):
            return NotImplemented
        return all(
            getattr(self, n) == getattr(other, n)
            for n in ("representations", "intervention_types", "mode", "model_type")
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        lines = "".join(f"\n    {r!r}," for r in self.representations)
        return f"IntervenableConfig(mode={self.mode!r}, representations=[{lines}\n])"


def _representations(given: Representations | None) -> list[RepresentationConfig]:
    if given is None:
        return [RepresentationConfig()]
    if isinstance(given, (RepresentationConfig, Mapping)):
        given = [given]
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigError(f"representations are RepresentationConfig objects or dicts, not {type(given).__name__}")
    found: list[RepresentationConfig] = []
    for one in given:
        if isinstance(one, Mapping):
            one = RepresentationConfig.from_dict(one)
        if not isinstance(one, RepresentationConfig):
            raise ConfigError(
                f"a representation is a RepresentationConfig or a dict, not {type(one).__name__}: {one!r}"
            )
        found.append(one)
    if not found:
        raise ConfigError("a config needs at least one representation")
    return found


def _types(given: Any, count: int) -> type[Intervention] | list[type[Intervention]]:
    if isinstance(given, (list, tuple)):
        if len(given) != count:
            raise ConfigError(f"intervention_types has {len(given)} entries for {count} representations")
        return [_type(one) for one in given]
    return _type(given)


def _type(given: Any) -> type[Intervention]:
    if isinstance(given, str):
        return intervention_class(given)
    if isinstance(given, type) and issubclass(given, Intervention):
        return given
    raise ConfigError(f"an intervention type is a class derived from Intervention or its name, not {given!r}")


def _check_component(component: Any) -> None:
    if not isinstance(component, str) or not component:
        raise ConfigError(f"component is a name or a module path, not {component!r}")
    known = [*components(), *aliases()]
    if _is_component(component) or component.rpartition(".")[2] in ("input", "output"):
        return
    if "." in component or "[" in component:
        raise UnknownSiteError(
            f"{component!r} is no component; as a module path it says which end is meant: "
            f"{component + '.output'!r} or {component + '.input'!r}"
        )
    raise UnknownSiteError(
        f"no component {component!r}.{did_you_mean(component, known)} Components: {', '.join(components())}; any "
        f"module is one by its path, as in 'path.to.module.output'"
    )


def _is_component(name: str) -> bool:
    bare = name.rpartition(".")[2]
    return bare in components() or bare in aliases()


def _made_with(instance: Intervention, name: str, asked: Any) -> bool:
    if name == "hidden_source_representation":
        return instance.is_source_constant
    # A class of one's own may keep a keyword to itself.
    return any(
        alike(_listed(asked), _listed(has)) for has in (getattr(instance, name, None), instance._given.get(name))
    )


def _listed(value: Any) -> Any:
    """A partition as lists, however its parts were written."""
    return [list(part) for part in value] if isinstance(value, (list, tuple)) else value


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        return {_TENSOR: value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, type):
        return _name(value)
    if isinstance(value, Intervention):
        state = {key: _plain(key, tensor.detach()) for key, tensor in value.state_dict().items()}
        return {"type": _name(type(value)), "spec": value.spec(), **({"state": state} if state else {})}
    if name == "intervention":
        raise ConfigError(
            f"a function ({value!r}) cannot be written down; derive a class from Intervention and name it as "
            f"intervention_type"
        )
    if isinstance(value, (list, tuple)):
        return [_plain(name, entry) for entry in value]
    return value


def _rich(name: str, value: Any) -> Any:
    if isinstance(value, Mapping) and _TENSOR in value:
        return torch.tensor(value[_TENSOR], dtype=getattr(torch, value["dtype"]))
    if name == "intervention" and isinstance(value, Mapping):
        made = intervention_class(value["type"])(**value["spec"])
        state = {key: _rich(key, tensor) for key, tensor in value.get("state", {}).items()}
        try:
            made.load_state_dict(state, strict=bool(state), assign=True)
        except RuntimeError as error:
            raise ConfigError(f"what the config says of a {type(made).__name__} doesn't fit it: {error}") from error
        return made
    return value


def _name(kind: type[Intervention]) -> str:
    from ..interventions import intervention_name

    return intervention_name(kind)


def alike(one: Any, other: Any) -> bool:
    """Whether two values of a field, tensors or lists of them among others, are the same."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(alike(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"<tensor {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}>"
    return value.__name__ if isinstance(value, type) else repr(value)

"""The subject: the adapter under test, its spec, and the models that the checks run on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from ..adapted import Adapted, adapt
from ..adapter import Adapter
from ..errors import InterveneError
from ..guards import AttentionImplementation
from ..registry import family, find
from ..specs import ComponentSpec, Spec
from ..specs.schema import TowerSpec

InputMaker = Callable[[nn.Module, int, int, torch.Generator], Mapping[str, Any]]
Target = type[Adapter] | str | nn.Module

_VARIANT = ", "
_Key = tuple[str, str, str | None, bool]


class Subject:
    """An adapter with its spec and small models of its family.

    Args:
        target: an adapter class, a family's name, or a (small) model, of which the checks use copies alone.
        inputs: makes a model's inputs from (model, rows, columns, generator); the adapter's example inputs by default.
        tower: the tower that the checks are about, where the family has several.
        device: where the models are run.

    Raises:
        InterveneError: no adapter for the target, or no model can be made.
    """

    def __init__(
        self,
        target: Target,
        inputs: InputMaker | None = None,
        tower: str = "",
        device: torch.device | str = "cpu",
    ) -> None:
        self._given = target if isinstance(target, nn.Module) else None
        self.adapter = _adapter(target)
        self.spec: Spec = self.adapter.load_spec()
        self.make_inputs = inputs
        self.device = torch.device(device)
        only = next(iter(self.spec.towers)) if len(self.spec.towers) == 1 else ""
        self.tower_name = tower or only
        self._untouched: dict[str, nn.Module] = {}
        self._models: dict[_Key, nn.Module] = {}
        self._adapted: dict[_Key, Adapted] = {}

    @cached_property
    def by_tower(self) -> tuple[Subject, ...]:
        """A subject for each of the family's towers, all with the same models; the subject itself where it has one."""
        if len(self.spec.towers) == 1:
            return (self,)
        found = []
        for name in self.spec.towers:
            one = copy.copy(self)
            one.__dict__.pop("models", None)
            one.__dict__.pop("config", None)
            one.tower_name = name
            if one.models:
                found.append(one)
        return tuple(found)

    @property
    def tower(self) -> TowerSpec:
        """The spec's tower that the checks are about."""
        return self.spec.towers[self.tower_name]

    def root(self, model: nn.Module) -> tuple[str, nn.Module]:
        """The module that is given the tower's sequence, by path and itself, found by the spec's own paths."""
        for path in self.tower.root:
            with suppress(AttributeError):
                return path, model.get_submodule(path)
        return "", model

    @property
    def prefix(self) -> str:
        """What the addresses of the tower's sites begin with."""
        return f"{self.tower_name}." if self.tower_name else ""

    @cached_property
    def models(self) -> tuple[str, ...]:
        """The models with the tower that are checked, by name.

        One of each model class, the adapter's default one first; and of that class one in each of the family's
        variants, ``OPTForCausalLM, post_norm``.
        """
        having = self.tower.models or self.spec.models
        if self._given is not None:
            known = self._known_as(self._given)
            return (known,) if not self.tower.models or known in having else ()
        first = self._known_as(self.adapter.tiny())
        classes = sorted(having, key=lambda name: name != first)
        return (*classes, *(f"{classes[0]}{_VARIANT}{variant}" for variant in self.adapter.variants))

    def class_of(self, model: str) -> str:
        """The class of one of ``models``."""
        return model.partition(_VARIANT)[0]

    @cached_property
    def config(self) -> Any:
        """The default model's config."""
        return self.config_of(self.models[0])

    @property
    def attentions(self) -> tuple[str | None, ...]:
        """The attention implementations that the spec names; (None,) where it names none."""
        return tuple(self.tower.attention_implementations) or (None,)

    @property
    def claimed(self) -> tuple[str, ...]:
        """The components that the spec claims for the tower, in the order of computation."""
        return tuple(self.tower.components)

    @property
    def all_claimed(self) -> tuple[str, ...]:
        """The components of every tower, with its name before them where there are several."""
        return tuple(one.prefix + name for one in self.by_tower for name in one.claimed)

    @property
    def all_models(self) -> tuple[str, ...]:
        """The models that are checked, of every tower."""
        return tuple(dict.fromkeys(model for one in self.by_tower for model in one.models))

    @property
    def absent(self) -> dict[str, str]:
        """The components that no model of the family has, tower by tower, with the spec's reasons."""
        found = {one.prefix + name: why for one in self.by_tower for name, why in one.tower.lacking().items()}
        whole = next((one for one in self.by_tower if not one.tower_name), self)
        towers: dict[str, list[str]] = {}
        for one in self.by_tower:
            for name in () if one is whole else one.claimed:
                towers.setdefault(name, []).append(one.tower_name)
        # A model with towers has little of its own.
        theirs = {name: " and ".join(held) for name, held in towers.items() if name not in whole.claimed}
        return found | {name: f"it belongs to {held}" for name, held in theirs.items()}

    @property
    def limits(self) -> dict[str, tuple[str, ...]]:
        """The claimed components that some models or settings lack, tower by tower, with sentences that say so."""
        found = {one.prefix + name: one._limits(name) for one in self.by_tower for name in one.claimed}
        return {name: sentences for name, sentences in found.items() if sentences}

    def _limits(self, component: str) -> tuple[str, ...]:
        lacking: dict[str, list[str]] = {}
        for model in self.models:
            reason = self.why_absent(component, model)
            if reason is not None:
                lacking.setdefault(reason, []).append(model.replace(_VARIANT, " as "))
        found = [f"not in {', '.join(models)}: {reason}" for reason, models in lacking.items()]
        needed = self.tower.components[component].requires
        if needed is not None and (needed.attention or needed.past):
            found.append(needed.reason)
        return tuple(found)

    def config_of(self, model: str) -> Any:
        """The config of one of ``models``."""
        return self.adapter.config_of(self.prototype(model))

    def prototype(self, model: str) -> nn.Module:
        """The float32 model of that name under its own attention implementation; it is never run."""
        if model not in self._untouched:
            made = copy.deepcopy(self._given) if self._given is not None else self._tiny(model)
            self._untouched[model] = made.float().eval()
        return self._untouched[model]

    def _tiny(self, model: str) -> nn.Module:
        name, _, variant = model.partition(_VARIANT)
        return self.adapter.tiny(name, **(self.adapter.variants[variant] if variant else {}))

    def model(self, name: str, dtype: str, attention: str | None, *, twin: bool = False) -> nn.Module:
        """A model of its own for each of ``models``, each dtype and attention implementation, made once.

        Args:
            twin: a second one, equal to the first.
        """
        key = (name, dtype, attention, twin)
        if key not in self._models:
            made = copy.deepcopy(self.prototype(name)).to(self.device, getattr(torch, dtype))
            if attention not in (None, getattr(getattr(made, "config", None), "_attn_implementation", None)):
                # For good: the model is the checks' own.
                change = getattr(made, "set_attn_implementation", partial(AttentionImplementation, made))
                change(attention)
            self._models[key] = made
        return self._models[key]

    def renew(self) -> None:
        """Make new models from now on: in those that there are an adapter may have left something."""
        self._models.clear()
        self._adapted.clear()

    def adapted(self, name: str, dtype: str, attention: str | None, *, twin: bool = False) -> Adapted:
        """What `model` gives, seen through the adapter under test; as a user does it, once for all sessions."""
        key = (name, dtype, attention, twin)
        if key not in self._adapted:
            self._adapted[key] = adapt(self.model(name, dtype, attention, twin=twin), adapter=self.adapter)
        return self._adapted[key]

    def variants(self, component: str) -> list[tuple[str, str | None]]:
        """The (model, attention implementation) pairs for which the spec claims ``component``."""
        claimed = self.tower.components[component]
        needed = claimed.requires.attention if claimed.requires else ()
        return [
            (model, attention)
            for model in self.models
            if self.why_absent(component, model) is None
            for attention in self.attentions
            if not needed or attention in needed
        ]

    def why_absent(self, component: str, model: str) -> str | None:
        """Why, says the spec, one of ``models`` has no ``component``; None where it has it."""
        return self.tower.why_absent(component, self.class_of(model), self.config_of(model))

    def claim(self, component: str, model: str) -> ComponentSpec:
        """What the spec claims about ``component`` in one of ``models``."""
        config = self.tower.config_of(self.config_of(model))
        return self.tower.components[component].resolve(self.class_of(model), config)

    def needs_past(self, component: str) -> bool:
        """Whether ``component`` exists in a forward that continues from a cache, and in no other."""
        claimed = self.tower.components.get(component)
        return claimed is not None and claimed.requires is not None and claimed.requires.past

    def forms(self, component: str) -> tuple[bool, ...]:
        """The forms of a forward in which ``component`` exists: whether it continues from a cache, where that makes it
        another one."""
        if self.needs_past(component):
            return (True,)
        return (False, True) if self.has("state_space") else (False,)

    def columns(self, model: str) -> int | None:
        """How many positions every input has, where the config says; None where inputs differ."""
        return self.tower.length(self.class_of(model), self.config_of(model))

    def source_columns(self, model: str, columns: int) -> int:
        """How many positions the sequence has that cross-attention attends to, for inputs of ``columns``."""
        other = self.tower.attends_to.get(self.class_of(model))
        length = None if other is None else self.spec.towers[other].length(self.class_of(model), self.config_of(model))
        return columns if length is None else length

    def shape(self, component: str, model: str, rows: int, columns: int) -> tuple[int, ...]:
        """The shape that the spec claims for inputs of ``rows`` x ``columns``."""
        claim = self.tower.components[component]
        sizes = claim.shape(self.class_of(model), self.tower.config_of(self.config_of(model)))
        axes = self.claim(component, model).axes
        open_axes = {"batch": rows, "source_position": self.source_columns(model, columns)}
        return tuple(
            size if size is not None else open_axes.get(axis, columns) for axis, size in zip(axes, sizes, strict=True)
        )

    def layers(self, component: str) -> tuple[int | None, ...]:
        """The layers that have ``component``; (None,) for what a model has once."""
        from ..components import components

        if not components()[component].layered:
            return (None,)
        return tuple(range(self.tower.count(self.config)))

    def has(self, capability: str, model: str | None = None) -> bool:
        """Whether the spec claims a capability for one of ``models`` (the default one)."""
        name = model or self.models[0]
        return self.tower.has(capability, self.class_of(name), self.config_of(name))

    def _known_as(self, model: nn.Module) -> str:
        return self.adapter.class_name(model) or type(model).__name__


def _adapter(target: Target) -> type[Adapter]:
    if isinstance(target, str):
        return family(target)
    if isinstance(target, nn.Module):
        found = find(target)
        if found is None:
            raise InterveneError(f"no adapter recognises {type(target).__name__}")
        return found
    if isinstance(target, type) and issubclass(target, Adapter):
        return target
    raise TypeError(f"expected an Adapter class, a family's name or a model; found {target!r}")

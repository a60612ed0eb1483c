"""pyvene 0.1.8's public names and return shapes over this library: ``import intervene.compat.pyvene as pv``.

(pyvene: Wu et al. 2024, "pyvene: A Library for Understanding and Improving PyTorch Models via Interventions",
https://arxiv.org/abs/2403.07809.) Everything is done by `intervene`; what is here translates keys, locations and
results. Where pyvene's behaviour is a defect this module does the right thing; ``docs/coming-from-pyvene.md`` has the
list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .. import declarative
from ..declarative import InterventionOutput
from ..declarative.acts import Act
from ..declarative.engine import Round
from ..declarative.output import Original
from ..errors import ConfigError
from ..interventions import (
    AdditionIntervention,
    AutoencoderIntervention,
    BasisAgnosticIntervention,
    BoundlessRotatedSpaceIntervention,
    CollectIntervention,
    ConstantSourceIntervention,
    DistributedRepresentationIntervention,
    Intervention,
    JumpReLUAutoencoderIntervention,
    LocalistRepresentationIntervention,
    LowRankRotatedSpaceIntervention,
    NoiseIntervention,
    PCARotatedSpaceIntervention,
    RotatedSpaceIntervention,
    SharedWeightsTrainableIntervention,
    SigmoidMaskIntervention,
    SigmoidMaskRotatedSpaceIntervention,
    SkipIntervention,
    SourcelessIntervention,
    SubtractionIntervention,
    TrainableIntervention,
    VanillaIntervention,
    ZeroIntervention,
)
from .causal import CausalModel
from .pretrained import (
    create_blip,
    create_blip_itm,
    create_gpt2,
    create_gpt2_lm,
    create_gpt_neo,
    create_gpt_neox,
    create_llama,
    create_llava,
    create_olmo,
)
from .small_models import (
    MODULES,
    GRUConfig,
    create_gru,
    create_gru_classifier,
    create_gru_lm,
    create_mlp_classifier,
)
from .utilities import (
    GET_LOC,
    closeness_to_permutation_loss,
    count_parameters,
    create_directory,
    embed_to_distrib,
    format_token,
    get_batch_size,
    get_list_depth,
    get_type_from_string,
    harmonic_sigmoid_boundary,
    lsm,
    random_permutation_matrix,
    set_seed,
    sigmoid_boundary,
    sm,
    top_vals,
)

__all__ = [
    "GET_LOC",
    "AdditionIntervention",
    "AutoencoderIntervention",
    "BasisAgnosticIntervention",
    "BoundlessRotatedSpaceIntervention",
    "CausalModel",
    "CollectIntervention",
    "ConstantSourceIntervention",
    "DistributedRepresentationIntervention",
    "GRUConfig",
    "IntervenableConfig",
    "IntervenableModel",
    "Intervention",
    "InterventionOutput",
    "JumpReLUAutoencoderIntervention",
    "LocalistRepresentationIntervention",
    "LowRankRotatedSpaceIntervention",
    "NoiseIntervention",
    "PCARotatedSpaceIntervention",
    "RepresentationConfig",
    "RotatedSpaceIntervention",
    "SharedWeightsTrainableIntervention",
    "SigmoidMaskIntervention",
    "SigmoidMaskRotatedSpaceIntervention",
    "SkipIntervention",
    "SourcelessIntervention",
    "SubtractionIntervention",
    "TrainableIntervention",
    "VanillaIntervention",
    "ZeroIntervention",
    "build_intervenable_model",
    "closeness_to_permutation_loss",
    "count_parameters",
    "create_blip",
    "create_blip_itm",
    "create_directory",
    "create_gpt2",
    "create_gpt2_lm",
    "create_gpt_neo",
    "create_gpt_neox",
    "create_gru",
    "create_gru_classifier",
    "create_gru_lm",
    "create_llama",
    "create_llava",
    "create_mlp_classifier",
    "create_olmo",
    "embed_to_distrib",
    "format_token",
    "get_batch_size",
    "get_list_depth",
    "get_type_from_string",
    "harmonic_sigmoid_boundary",
    "lsm",
    "random_permutation_matrix",
    "set_seed",
    "sigmoid_boundary",
    "sm",
    "top_vals",
    "type_to_module_mapping",
]

_ABSENT = {
    "IntervenableNdifModel": "remote execution is not part of this library",
    "type_to_dimension_mapping": "widths come from a model's modules, or an adapter's spec",
    "create_backpack_gpt2": "its model's code is remote; load it yourself and use its module paths",
}

type_to_module_mapping = MODULES


def __getattr__(name: str) -> Any:
    if name in _ABSENT:
        raise AttributeError(f"intervene.compat.pyvene has no {name}: {_ABSENT[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class RepresentationConfig(declarative.RepresentationConfig):
    """`intervene.RepresentationConfig` that is also a sequence of its fields, as pyvene's named tuple is.

    Components of `type_to_module_mapping` do too.
    """

    _fields = tuple(f.name for f in fields(declarative.RepresentationConfig))
    # pyvene doesn't read a size that is given beside an instance; nothing is lost by it.
    _an_instance_has = ("subspace_partition", "source_representation", "hidden_source_representation")

    def _check_component(self) -> None:
        if not any(self.component in table for table in type_to_module_mapping.values()):
            super()._check_component()

    def _asdict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._fields}

    def _replace(self, **changes: Any) -> RepresentationConfig:
        return type(self)(**{**self._asdict(), **changes})

    def __iter__(self) -> Iterator[Any]:
        return iter(self._asdict().values())

    def __len__(self) -> int:
        return len(self._fields)

    def __getitem__(self, index: int) -> Any:
        return list(self)[index]


class IntervenableConfig(declarative.IntervenableConfig):
    """`intervene.IntervenableConfig` with pyvene's arguments; lists of a representation's fields do too.

    ``sorted_keys``, ``intervention_dimensions`` and ``intervention_constant_sources`` are what pyvene wrote into saved
    configs; they are kept and not needed.
    """

    def __init__(
        self,
        representations: Any = None,
        intervention_types: Any = VanillaIntervention,
        mode: Any = "parallel",
        sorted_keys: Any = None,
        model_type: Any = None,
        intervention_dimensions: Any = None,
        intervention_constant_sources: Any = None,
    ) -> None:
        super().__init__(_representations(representations), intervention_types, mode, model_type=model_type)
        self.sorted_keys = sorted_keys
        self.intervention_dimensions = intervention_dimensions
        self.intervention_constant_sources = intervention_constant_sources

    def keywords(self, index: int) -> dict[str, Any]:
        """As intervene's, without sizes that mean nothing to the type, as pyvene hands them to every type."""
        given, kind = super().keywords(index), self.type_of(index)
        if kind is not None and not kind.__module__.startswith("intervene."):
            return given  # a class of the caller's own may read them
        unused = {"low_rank_dimension", "latent_dim"} - {*(kind.optional_sizes if kind is not None else ())}
        return {name: value for name, value in given.items() if name not in unused}

    def add_intervention(self, representations: Any) -> None:
        """Append representations, each with a type or an intervention of its own."""
        for added in _representations(representations):
            if added.intervention_type is None and added.intervention is None:
                raise ConfigError("intervention_type should be provided for an added representation")
            self.representations.append(added)
            if isinstance(self.intervention_types, list):
                self.intervention_types.append(VanillaIntervention)  # the representation's own goes first


class IntervenableModel(declarative.IntervenableModel):
    """`intervene.IntervenableModel` with pyvene's keys and return shapes.

    `interventions` has keys such as ``"layer_0_comp_mlp_output_unit_pos_nunit_1#0"`` and the interventions
    themselves; `generate` always returns a pair; collected activations are one flat list.
    """

    # Positions in generation are columns, padding counted.
    _counts_tokens = False

    def __init__(
        self,
        config: Any,
        model: nn.Module,
        *,
        use_fast: bool = False,
        as_adaptor: bool = False,
        intervenables_sort_fn: Callable[..., Any] | None = None,
        attention: str | None = None,
    ) -> None:
        if as_adaptor:
            raise ConfigError(
                "as_adaptor isn't offered: an intervention whose class says source_is_input = True is given the input "
                "of the module as its source"
            )
        if intervenables_sort_fn is not None:
            raise ConfigError("intervenables_sort_fn isn't offered: list the representations in the order you mean")
        if not isinstance(config, declarative.IntervenableConfig):
            config = IntervenableConfig(config)
        super().__init__(_by_path(config, model), model, attention=attention, use_fast=use_fast)
        self.sorted_keys = _keys(config.representations)
        self.representations = dict(zip(self.sorted_keys, config.representations, strict=True))
        self.full_intervention_outputs: list[InterventionOutput] = []
        """What interventions that return an `InterventionOutput` returned in the last call."""
        self._additional: dict[str, Any] = {}

    @property
    def interventions(self) -> dict[str, Intervention]:  # type: ignore[override]
        """Every intervention by pyvene's key."""
        return {key: place.intervention for key, place in zip(self.sorted_keys, self.places, strict=True)}

    def forward(
        self,
        base: Any,
        sources: Any = None,
        unit_locations: Mapping[str, Any] | None = None,
        source_representations: Any = None,
        subspaces: Any = None,
        labels: Tensor | None = None,
        output_original_output: bool = False,
        return_dict: bool | None = None,
        use_cache: bool | None = None,
        intervention_additional_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """As `intervene.IntervenableModel`, with pyvene's order of arguments.

        ``intervention_additional_kwargs`` go to the forward of interventions that are called without a source.
        """
        if not hasattr(getattr(self.model, "config", None), "use_cache"):
            use_cache = None  # as pyvene, which hands it to models that have it
        with self._handing_on(intervention_additional_kwargs):
            return super().forward(
                base,
                sources,
                _locations(unit_locations),
                source_representations,
                subspaces,
                labels,
                output_original_output,
                return_dict,
                use_cache,
                **options,
            )

    def generate(  # type: ignore[override]
        self,
        base: Any,
        sources: Any = None,
        unit_locations: Mapping[str, Any] | None = None,
        source_representations: Any = None,
        intervene_on_prompt: bool = False,
        subspaces: Any = None,
        output_original_output: bool = False,
        intervention_additional_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> tuple[Any, Any]:
        """Generate; the pair (original, intervened).

        Args:
            intervene_on_prompt: act on the prompt's positions that ``unit_locations`` names (or, without locations,
                everywhere). False means every token that is generated and nothing of the prompt.
            base, sources, unit_locations, source_representations, subspaces, output_original_output: as in a call.
            intervention_additional_kwargs: as in a call.
            **options: handed to the model's ``generate``.
        """
        if not intervene_on_prompt:
            unit_locations, options["when"] = None, "generated"
        with self._handing_on(intervention_additional_kwargs):
            result = super().generate(
                base,
                sources,
                _locations(unit_locations),
                source_representations,
                subspaces,
                output_original_output,
                **options,
            )
        return result if isinstance(result, tuple) else (None, result)

    def train(self, mode: bool = True) -> IntervenableModel:
        """Put the interventions in training mode, and as pyvene does the model too."""
        super().train(mode)
        self.model.train(mode)
        return self

    def disable_intervention_gradients(self) -> None:
        """Ask for no gradients of the interventions; ``requires_grad_()`` asks for them again."""
        self.requires_grad_(False)

    def set_zero_grad(self) -> None:
        """Forget the interventions' gradients."""
        self.zero_grad()

    def train_alignment(
        self,
        train_dataloader: Iterable[Any],
        compute_loss: Any,
        compute_metrics: Any,
        inputs_collator: Any,
        **kwargs: Any,
    ) -> Any:
        """`intervene.train_alignment` of this model."""
        from ..training import train_alignment

        return train_alignment(self, train_dataloader, compute_loss, compute_metrics, inputs_collator, **kwargs)

    def eval_alignment(
        self, eval_dataloader: Iterable[Any], compute_metrics: Any, inputs_collator: Any, **kwargs: Any
    ) -> Any:
        """`intervene.training.eval_alignment` of this model."""
        from ..training import eval_alignment

        return eval_alignment(self, eval_dataloader, compute_metrics, inputs_collator, **kwargs)

    def save(  # type: ignore[override]
        self,
        save_directory: str | Path,
        save_to_hf_hub: bool = False,
        hf_repo_name: str = "my-awesome-model",
        include_model: bool = False,
    ) -> None:
        """Save in this library's format, which holds no pickles, and push to the hub too if asked."""
        super().save(save_directory, include_model=include_model)
        if save_to_hf_hub:
            self.push_to_hub(hf_repo_name, include_model=include_model)

    def save_intervention(self, save_directory: str | Path, include_model: bool = True) -> None:  # type: ignore[override]
        """Save in a folder; the model's parameters too, if they are trained and ``include_model`` isn't False."""
        super().save(save_directory, include_model=include_model and self._trains_model)

    def load_intervention(self, load_directory: str | Path, include_model: bool = True) -> None:
        """Load what `save_intervention` saved into these interventions."""
        trained = include_model and self._trains_model
        loaded = type(self).load(load_directory, self.model, include_model=trained or None)
        self.load_state_dict(loaded.state_dict())

    @contextmanager
    def _handing_on(self, additional: Mapping[str, Any] | None) -> Iterator[None]:
        self._additional = dict(additional or {})
        try:
            yield
        finally:
            self._additional = {}

    def _plan(self, *args: Any) -> tuple[Round, list[Act]]:
        plan, acts = super()._plan(*args)
        for act in acts:
            if not act.intervention.needs_source:
                act.extra = self._additional
        return plan, acts

    def _given(self, tensors: Any) -> dict[str, Tensor]:
        if isinstance(tensors, Mapping):
            ours = {theirs: place.key for theirs, place in zip(self.sorted_keys, self.places, strict=True)}
            tensors = {ours.get(key, key): value for key, value in tensors.items()}
        return super()._given(tensors)

    def _result(
        self,
        original: Any,
        intervened: Any,
        acts: Sequence[Act],
        return_dict: bool | None,
        collected: list[Any] | None = None,
    ) -> Any:
        self.full_intervention_outputs = [output for act in acts for output in act.outputs]
        result = super()._result(original, intervened, acts, return_dict, collected)
        first = result[0]
        if return_dict or not isinstance(first, Original):
            return result
        flat = [t for seen in first.collected for t in (seen if isinstance(seen, list) else [seen])]
        return (first.output, flat), result[1]


def build_intervenable_model(config: Any, model: nn.Module, **kwargs: Any) -> IntervenableModel:
    """An `IntervenableModel`."""
    return IntervenableModel(config, model, **kwargs)


def _do_intervention_by_swap(
    base: Tensor,
    source: Tensor | None,
    mode: str = "interchange",
    interchange_dim: int | Tensor | None = None,
    subspaces: Any = None,
    subspace_partition: Any = None,
    use_fast: bool = False,
) -> Tensor:
    """``base`` with ``source`` swapped in, added or subtracted at the chosen features, or those features alone.

    The name that interventions written for pyvene import; nothing is written in place.
    """
    kinds = {
        "interchange": VanillaIntervention,
        "add": AdditionIntervention,
        "subtract": SubtractionIntervention,
        "collect": CollectIntervention,
    }
    if mode not in kinds:
        raise ConfigError(f"mode {mode!r} is none of {', '.join(kinds)}")
    made = kinds[mode](subspace_partition=subspace_partition)
    if interchange_dim is not None:
        made.set_interchange_dim(int(interchange_dim))
    result: Tensor = made(base, source, subspaces)
    return result


def _representations(given: Any) -> list[declarative.RepresentationConfig]:
    if given is None:
        return [RepresentationConfig()]
    listed = given if isinstance(given, list) else [given]
    return [_representation(one) for one in listed]


def _representation(given: Any) -> declarative.RepresentationConfig:
    if isinstance(given, declarative.RepresentationConfig):
        return given
    if isinstance(given, Mapping):
        return RepresentationConfig.from_dict(given)
    if isinstance(given, (list, tuple)):
        return RepresentationConfig(*given)
    raise ConfigError(f"a representation is a RepresentationConfig, a dict or a list of its fields, not {given!r}")


def _by_path(config: declarative.IntervenableConfig, model: nn.Module) -> declarative.IntervenableConfig:
    """The config with components of `type_to_module_mapping` as module paths."""
    table = type_to_module_mapping.get(type(model))
    if not table:
        return config
    found = [_at_path(r, table) for r in config.representations]
    return declarative.IntervenableConfig(found, config.intervention_types, config.mode, model_type=config.model_type)


def _at_path(
    representation: declarative.RepresentationConfig, table: Mapping[str, tuple[Any, ...]]
) -> declarative.RepresentationConfig:
    if representation.component not in table:
        return representation
    path, hook, *parts = table[representation.component]
    if parts:
        raise ConfigError(
            f"{representation.component} is mapped to a part of {path}, and type_to_module_mapping takes whole modules "
            f"here: write an adapter (intervene.Adapter)"
        )
    end = "input" if hook == "register_forward_pre_hook" else "output"
    return representation.replace(component=f"{path % representation.layer if '%s' in path else path}.{end}")


def _keys(representations: Sequence[declarative.RepresentationConfig]) -> list[str]:
    """pyvene's names for representations."""
    counts: dict[str, int] = {}
    keys = []
    for r in representations:
        component = r.component.replace(".", "_")
        place = f"comp_{component}" if "." in r.component else f"layer_{r.layer}_comp_{component}"
        name = f"{place}_unit_{r.unit.replace('.', '_')}_nunit_{r.max_number_of_units}"
        keys.append(f"{name}#{counts.get(name, 0)}")
        counts[name] = counts.get(name, 0) + 1
    return keys


def _locations(given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Locations with pyvene's pairs, which may be lists of two ints, as tuples."""
    if not isinstance(given, Mapping):
        return given
    return {key: tuple(value) if key != "base" and _is_pair(value) else value for key, value in given.items()}


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(v is None or type(v) is int for v in value)

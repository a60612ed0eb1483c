"""The intervention protocol and the classes to derive one's own from."""

from __future__ import annotations

import inspect
import json
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import InterventionArgumentError, InterventionError, ShapeMismatchError, did_you_mean
from ..lenses import Lens, Whole
from . import registry
from .featurizers import Featurizer
from .subspaces import Partition, Subspaces, chosen_features, partition, row_mask


class Intervention(nn.Module):
    """What is done to an activation: an operation on its features, seen through a lens.

    ``forward(base, source, subspaces)`` is ``lens.put(base, operate(lens.get(base), lens.get(source)))`` with the
    lens that `featurizer` gives. A class of one's own overrides `operate`, or `featurizer`, or the whole `forward`.

    Shapes: ``base`` is (batch, ..., width), whatever axes lie between (positions, heads); ``source`` broadcasts to
    it; the result has the shape, dtype and device of ``base``, which is never written in place. Each batch row and
    each position is acted on by itself, so a batch may be split anywhere.

    Attributes:
        embed_dim: the width of the site's last axis.
        interchange_dim: how many features, from the first, are acted on; None for all.
        source_representation: a constant source, saved with the intervention; None where the source comes by call.
        trainable: whether its parameters are meant to be trained.
        is_source_constant: whether it is called without a source.
        collects: the result is kept and the activation is left alone.
        source_is_input: the source is the input of the site's module, from the same run unless another is given.
        optional_sizes: which of ``low_rank_dimension`` and ``latent_dim`` mean something to the class.
        late_buffers: buffers that have no shape before data or a state dict gives them one.
        by_place: what it does to a position depends on which of those acted on it is. In generation, where a forward
            sees some of them alone, it has an attribute ``places`` while it is called, (rows or 1, positions).
    """

    trainable: bool = False
    collects: ClassVar[bool] = False
    source_is_input: ClassVar[bool] = False
    basis_agnostic: ClassVar[bool] = False
    shared_weights: ClassVar[bool] = False
    is_repr_distributed: ClassVar[bool] = False
    optional_sizes: ClassVar[tuple[str, ...]] = ()
    late_buffers: ClassVar[tuple[str, ...]] = ()
    by_place: ClassVar[bool] = False

    source_representation: Tensor | None
    _given: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        registry.register_intervention(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> Intervention:
        # What the caller gave is what `spec` says; taken here because a class of one's own may keep some to itself.
        self = super().__new__(cls)
        bound = _bound(cls, args, kwargs)
        object.__setattr__(self, "_given", {k: v for k, v in bound.items() if not isinstance(v, Tensor)})
        return self

    def __init__(
        self,
        *,
        embed_dim: int | None = None,
        low_rank_dimension: int | None = None,
        subspace_partition: Partition | None = None,
        latent_dim: int | None = None,
        interchange_dim: int | None = None,
        source_representation: Tensor | None = None,
        hidden_source_representation: Any = None,
        use_fast: bool = False,
        keep_last_dim: bool = True,
        **extra: Any,
    ) -> None:
        """
        Args:
            embed_dim: the width of the site's last axis (of one head's, for ``head_*`` components).
            low_rank_dimension: how many directions, for types that have such.
            subspace_partition: for each subspace ``[start, stop]`` or its features; none may stand in two.
            latent_dim: how many latents, for autoencoders.
            interchange_dim: act on the first so many features alone.
            source_representation: a constant source that broadcasts to the site; gradients reach it if it asks
                for them.
            hidden_source_representation: anything but None: the constant source comes later, from a state dict.
            use_fast: pyvene's keyword; every call is fast here.
            keep_last_dim: pyvene's keyword; units are never flattened together here.

        Raises:
            InterventionArgumentError: a keyword that nobody takes; the message names the nearest.
        """
        super().__init__()
        sizes = {"low_rank_dimension": low_rank_dimension, "latent_dim": latent_dim}
        unused = [n for n, size in sizes.items() if size is not None and n not in self.optional_sizes]
        if (extra or unused) and not _has_own_constructor(type(self)):
            name = next(iter(extra), None) or unused[0]
            known = [k for k in keywords(type(self)) if k not in sizes or k in self.optional_sizes]
            raise InterventionArgumentError(
                f"{type(self).__name__} takes no keyword {name!r}.{did_you_mean(name, known)}"
            )
        self.embed_dim = None if embed_dim is None else int(embed_dim)
        self.low_rank_dimension = None if low_rank_dimension is None else int(low_rank_dimension)
        self.latent_dim = None if latent_dim is None else int(latent_dim)
        self.interchange_dim: int | None = None
        if interchange_dim is not None:
            self.set_interchange_dim(interchange_dim)
        self.subspace_partition = subspace_partition
        self.use_fast = use_fast
        self.keep_last_dim = keep_last_dim
        self.is_source_constant = source_representation is not None or hidden_source_representation is not None
        self.register_buffer("source_representation", _constant(source_representation))
        if subspace_partition is not None:
            partition(subspace_partition, self.feature_count())

    @property
    def needs_source(self) -> bool:
        """Whether a call needs a source, from a run of the model or given."""
        return not (self.is_source_constant or self.source_is_input)

    @property
    def takes_source(self) -> bool:
        """Whether a call uses a source when there is one."""
        return self.needs_source or self.source_is_input

    def set_source_representation(self, source_representation: Tensor) -> None:
        """Make ``source_representation`` the constant source."""
        self.register_buffer("source_representation", _constant(source_representation))
        self.is_source_constant = True

    def set_interchange_dim(self, interchange_dim: int) -> None:
        """Act on the first ``interchange_dim`` features alone, at least one."""
        if int(interchange_dim) < 1:
            raise InterventionArgumentError(
                f"{type(self).__name__}: interchange_dim={interchange_dim} leaves no feature to act on"
            )
        self.interchange_dim = int(interchange_dim)

    def featurizer(self) -> Lens:
        """The lens to the features; the activation's own by default."""
        return Whole()

    def feature_count(self) -> int | None:
        """How many features the featurizer shows, None where that isn't known before a call."""
        return self.embed_dim

    def operate(self, base: Tensor, source: Tensor) -> Tensor:
        """The new features from those of base and source, both (batch, ..., features)."""
        raise NotImplementedError(f"{type(self).__name__} defines neither operate(base, source) nor forward")

    def forward(self, base: Tensor, source: Tensor | None = None, subspaces: Subspaces | None = None) -> Tensor:
        """The activation that flows on.

        Args:
            base: (batch, ..., width).
            source: broadcasts to ``base``; None where the intervention needs none.
            subspaces: for each batch row the indexes of the subspaces to act on, or one list for all; None for
                every feature. Without a partition they are the features themselves.

        Raises:
            InterventionError: no source where one is needed, or one where none is taken.
            ShapeMismatchError: ``source`` does not broadcast to ``base``, or ``base`` has another width.
            SelectionError: a subspace that does not exist.
        """
        lens = self.featurizer()
        self.check_width(base)
        before = lens.get(base)
        after = self.operate(before, lens.get(self.resolve_source(base, source)))
        acted = self.acted_on(before, subspaces)
        if acted is not None:
            after = torch.where(acted, after, before)
        return lens.update(base, before, after) if isinstance(lens, Featurizer) else lens.put(base, after)

    def resolve_source(self, base: Tensor, source: Tensor | None) -> Tensor:
        """The source of a call or the constant one, in the shape, dtype and device of ``base``."""
        name = type(self).__name__
        if source is not None and not self.needs_source and not self.source_is_input:
            kind = "has a constant source" if self.source_representation is not None else "takes no source"
            raise InterventionError(f"{name} {kind}; call it without another one")
        source = self.source_representation if source is None else source
        if source is None:
            if self.source_is_input:
                raise InterventionError(f"{name} needs the input of the site's module for its source")
            if self.is_source_constant:
                raise InterventionError(f"{name}: its constant source was never loaded: load_state_dict first")
            raise InterventionError(
                f"{name} needs a source: pass sources=, or make it with source_representation= for a constant one"
            )
        return like(base, source, name)

    def check_width(self, base: Tensor) -> None:
        """Raise where ``base`` hasn't the width that the intervention was made for."""
        if self.embed_dim is not None and base.shape[-1] != self.embed_dim:
            raise ShapeMismatchError(
                f"{type(self).__name__} was made for embed_dim={self.embed_dim} and met an activation of "
                f"{base.shape[-1]} features: {tuple(base.shape)}"
            )

    def acted_on(self, features: Tensor, subspaces: Subspaces | None) -> Tensor | None:
        """A boolean mask that broadcasts to ``features``, True where the intervention acts; None for everywhere."""
        chosen = self.chosen(features, subspaces)
        return None if chosen is None else row_mask(chosen, features)

    def chosen(self, features: Tensor, subspaces: Subspaces | None) -> list[list[int]] | None:
        """The features that are acted on in each batch row, None for all."""
        rows, width = features.shape[0], features.shape[-1]
        if subspaces is not None:
            parts = None if self.subspace_partition is None else partition(self.subspace_partition, width)
            return chosen_features(subspaces, parts, rows, width)
        if self.interchange_dim is not None and self.interchange_dim < width:
            return [list(range(self.interchange_dim))] * rows
        return None

    def spec(self) -> dict[str, Any]:
        """Keywords that make this intervention anew, fit for JSON; its tensors are in ``state_dict()``.

        ``type(x)(**x.spec())`` and ``load_state_dict(x.state_dict())`` give its equal.

        Raises:
            InterventionError: it was made with something that JSON cannot hold.
        """
        given = {k: v for k, v in self._given.items() if v is not None}
        if self.source_representation is not None:
            given["hidden_source_representation"] = True
        if self.interchange_dim is not None:
            given["interchange_dim"] = self.interchange_dim
        if self.subspace_partition is not None:
            given["subspace_partition"] = [
                [p.start, p.stop] if isinstance(p, range) else [int(n) for n in p] for p in self.subspace_partition
            ]
        for name, value in given.items():
            try:
                json.dumps(value)
            except TypeError as error:
                raise InterventionError(
                    f"{type(self).__name__} was made with {name}={value!r}, which JSON cannot hold; keep it in a "
                    f"buffer or parameter, or override spec()"
                ) from error
        return given

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self._given.items() if v is not None)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # These have whatever shape they were saved with.
        late = [*self.late_buffers, *(["source_representation"] if self.is_source_constant else [])]
        for name in late:
            found = state_dict.get(prefix + name)
            if found is not None:
                setattr(self, name, torch.empty_like(found, device=self._device()))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _device(self) -> torch.device | None:
        return next((t.device for t in (*self.parameters(), *self.buffers())), None)


class LocalistRepresentationIntervention:
    """Mixin: acts in the activation's own basis, neuron by neuron."""

    is_repr_distributed = False


class DistributedRepresentationIntervention:
    """Mixin: acts in another basis, where a feature is spread over many neurons."""

    is_repr_distributed = True


class TrainableIntervention(Intervention):
    """Has parameters that are meant to be trained."""

    trainable = True


class SharedWeightsTrainableIntervention(TrainableIntervention):
    """Trainable, and one set of parameters serves every site that it is used at."""

    shared_weights = True


class ConstantSourceIntervention(Intervention):
    """Called without a source: what it needs is its own."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.is_source_constant = True


class SourcelessIntervention(Intervention):
    """Called without a source: it changes the base by itself."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.is_source_constant = True


class BasisAgnosticIntervention(Intervention):
    """Does the same whatever the basis (addition, for one), so a change of basis beforehand changes nothing."""

    basis_agnostic = True


def like(base: Tensor, source: Tensor, name: str) -> Tensor:
    """``source`` in the shape, dtype and device of ``base``."""
    try:
        return source.to(device=base.device, dtype=base.dtype).expand(base.shape)
    except RuntimeError as error:
        raise ShapeMismatchError(
            f"{name}: {tuple(source.shape)} does not broadcast to the base, {tuple(base.shape)}"
        ) from error


def required(intervention: Intervention, name: str) -> int:
    """The value of a size that ``intervention`` can't do without."""
    value: int | None = getattr(intervention, name)
    kind = type(intervention).__name__
    if value is None:
        raise InterventionArgumentError(f"{kind} needs {name}=")
    if value < 1:
        raise InterventionArgumentError(f"{kind}: {name} must be positive, not {value}")
    return value


def keywords(cls: type[Intervention]) -> list[str]:
    """The keywords that a class and those it derives from name in their constructors."""
    names = [
        p.name
        for base in cls.__mro__
        if "__init__" in vars(base)
        for p in inspect.signature(vars(base)["__init__"]).parameters.values()
        if issubclass(base, Intervention) and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name != "self"
    ]
    return list(dict.fromkeys(names))


def _constant(source: Tensor | None) -> Tensor | None:
    return None if source is None else torch.as_tensor(source)


def _bound(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Positional arguments by their names, with the keywords; what doesn't fit is left to ``__init__`` to refuse."""
    if not args:
        return kwargs
    names = [n for n in inspect.signature(cls.__init__).parameters if n != "self"]  # type: ignore[misc]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _has_own_constructor(cls: type[Intervention]) -> bool:
    """Whether a class from outside this library has a constructor, which may read keywords of its own."""
    ours = __name__.partition(".")[0] + "."
    return any(
        "__init__" in vars(base) and not base.__module__.startswith(ours)
        for base in cls.__mro__
        if issubclass(base, Intervention)
    )

"""`IntervenableModel`: a model together with the interventions that a config describes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..adapted import adapt
from ..errors import (
    ConfigError,
    GradientCheckpointingError,
    InterventionError,
    NeverFiredError,
    SessionError,
)
from ..interventions import Intervention
from ..sites import Site
from . import display
from .acts import Act, Writes, acts_of
from .along import GenerateAlong
from .config import IntervenableConfig, Representations
from .engine import Round, checkpoints, frozen
from .generation import generate, in_pieces, read_prompt, same_chances
from .inputs import batch_of, run
from .locations import Location, sides
from .moments import InTime, moments
from .output import IntervenableOutput, Original
from .padding import columns_of, counted_from_tokens, first_tokens
from .placing import Placed, device_of, place
from .sources import by_group, by_key, only_used, require, targets
from .subspaces import by_intervention
from .timing import Moments

if TYPE_CHECKING:
    from typing_extensions import Self


class IntervenableModel(nn.Module):
    """A model whose activations are intervened on as a config says, whenever this is called.

    The model itself is never changed: not frozen, not put in eval mode, and no hook is left on it. Its parameters
    aren't this module's: `parameters`, `train`, `to` and `state_dict` are about the interventions.

    Args:
        config: an `IntervenableConfig`, or a representation (a `RepresentationConfig` or a dict), or a list of them.
        model: any PyTorch module.
        attention: the attention implementation for every run; ``"eager"`` makes attention patterns reachable.
        use_fast: accepted for code written for pyvene; locations that are alike in every row are always fast.

    Attributes:
        config: the config.
        adapted: the model seen as sites.
        places: every representation's site and intervention, in the config's order.

    Raises:
        UnknownSiteError: a place that the model doesn't have.
        ConfigError: representations that don't go together, or a unit that the place doesn't have.
        ShapeMismatchError: an intervention that was made for another width than the place's.
    """

    # Whether positions in generation count each row's real tokens, rather than columns.
    _counts_tokens = True

    def __init__(
        self,
        config: IntervenableConfig | Representations,
        model: nn.Module,
        *,
        attention: str | None = None,
        use_fast: bool = False,
    ) -> None:
        super().__init__()
        self.config = IntervenableConfig.of(config)
        # Neither is an nn.Module, so that the model's parameters don't become this module's.
        self.adapted = adapt(model)
        self.places = place(self.config, self.adapted)
        self._handed_in = (model,)
        self._attention = attention
        self._trains_model = False
        self._open: ExitStack | None = None
        # A module's name can't hold a dot.
        self._modules["placed"] = nn.ModuleDict({p.key.replace(".", "/"): p.intervention for p in self.places})
        for one in self.places:
            device = device_of(self.adapted.model, one.site)
            if device is not None:
                one.intervention.to(device)

    @property
    def model(self) -> nn.Module:
        """The model as it was handed in."""
        return self._handed_in[0]

    @property
    def sites(self) -> dict[str, Site]:
        """The site of every intervention, by its key."""
        return {p.key: p.site for p in self.places}

    @property
    def interventions(self) -> dict[str, Placed]:
        """Every intervention by its key, the site's address, further ones at the same site with ``#1`` and so on.

        Each value is a pair (intervention, site) that passes on the intervention's attributes:
        ``interventions["layer.6.block_output"][0].rotate_layer``, or without the ``[0]``.
        """
        return {p.key: Placed(p.intervention, p.site) for p in self.places}

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
        *,
        activations_sources: Any = None,
        attention: str | None = None,
    ) -> Any:
        """Run the base with every intervention.

        Args:
            base: the model's inputs: a mapping of its arguments, one tensor, or a tuple of positional arguments.
            sources: a list of inputs, one for each intervention or group; one alone serves them all. None among
                them leaves the interventions that need it out of this call.
            unit_locations: which positions (heads, steps) are meant, by ``"sources->base"``, ``"base"`` or
                ``"source_0->base"``; in serial mode by ``"source_0->source_1"`` and so on. An int, a slice or a flat
                list means those units in every row and for every intervention, on both sides; a tuple is a pair
                (source, base); a nested list has an entry for each intervention, or one for all, and in it a list for
                each row. None means the whole activation.
            source_representations: sources as tensors: by intervention key, a list in the config's order, or one for
                all. Each broadcasts to the part of the activation that is written.
            subspaces: which subspaces of an intervention's partition are meant: an int, a flat list, or a list with an
                entry for each intervention.
            labels: handed to the model in the intervened run, whose output then has its loss.
            output_original_output: run the base without interventions too.
            return_dict: give back an `IntervenableOutput`.
            use_cache: handed to the model in the intervened run.
            activations_sources: another name of ``source_representations``.
            attention: the attention implementation for this call.

        Returns:
            The pair (original, intervened). The original is None unless it was asked for; with a `CollectIntervention`
            it is itself a pair (original, list of what was collected).

        Raises:
            InterventionError: an intervention without its source.
            SelectionError: locations or subspaces that don't fit the config or the batch.
            ShapeMismatchError: a source that doesn't fit where it is written.
            NeverFiredError: an intervention whose place was never reached.
            GradientCheckpointingError: trainable interventions under gradient checkpointing need `through_backward`.
        """
        extra: dict[str, Any] = {}
        if labels is not None:
            extra["labels"] = labels
        if use_cache is not None:
            extra["use_cache"] = use_cache
        with self._lasting() as lasting:
            lasting.enter_context(self._gradients())
            plan, acts = self._plan(
                base, sources, unit_locations, source_representations, activations_sources, subspaces, attention
            )
            original = None
            if output_original_output:
                with plan.session([]):
                    original = run(self.adapted.model, base)
            writes = plan.parallel() if self.config.mode == "parallel" else plan.serial()
            lasting.enter_context(plan.session(writes))
            intervened = run(self.adapted.model, base, **extra)
        return self._result(original, intervened, acts, return_dict)

    @contextmanager
    def through_backward(self) -> Iterator[IntervenableModel]:
        """Keep the interventions of a call in place until the end of the ``with``.

        Gradient checkpointing computes layers a second time in the backward pass, where the interventions must act
        again::

            with intervenable.through_backward():
                _, outputs = intervenable(base, sources)
                loss(outputs).backward()

        Each call inside takes the place of the one before, and the model's parameters ask for no gradients meanwhile.
        Without gradient checkpointing there is no need for this.

        Raises:
            GradientCheckpointingError: no backward pass came before the next call or the end.
            SessionError: it is open already.
        """
        if self._open is not None:
            raise SessionError("through_backward() is open already: it is entered once at a time")
        with ExitStack() as stack:
            self._open = stack
            try:
                yield self
            finally:
                self._open = None

    def generate(
        self,
        base: Any,
        sources: Any = None,
        unit_locations: Mapping[str, Any] | None = None,
        source_representations: Any = None,
        subspaces: Any = None,
        output_original_output: bool = False,
        *,
        when: Moments | Mapping[str, Moments | None] | None = None,
        generate_sources: bool = False,
        activations_sources: Any = None,
        attention: str | None = None,
        **options: Any,
    ) -> Any:
        """Generate from the base with every intervention.

        Positions in ``unit_locations`` are the prompt's, and count from each row's first real token, so that padding
        on the left moves nothing. Without locations an intervention acts on the whole prompt and on every token that
        is generated; a source from a run of the model acts on as many tokens as it has.

        Generated tokens are counted from 0. A token's activation flows by when the model is given that token, so the
        last one that is generated has none, and what is done at the prompt's last position decides the first.

        Args:
            base: the prompt: what a tokenizer gives, or a tensor of tokens.
            sources: as in a call, each a prompt: it is run as ``generate`` runs a prompt, positions that count from the
                first real token and a decoder's start token included.
            unit_locations, source_representations, subspaces, activations_sources, attention: as in a call.
            output_original_output: generate without interventions too, with the same random numbers.
            when: when to act. ``"prompt"``; ``"generated"``, every generated token; ``"all"``, both; generated tokens
                by an int, a slice, a range or a list; a schedule ``{token: strength}``, 1 being in full; or a function
                of step and tokens (rows,) to True or False or a strength, one for all or a tensor (rows,). Positions
                of the prompt that ``unit_locations`` names are acted on besides. A mapping of intervention keys says
                it for each.
            generate_sources: generate from the sources as well, and write what each source's i-th generated token
                holds at the base's i-th. Under beam search that is the sequence which the source's own search finds
                best; of several that are sampled the first goes with the base's first. A source that has ended writes
                nothing more.
            **options: handed to the model's ``generate``: sampling, beams, caches, ``prefill_chunk_size``, streamers.

        Returns:
            What the model's ``generate`` returns, the sequences unless told otherwise; the pair (original, intervened)
            with ``output_original_output=True``. With a `CollectIntervention` the pair ((original, collected),
            intervened), collected being a list with a `Collected` for each: a tensor for each forward, its axes named.

        Raises:
            UnsupportedModelError: the model has no ``generate``, or one that doesn't tell which beams won where a
                source is generated along.
            SelectionError: ``when`` says no time.
            InterventionError: a source without a value for generated tokens that are to be acted on.
            NeverFiredError: a position or generated token that never came by.
        """
        tokens = self._counts_tokens
        with self._gradients():
            plan, acts = self._plan(
                base,
                sources,
                unit_locations,
                source_representations,
                activations_sources,
                subspaces,
                attention,
                tokens,
            )
            original = None
            if output_original_output:
                with same_chances(self.model), plan.session([]):
                    original = generate(self.adapted.model, base, **options)
            times = moments(when, list(self.sites))
            source_padding = {i: first_tokens(source) for i, source in enumerate(plan.sources) if tokens}

            def in_time(writes: Writes, inputs: Any) -> InTime:
                return InTime(
                    writes,
                    times,
                    batch=batch_of(inputs),
                    prompt=columns_of(inputs) if in_pieces(self.model, options) else None,
                    padding=first_tokens(inputs) if tokens else None,
                    source_padding=source_padding,
                )

            along = GenerateAlong(options, in_time)
            plan.reader = along if generate_sources else read_prompt
            timed = in_time(plan.parallel() if self.config.mode == "parallel" else plan.serial(), base)
            with plan.session(timed.writes):
                intervened = generate(self.adapted.model, base, **options)
        timed.check()
        seen: dict[str, Any] = {**along.collected, **timed.collected()}
        # What has no positions, or was collected in a source's prompt, is as in a call.
        collecting = [act for act in acts if act.intervention.collects]
        collected = [seen[act.place.key] if act.place.key in seen else act.result() for act in collecting]
        first, second = self._result(original, intervened, acts, False, collected)
        return second if first is None else (first, second)

    def get_trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters of trainable interventions, each once; the model's too after `enable_model_gradients`."""
        trained = [p.intervention for p in self.places if p.intervention.trainable]
        found = [parameter for module in trained for parameter in module.parameters() if parameter.requires_grad]
        if self._trains_model:
            found += [parameter for parameter in self.adapted.model.parameters() if parameter.requires_grad]
        return list(dict.fromkeys(found))

    def count_parameters(self, include_model: bool = False) -> int:
        """How many numbers the trainable interventions hold, linked ones once; with the model's if asked."""
        modules = [p.intervention for p in self.places if p.intervention.trainable]
        counted = [*modules, self.adapted.model] if include_model else modules
        parameters = dict.fromkeys(p for module in counted for p in module.parameters())
        return sum(p.numel() for p in parameters if p.requires_grad)

    def enable_model_gradients(self) -> None:
        """Let losses reach the model's own parameters (those that require gradients), and train them too."""
        self._trains_model = True

    def disable_model_gradients(self) -> None:
        """Let losses reach the interventions alone, as it is from the start."""
        self._trains_model = False

    def set_temperature(self, temperature: float | Tensor) -> None:
        """Set the temperature of every intervention that has one.

        Raises:
            InterventionError: none has one.
        """
        setters = [getattr(p.intervention, "set_temperature", None) for p in self.places]
        have = [setter for setter in setters if setter is not None]
        if not have:
            raise InterventionError(f"no intervention here has a temperature: {', '.join(self.sites)}")
        for setter in have:
            setter(temperature)

    def set_device(self, device: torch.device | str, set_model: bool = True) -> None:
        """Move the interventions, and the model unless told otherwise."""
        self.to(device)
        if set_model:
            self.model.to(device)

    def get_device(self) -> torch.device:
        """Where the model's first parameter is."""
        found = next(self.adapted.model.parameters(), None)
        return torch.device("cpu") if found is None else found.device

    def save(self, directory: str | Path, *, include_model: bool = False, base_model: str | None = None) -> Path:
        """Save the interventions in a folder: ``config.json``, their tensors as safetensors, and a model card.

        After a kill or a full disk the folder holds what it held before, or all that is saved now (the card, which
        nobody loads, is replaced last). Its other files stay. Saving runs no code and pickles nothing.

        Args:
            directory: the folder, made where it doesn't exist.
            include_model: save the model's parameters that require gradients too, trained along with them.
            base_model: the model's name on the hub for the card, where the model's config doesn't say.

        Returns:
            The folder.

        Raises:
            InterventionError: an intervention that can't be saved, such as a plain function.
            ArtifactError: the folder's ``config.json`` belongs to something else.
            OSError: what the file system says.
        """
        from .. import sharing

        return sharing.save(self, directory, include_model=include_model, base_model=base_model)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        include_model: bool = False,
        base_model: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        endpoint: str | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Make a repository of the Hugging Face hub hold what `save` writes, in one commit.

        Args:
            repo_id: ``"user/name"``, or ``"name"`` for one of one's own; made where it doesn't exist.
            include_model: as in `save`.
            base_model: as in `save`.
            private: make a new repository private.
            revision: a branch, made where it doesn't exist.
            token: what to log in with, instead of what ``hf auth login`` stored.
            endpoint: another hub.
            commit_message: what the commit says.

        Returns:
            The commit's address.

        Raises:
            HubError: no right to write there, no connection, or what else the hub says.
        """
        from .. import sharing

        return sharing.push_to_hub(
            self,
            repo_id,
            include_model=include_model,
            base_model=base_model,
            private=private,
            revision=revision,
            token=token,
            endpoint=endpoint,
            commit_message=commit_message,
        )

    def save_intervention(self, where: str | Path, **options: Any) -> str:
        """Share on the hub: ``save_intervention("user/name")`` is `push_to_hub`, with its options.

        A `Path`, a folder that exists, and a string that is no repository's id (``"./name"``) are saved in as `save`
        does.

        Returns:
            The commit's address, or the folder.
        """
        from .. import sharing

        return sharing.save_intervention(self, where, **options)

    @classmethod
    def load(
        cls,
        load_directory: str | Path,
        model: nn.Module,
        local_directory: str | Path | None = None,
        from_huggingface_hub: bool = False,
        include_model: bool | None = None,
        *,
        interventions: Mapping[str, type[Intervention]] | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        endpoint: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> Self:
        """Load what `save`, `push_to_hub` or pyvene 0.1 saved, from a folder or the Hugging Face hub.

        Nothing that comes along is run: tensors are read as safetensors (pyvene's ``.bin`` files with
        ``weights_only=True``), and intervention classes are those known here. What is broken or doesn't fit is refused
        as a whole, and ``model`` stays as it was.

        Args:
            load_directory: a folder, or else the id of a repository, ``"user/name"``.
            model: the model that the interventions are for.
            local_directory: download to this folder rather than to the hub's cache.
            from_huggingface_hub: take the hub's even where a folder has that name.
            include_model: load trained weights of the model into ``model``; None leaves them out, with a warning
                where there are some.
            interventions: which class to use, by the saved class's name (``"MyIntervention"``) or by the
                intervention's key, for classes that aren't known here by that name.
            revision: a branch, tag or commit.
            token: what to log in with, instead of what ``hf auth login`` stored.
            endpoint: another hub.
            cache_dir: another cache.

        Raises:
            ArtifactError: broken, malicious, of an unknown class, or made for another model.
            UnknownSiteError: a place that ``model`` doesn't have.
            HubError: no such repository or revision, no right to it, or no connection and nothing cached.
        """
        from .. import sharing

        return sharing.load(
            cls,
            load_directory,
            model,
            include_model=include_model,
            interventions=interventions,
            from_hub=from_huggingface_hub,
            local_dir=local_directory,
            revision=revision,
            token=token,
            endpoint=endpoint,
            cache_dir=cache_dir,
        )

    def __str__(self) -> str:
        return display.text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return display.html(self)

    @contextmanager
    def _lasting(self) -> Iterator[ExitStack]:
        """What a call opens: closed at its end, or left open by `through_backward`."""
        if self._open is not None:
            self._open.close()
            yield self._open
            return
        if (
            torch.is_grad_enabled()
            and checkpoints(self.adapted.model)
            and any(p.requires_grad for p in self.parameters())
        ):
            raise GradientCheckpointingError(
                "under gradient checkpointing the backward pass computes layers again, and the interventions must act "
                "there too: call this, and backward(), inside `with intervenable.through_backward():`"
            )
        with ExitStack() as stack:
            yield stack

    @contextmanager
    def _gradients(self) -> Iterator[None]:
        with nullcontext() if self._trains_model else frozen(self.adapted.model):
            yield

    def _plan(
        self,
        base: Any,
        sources: Any,
        unit_locations: Mapping[str, Any] | None,
        source_representations: Any,
        activations_sources: Any,
        subspaces: Any,
        attention: str | None,
        from_tokens: bool = False,
    ) -> tuple[Round, list[Act]]:
        """What this call does, checked before anything runs."""
        if source_representations is not None and activations_sources is not None:
            raise ConfigError("source_representations and activations_sources are the same: give one of them")
        groups = self.config.groups()
        given = self._given(source_representations if source_representations is not None else activations_sources)
        runs = by_group(sources, len(groups))
        if sources is None:
            require(self.places, given)
        runs = only_used(runs, sources, self.places, given, self.config.mode)
        into = targets(runs, base, self.config.mode)
        units = [place.unit for place in self.places]
        chosen = by_intervention(subspaces, len(self.places), batch_of(base))
        located = sides(unit_locations, self.config.mode, groups, units)
        if from_tokens:
            located = _as_columns(located, runs, into, base)
        acts = acts_of(self.places, located, runs, given, chosen, into)
        plan = Round(self.adapted, acts, runs, attention if attention is not None else self._attention)
        return plan, sorted((act for group in acts for act in group), key=lambda act: act.place.index)

    def _given(self, tensors: Any) -> dict[str, Tensor]:
        return by_key(tensors, self.places)

    def _result(
        self,
        original: Any,
        intervened: Any,
        acts: Sequence[Act],
        return_dict: bool | None,
        collected: list[Any] | None = None,
    ) -> Any:
        """What a call gives back; ``collected`` where generation has put it together already."""
        if collected is None:
            collecting = [act for act in acts if act.intervention.collects]
            unseen = [act.place.key for act in collecting if len(act.collected) != len(act.patches)]
            if unseen:
                raise NeverFiredError(f"{unseen[0]}: nothing was collected, no run came by there")
            collected = [act.result() for act in collecting]
        if return_dict:
            return IntervenableOutput(original, intervened, collected or None)
        return (Original(original, collected) if collected else original), intervened


def _as_columns(
    located: Sequence[tuple[Sequence[Location], Sequence[Location]]],
    runs: Sequence[Any],
    into: Sequence[Any],
    base: Any,
) -> list[tuple[list[Location], list[Location]]]:
    """The same locations with positions as columns, where they counted each row's real tokens."""
    return [
        (
            [counted_from_tokens(x, source) for x in left],
            [counted_from_tokens(x, target, spans=target is not base) for x in right],
        )
        for (left, right), source, target in zip(located, runs, into, strict=True)
    ]

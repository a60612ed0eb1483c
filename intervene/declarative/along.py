"""Sources that are generated along: what their own generated tokens hold is written at the base's, one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..selection import Frame, Selection, find_axis
from ..sites import Site
from .acts import Along, Writes
from .collected import Collected
from .engine import Round
from .generation import ASSISTANCE, generate, in_pieces, same_chances, setting
from .inputs import batch_of
from .moments import InTime, has_positions
from .padding import columns_of


class GenerateAlong:
    """A round's reader that generates from a source as the base is generated from, with the same random numbers.

    Under beam search a source is the sequence that its own search finds best: its beams are followed back from there,
    so that what it holds doesn't depend on the base's beams, each of which is given it. Where several sequences are
    sampled for a prompt, the source's first goes with the base's first, and so on. No assistant proposes a source's
    tokens, for what was rejected would be seen too.

    Attributes:
        collected: what was collected in the sources' runs, by intervention.
    """

    def __init__(self, options: Mapping[str, Any], in_time: Callable[[Writes, Any], InTime]) -> None:
        """
        Args:
            options: of the base's ``generate``.
            in_time: makes what is written into a source's run act when it is meant to.
        """
        self._options = {name: value for name, value in options.items() if name not in ("streamer", *ASSISTANCE)}
        self._in_time = in_time
        self.collected: dict[str, Collected] = {}

    def __call__(self, plan: Round, source: Any, sites: Sequence[Site], writes: Writes) -> Mapping[Site, Along]:
        model = plan.adapted.model
        beams = (setting(model, self._options, "num_beams") or 1) > 1
        options = {**self._options, "return_dict_in_generate": beams}
        if beams:
            options["num_return_sequences"] = 1
        whole = list(dict.fromkeys(_everywhere(site) for site in sites))
        timed = self._in_time(writes, source)
        with same_chances(model), plan.session(timed.writes, whole, keep="all") as session:
            output = generate(model, source, **options)
        timed.check()
        self.collected |= timed.collected()
        batch = batch_of(source) or 1
        prompt = columns_of(source) if in_pieces(model, self._options) else None
        found = {}
        for site in sites:
            forwards = _Forwards(site, session.values[_everywhere(site)], batch, prompt)
            if beams:
                found[site] = forwards.along_beams(_beams(model, output))
            else:
                found[site] = forwards.along(output, _ends(setting(model, self._options, "eos_token_id")))
        return found


class _Forwards:
    """What a site held in a generation, forward by forward."""

    def __init__(self, site: Site, forwards: Sequence[Tensor], batch: int, prompt: int | None) -> None:
        """
        Args:
            site: with its selection, which the forwards don't have.
            forwards: its activations.
            batch: how many rows the source has.
            prompt: how many columns, where the first forward doesn't say.
        """
        self._site, self._batch = site, batch
        self._axis = find_axis("positions", site.axes, forwards[0].dim()) if has_positions(site) else None
        first = 1
        if self._axis is not None and prompt is not None:
            while first < len(forwards) and sum(f.shape[self._axis] for f in forwards[:first]) < prompt:
                first += 1
        self._prompt, self._steps = list(forwards[:first]), list(forwards[first:])

    def along(self, sequences: Any, ends: Tensor | None) -> Along:
        """Every row with its own past; a row that has ended has no more tokens, whatever it is filled up with."""
        copies = max(len(self._prompt[0]) // self._batch, 1)
        count, lengths = len(self._steps), None
        if count and ends is not None and isinstance(sequences, Tensor):
            # The token that ends a row comes by only where a longer row goes on, so it isn't the row's own.
            ended = torch.isin(sequences[:, -count - 1 : -1], ends.to(sequences.device)).cumsum(1)
            found = (ended == 0).sum(1).tolist()
            lengths = found if min(found) < count else None
        return self._held(self._prompt, self._steps, copies, lengths)

    def along_beams(self, beams: Tensor) -> Along:
        """Each row by the beams that the best sequence went through, (rows, tokens), -1 after its end."""
        times = max(len(self._prompt[0]) // self._batch, 1)
        prompt = [forward[::times] for forward in self._prompt]
        # A token passes by in the forward that decides the one after it.
        followed = beams[:, 1:].clamp(min=0)
        steps = [forward[followed[:, index]] for index, forward in enumerate(self._steps[: followed.shape[1]])]
        found = ((beams >= 0).sum(1) - 1).clamp(min=0).tolist()
        return self._held(prompt, steps, 1, found if min(found) < len(steps) else None)

    def _held(self, prompt: Sequence[Tensor], steps: Sequence[Tensor], copies: int, lengths: list[int] | None) -> Along:
        """What of them the site's selection means."""
        if self._axis is None:
            found = Along(prompt[0], None, copies, lengths)
        else:
            whole = torch.cat(list(prompt), dim=self._axis)
            # Without a cache a forward has all columns again, the new one last.
            new = [forward.narrow(self._axis, forward.shape[self._axis] - 1, 1) for forward in steps]
            found = Along(
                whole, torch.cat(new, dim=self._axis) if new else whole.narrow(self._axis, 0, 0), copies, lengths
            )
        here = self._site.selection
        anywhere = here._replace(positions=None)
        return replace(
            found,
            prompt=found.by_copy(partial(self._selected, here), found.prompt),
            generated=None
            if found.generated is None
            else found.by_copy(partial(self._selected, anywhere), found.generated),
        )

    def _selected(self, selection: Selection, part: Tensor) -> Tensor:
        length = None if self._axis is None else part.shape[self._axis]
        picked = selection.resolve(part.shape, self._site.axes, Frame(length=length))
        return part if picked is None else picked.lens.get(part)


def _everywhere(site: Site) -> Site:
    return replace(site, selection=Selection(call=site.selection.call, expert=site.selection.expert))


def _beams(model: nn.Module, output: Any) -> Tensor:
    beams = getattr(output, "beam_indices", None)
    if not isinstance(beams, Tensor):
        raise UnsupportedModelError(
            f"{type(model).__name__}.generate doesn't say which beams its best sequence went through (beam_indices), "
            f"so a source can't be generated along under beam search; leave out generate_sources, or say num_beams=1"
        )
    return beams


def _ends(token: Any) -> Tensor | None:
    """The tokens that end a row."""
    return None if token is None else torch.as_tensor(token).reshape(-1)

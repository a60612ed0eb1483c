"""Sessions: the one place where hooks are attached and removed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from . import guards
from .checkpointing import Awaited, checkpointing, recomputing
from .clock import Clock
from .errors import (
    AmbiguousCallError,
    GradientCheckpointingError,
    NeverFiredError,
    SessionError,
)
from .paths import way
from .ports import Handle, Port
from .shadow import Around
from .sites import Site, Values
from .taps import Read, Tap, Timed, Write

Written = Tensor | float | int | Callable[[Tensor], Tensor | None] | Timed
Keep = Literal["last", "all"]


class Session:
    """Reads and writes of any number of sites around any call of a model.

    Made by `Adapted.session`. Hooks exist between ``with`` and its end, whatever happens in between; several sites
    at one port share one hook. At a port, writes act in the order they were given, and reads see what flows on.

    Its arguments are those of `Adapted.session`, which documents ``grad``, ``keep``, ``device``, ``dtype`` and
    ``attention``; here addresses are already sites, and devices and dtypes known to be some.

    Args:
        model: the model whose calls are seen, the hooked one.
        reads: the sites to read, each by what the caller called it.
        writes: the sites to write with what is written there, in that order.
        stop: leave the forward by raising `Stop` once every read has its value, for a caller that catches it. Where
            accelerate offloads a module that is read, the forward runs to its end all the same.
        towers: the path of the module that takes a tower's sequence, by the tower's name, for the towers whose
            positions aren't the model's own (`Adapter.roots`).

    Attributes:
        values: what was read, by site or address.

    Raises:
        SessionError: ``keep`` is neither ``"last"`` nor ``"all"``.
    """

    def __init__(
        self,
        model: nn.Module,
        reads: Mapping[Any, Site],
        writes: Iterable[tuple[Site, Written]] = (),
        *,
        grad: bool = False,
        keep: Keep = "last",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        attention: str | None = None,
        stop: bool = False,
        towers: Mapping[str | None, str] | None = None,
    ) -> None:
        if keep not in ("last", "all"):
            raise SessionError(f"keep is 'last' or 'all', not {keep!r}")
        self._model = model
        self._values = Values(reads)
        self._attention = attention
        self._clock = Clock()
        self._handles: list[Handle] = []
        self._entered = False
        self._awaited = Awaited(model)
        self._reads = [
            Read(s, self._values, grad=grad, keep_all=keep == "all", device=device, dtype=dtype)
            for s in dict.fromkeys(reads.values())
        ]
        self._taps: list[Tap] = [Write(site, value) for site, value in writes]
        self._taps += self._reads
        if towers:
            for tap in self._taps:
                tap.root = _root(tap.site, towers)
        self._stop = stop and not any(guards.offloaded(model, tap.site.port.path) for tap in self._reads)

    @property
    def values(self) -> Values:
        """The tensors read so far, by site or address; with ``keep="all"`` a list with one for each forward.

        Raises:
            SessionError: the session wasn't entered.
        """
        if not self._entered:
            raise SessionError("the session has no values yet: enter it with `with` and call the model")
        return self._values

    @property
    def finished(self) -> bool:
        """Whether every read has its value."""
        return all(read.fired for read in self._reads)

    def __enter__(self) -> Session:
        if self._entered:
            raise SessionError("a session is entered once; make another for another round")
        taps: dict[Port, list[Tap]] = {}
        for tap in self._taps:
            taps.setdefault(tap.site.port, []).append(tap)
        try:
            if self._attention is not None:
                self._handles.append(guards.AttentionImplementation(self._model, self._attention))
            for port in taps:
                port.require(self._model)
            self._handles += self._clock.attach(self._model, {tap.root for tap in self._taps} - {""}, sys._getframe(1))
            for port, those in taps.items():
                self._handles.append(port.attach(self._model, _Dispatch(self, those)))
            if guards.compiled_something():
                # What is compiled checks the forward of each module before it runs, but no hooks: it is traced anew.
                hooked = {path for port in taps for path in port.paths}
                self._handles += [Around(way(self._model, path)[-1], self._passes) for path in hooked]
        except BaseException:
            self._detach()
            raise
        self._entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._detach()
        if kind is None:
            self._check_fired()
            self._awaited.check()

    def _passes(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    def _detach(self) -> None:
        # The last attached goes first, so that what shadows something else uncovers it again.
        while self._handles:
            self._handles.pop().remove()
        self._clock.forget()

    def _check_fired(self) -> None:
        forwards = self._clock.forwards
        for tap in self._taps:
            if tap.last_column >= 0 and (tap.missed or not tap.fired):
                missed = sorted(tap.missed or ()) or tap.site.selection.positions
                raise NeverFiredError(
                    f"{tap.site.address}: position(s) {missed} never came by; the forwards covered columns "
                    f"0 to {tap.last_column}"
                )
            if not tap.fired:
                where = (
                    "no forward of the model ran while the session was open"
                    if not forwards
                    else f"{forwards} forward(s) ran and none passed there"
                )
                raise NeverFiredError(f"{tap.site.address} ({tap.site.port}) never fired: {where}")


class Stop(BaseException):
    """Leaves a forward whose remaining layers nobody reads; a BaseException so that no model catches it."""


class _Dispatch:
    """One port's callback: lets the taps there see the tensor in their order."""

    def __init__(self, session: Session, taps: list[Tap]) -> None:
        self._session = session
        self._taps = taps
        self._forward = -1
        self._call = 0
        self._replays: list[object] = []

    def __call__(self, whole: Tensor) -> Tensor | None:
        session, clock = self._session, self._session._clock
        again = recomputing()
        call = self._count(clock)
        changed = None
        written: Site | None = None
        for tap in self._taps:
            chosen = tap.call
            if chosen is None and call > 0 and not again:
                raise AmbiguousCallError(
                    f"{tap.site.address}: {tap.site.port.path or 'the model'} ran {call + 1} times in one "
                    f"forward; say which with .at(call=0), .at(call=1), ..."
                )
            if chosen is not None and (chosen != call or again):
                continue
            new = tap.see(whole if changed is None else changed, clock.frame(tap.root), again)
            if new is not None:
                changed, written = new, tap.site
                if chosen is not None and clock.grad and checkpointing():
                    raise GradientCheckpointingError(
                        f"{written.address}: a backward pass that computes the layer again doesn't say which call "
                        f"it computes; turn checkpointing off with model.gradient_checkpointing_disable()"
                    )
        if changed is not None and written is not None and clock.grad:
            changed = session._awaited.note(whole, changed, written.address, again, self._replays)
        if session._stop and session.finished:
            raise Stop
        return changed

    def _count(self, clock: Clock) -> int:
        # What runs after a forward, with none under way, was called on its own.
        self._call = self._call + 1 if self._forward == clock.forwards and clock.running else 0
        self._forward = clock.forwards
        return self._call


def _root(site: Site, towers: Mapping[str | None, str]) -> str:
    """The path of the root, among the towers', whose sequence a site's positions are in; "" for the model's own."""
    if site.tower is not None:
        return towers.get(site.tower, "")
    # A site by module path lies in the tower that holds the module.
    inside = [path for path in towers.values() if f"{site.port.path}.".startswith(f"{path}.")]
    return max(inside, key=len, default="")

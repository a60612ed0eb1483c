"""A case: one drawn setting brought to life, with the runs that the laws compare."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from ..adapted import Adapted
from ..sites import Site, Sites, Values
from .scan import recurrent_states
from .setting import Setting, make_inputs, make_past
from .subject import Subject

CACHE = "the cache"
"""What the outputs' names begin with that are the states left in a cache."""


class Case:
    """A model, its inputs, and plain as well as intervened runs of it, all seeded alike.

    Args:
        subject: the adapter under test.
        setting: what was drawn.
        twin: on a second model, equal to the first.
    """

    def __init__(self, subject: Subject, setting: Setting, *, twin: bool = False) -> None:
        self.subject = subject
        self.setting = setting
        which = (setting.model, setting.dtype, setting.attention)
        self.model = subject.model(*which, twin=twin)
        if self.model.training != setting.training:
            self.model.train(setting.training)
        self.adapted: Adapted = subject.adapted(*which, twin=twin)
        self.inputs = make_inputs(subject, self.model, setting)
        self.past = make_past(subject, self.model, setting)
        self.generator = torch.Generator().manual_seed(setting.seed + 1)

    @property
    def depth(self) -> int:
        """How many layers the model has."""
        return self.adapted.layers

    @cached_property
    def plain(self) -> dict[str, Tensor]:
        """The outputs of the model with nothing attached."""
        return self.forward()

    def forward(self, *, grad: bool | None = None, graph: bool = False, **extra: Any) -> dict[str, Tensor]:
        """The outputs of one forward, dropout seeded; torch's random state is as before afterwards.

        What a forward that continues from a cache leaves there counts among its outputs.

        Args:
            grad: whether gradients are enabled, in place of the setting's.
            graph: keep the outputs' graph.
        """
        arguments = self.arguments(**extra)
        with self.outputs_of(self.model) as outputs:
            outputs[""] = self._call(arguments, grad)
            if self.past:
                states = recurrent_states({name: arguments[name] for name in self.past})
                outputs[CACHE] = {f"state of layer {n}": state for n, state in enumerate(states)}
        return tensors(outputs, graph)

    @contextmanager
    def outputs_of(self, model: nn.Module) -> Iterator[dict[str, Any]]:
        """What the root of each tower returns, by its path; some models pass on little of it.

        The caller adds what the model itself returns, under the empty path.
        """
        found: dict[str, Any] = {}
        handles = []
        for path, root in dict(tower.root(model) for tower in self.subject.by_tower).items():
            if path:
                keep = partial(_keep, found, path)
                handles.append(root.register_forward_hook(keep))
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()

    def arguments(self, **extra: Any) -> dict[str, Any]:
        """The arguments of one forward; a cache is a copy of its own, for a forward goes on in it."""
        inputs = {**self.inputs, **copy.deepcopy(self.past), **extra}
        if "use_cache" in signature(type(self.model).forward).parameters:
            inputs.setdefault("use_cache", False)
        return inputs

    def call(self, *, grad: bool | None = None, **extra: Any) -> Any:
        """What the model returns for the case's inputs."""
        return self._call(self.arguments(**extra), grad)

    def _call(self, arguments: Mapping[str, Any], grad: bool | None) -> Any:
        enabled = self.setting.grad if grad is None else grad
        with seeded(self.setting.seed, self.subject.device), torch.set_grad_enabled(enabled):
            return self.model(**arguments)

    def run(
        self,
        writes: Mapping[Site, Any] | Iterable[tuple[Site, Any]] = (),
        reads: Iterable[Site] = (),
    ) -> tuple[dict[str, Tensor], Values]:
        """The outputs and read values of one forward in a session."""
        with self.adapted.session(reads=reads, writes=writes) as session:
            outputs = self.forward()
        return outputs, session.values

    def site(self, component: str, layer: int | None = None) -> Site:
        """A component's site in the tower that the checks are about."""
        return self.adapted.site(component, layer, self.subject.tower_name or None)

    @property
    def sites(self) -> Sites:
        """The sites of that tower."""
        return Sites(s for s in self.adapted.sites if (s.tower or "") == self.subject.tower_name)

    def read(self, site: Site) -> Tensor:
        """What flows by at a site in the plain run."""
        value: Tensor = self.run(reads=[site])[1][site]
        return value

    def random(self, like: Tensor, scale: float = 1.0) -> Tensor:
        """Normal values of a tensor's shape and dtype, where it is."""
        return (scale * torch.randn(like.shape, generator=self.generator)).to(like)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's random numbers begin from a seed, on the CPU and the device; afterwards they go on as before."""
    accelerated = [device] if device.type != "cpu" else []
    with torch.random.fork_rng(devices=accelerated, device_type=device.type if accelerated else "cuda"):
        # torch.manual_seed also notes a stack trace for each accelerator: a quarter of the suite's time.
        torch.default_generator.manual_seed(seed)
        if accelerated:
            torch.get_device_module(device).manual_seed(seed)
        yield


def _keep(found: dict[str, Any], path: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    found[path] = output


def tensors(outputs: Mapping[str, Any], graph: bool = False) -> dict[str, Tensor]:
    """The floating-point tensors that modules returned, by module path and name; caches are left out."""
    found = {}
    for path, output in outputs.items():
        if isinstance(output, Tensor):
            items: Iterable[tuple[Any, Any]] = [("output", output)]
        else:
            items = output.items() if isinstance(output, Mapping) else enumerate(output)
        prefix = f"{path}." if path else ""
        found.update({f"{prefix}{n}": v for n, v in items if isinstance(v, Tensor) and v.is_floating_point()})
    return found if graph else {n: v.detach() for n, v in found.items()}

"""Module paths: the way from a model to one of its modules."""

from __future__ import annotations

from torch import nn


def way(model: nn.Module, path: str) -> list[nn.Module]:
    """The model and each module on the way to ``path``, that one last.

    Raises:
        AttributeError: no module there.
    """
    modules = [model]
    for part in path.split(".") if path else []:
        # The registry itself: torch's get_submodule costs several times as much, and a session asks for each port.
        found = modules[-1]._modules.get(part)
        # Some wrappers pass on the attributes of what they wrap.
        modules.append(found if found is not None else getattr(modules[-1], part))
    return modules

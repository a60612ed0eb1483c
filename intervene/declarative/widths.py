"""Widths: how many features a site has, as the spec, the module or another site at the same place says."""

from __future__ import annotations

from torch import nn

from ..adapted import Adapted
from ..errors import UnknownSiteError
from ..lenses import Whole
from ..paths import way
from ..ports import Input, Output
from ..recurrent import Steps
from ..sites import Site


def width(adapted: Adapted, site: Site) -> int | None:
    """The width of a site's last axis, None where nobody says."""
    if site.axes is None:
        found = _module_width(way(adapted.model, site.port.path)[-1], site)
        return found if found is not None else _of_component(adapted, site)
    adapter = adapted.adapter
    if adapter is None:
        return None
    spec = adapter.load_spec().towers.get(site.tower or "")
    claimed = None if spec is None else spec.components.get(site.component)
    if spec is None or claimed is None:
        return None
    return claimed.shape(adapter.known_as, spec.config_of(adapter.config))[-1]


def input_width(adapted: Adapted, site: Site) -> int | None:
    """The width of the input of a site's module, None where nobody says."""
    if not isinstance(site.port, (Input, Output)):
        return None
    there = module_input(site)
    found = _module_width(way(adapted.model, site.port.path)[-1], there)
    return found if found is not None else _of_component(adapted, there)


def module_input(site: Site) -> Site:
    """The input of the module whose output ``site`` is.

    Raises:
        UnknownSiteError: the site isn't a module's output.
    """
    if isinstance(site.port, Input):
        return site
    if not isinstance(site.port, Output):
        raise UnknownSiteError(f"{site.address} ({site.port}) is not the output of a module, so it has no input")
    # A head's part of the output has no like part of the input.
    axes = None if site.axes is None else tuple(a for a in site.axes if a not in ("head", "kv_head"))
    return Site(f"{site.port.path}.input", None, None, axes, Input(site.port.path))


def _of_component(adapted: Adapted, site: Site) -> int | None:
    """The width of the component that is at the same port, whole: a block has none of its own, its output has."""
    same = (s for s in adapted.sites if s.port == site.port and isinstance(s.lens, Whole))
    found = next(same, None)
    return None if found is None else width(adapted, found)


def _module_width(module: nn.Module, site: Site) -> int | None:
    """What a module of torch or transformers says about the width of its input or output."""
    if isinstance(module, nn.LayerNorm):
        return int(module.normalized_shape[-1])
    if isinstance(module, nn.RNNBase) and not isinstance(site.port, Input):
        state = module.proj_size or module.hidden_size
        return state * (2 if module.bidirectional and not isinstance(site.port, Steps) else 1)
    names = _INPUT_WIDTHS if isinstance(site.port, Input) else _OUTPUT_WIDTHS
    return next((getattr(module, n) for n in names if isinstance(getattr(module, n, None), int)), None)


_INPUT_WIDTHS = ("in_features", "input_size", "nx")
_OUTPUT_WIDTHS = ("out_features", "embedding_dim", "hidden_size", "nf")

"""The laws, one module each. Importing this package registers them in the order of the report's columns."""

from . import (  # noqa: I001 - the order of the columns
    identity,
    put_get,
    reversible,
    local,
    causal,
    alive,
    shaped,
    meaning,
    differentiable,
    generation,
    composable,
    implementations,
)

__all__ = [
    "alive",
    "causal",
    "composable",
    "differentiable",
    "generation",
    "identity",
    "implementations",
    "local",
    "meaning",
    "put_get",
    "reversible",
    "shaped",
]

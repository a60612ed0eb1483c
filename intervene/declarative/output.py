"""What a call of an `IntervenableModel` gives back when asked for names."""

from __future__ import annotations

from typing import Any, NamedTuple


class IntervenableOutput(NamedTuple):
    """The result of a call with ``return_dict=True``; its parts go by attribute, by name in brackets, or in order.

    Attributes:
        original_outputs: what the model says without interventions; None unless ``output_original_output=True``.
        intervened_outputs: what it says with them.
        collected_activations: what each `CollectIntervention` saw, in the config's order; None where there is none.
    """

    original_outputs: Any
    intervened_outputs: Any
    collected_activations: list[Any] | None

    def __getitem__(self, key: Any) -> Any:
        return getattr(self, key) if isinstance(key, str) and key in self._fields else tuple.__getitem__(self, key)


class Original(NamedTuple):
    """The first of a call's pair where something was collected.

    Attributes:
        output: what the model says without interventions; None unless ``output_original_output=True``.
        collected: what each `CollectIntervention` saw, in the config's order.
    """

    output: Any
    collected: list[Any]


class InterventionOutput(NamedTuple):
    """What an intervention may return in place of a tensor, to show its latents along with its output.

    Attributes:
        output: the activation that flows on.
        latent: whatever it wants to show.
    """

    output: Any
    latent: Any = None

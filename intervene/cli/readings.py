"""What a causal trace says at its two famous places, in numbers and in a sentence each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..tracing import CausalTrace

# A share too small to name the layer it came from.
NOTHING = 0.01


@dataclass(frozen=True)
class Reading:
    """One position of a trace, read along the layers.

    Attributes:
        place: "the subject's last token" or "the last position".
        position: its column in the prompt.
        token: its text.
        layer: the layer whose restoration brings back most, the first of equals.
        value: the target's probability then.
        restored: the share of what the noise took that it brings back; None where the noise took nothing.
        layers_half: the layers that bring back at least half of it.
    """

    place: str
    position: int
    token: str
    layer: int
    value: float
    restored: float | None
    layers_half: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**self.__dict__, "layers_half": list(self.layers_half)}


def read(trace: CausalTrace, subject_last: int) -> tuple[Reading, ...]:
    """The early site (the subject's last token, at column ``subject_last``) and the late one (the last position).

    One reading where they are the same position; none for a component that has no layers.
    """
    if [axis.name for axis in trace.axes] != ["layer", "position"]:
        return ()
    last = len(trace.axes[1]) - 1
    early = _at(trace, subject_last, "the subject's last token")
    return (early,) if subject_last == last else (early, _at(trace, last, "the last position"))


def _at(trace: CausalTrace, column: int, place: str) -> Reading:
    layers, positions = trace.axes
    values = trace.values[:, column].tolist()
    best = max(range(len(values)), key=values.__getitem__)
    lost = trace.source - trace.base if trace.source is not None else 0.0
    shares = [(v - trace.base) / lost if lost > 0 else None for v in values]
    token = positions.texts[column].removesuffix("*") if positions.texts else str(column)
    return Reading(
        place=place,
        position=column,
        token=token,
        layer=int(layers.labels[best]),
        value=values[best],
        restored=shares[best],
        layers_half=tuple(int(layers.labels[i]) for i, s in enumerate(shares) if s is not None and s >= 0.5),
    )


def sentences(trace: CausalTrace, readings: tuple[Reading, ...], component: str) -> list[str]:
    """The readings in words."""
    clean, corrupted = trace.source or 0.0, trace.base
    lost = clean - corrupted
    if lost <= 0:
        return [
            f"The noise did not lower the probability of {trace.target!r} ({_percent(clean)} clean, "
            f"{_percent(corrupted)} corrupted), so there is nothing to bring back."
        ]
    said = [f"The noise takes the probability of {trace.target!r} from {_percent(clean)} to {_percent(corrupted)}."]
    said += [_sentence(reading, component) for reading in readings]
    if component == "block_output" and readings and abs(float(trace.values[-1, -1]) - clean) < 1e-3 * lost:
        layer = trace.axes[0].labels[-1]
        said[-1] += f" Layer {layer} brings back all of it by construction: the answer is computed from there alone."
    return said


def _sentence(reading: Reading, component: str) -> str:
    if reading.restored is None or reading.restored < NOTHING:
        return (
            f"At {reading.place} ({reading.token!r}), no layer's {component} brings back even {_percent(NOTHING)} of "
            f"what the noise took."
        )
    if reading.layers_half:
        half = f"at least half comes back with {_ranges(reading.layers_half)}"
    else:
        half = "no layer brings back half of it"
    return (
        f"At {reading.place} ({reading.token!r}), {component} of layer {reading.layer} brings back most: it lifts "
        f"the probability to {_percent(reading.value)}, {_percent(reading.restored)} of what the noise took; {half}."
    )


def _ranges(layers: tuple[int, ...]) -> str:
    """(0, 1, 2, 5) as "layers 0-2 and 5"."""
    spans: list[list[int]] = []
    for layer in layers:
        if spans and layer == spans[-1][-1] + 1:
            spans[-1].append(layer)
        else:
            spans.append([layer])
    texts = [str(s[0]) if len(s) == 1 else f"{s[0]}-{s[-1]}" for s in spans]
    listed = texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
    return f"{'layer' if len(layers) == 1 else 'layers'} {listed}"


def _percent(value: float) -> str:
    return f"{100 * value:.3g}%"

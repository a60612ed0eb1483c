"""Reports made by hand."""

from __future__ import annotations

from dataclasses import replace

from intervene.conformance import Outcome, Report, Status

LAWS = {
    "identity": "writing at a site what was read there leaves every output the same",
    "put_get": "what was written is what is read downstream of the write",
    "meaning": "the spec's relations hold",
    "generation": "under generate, an intervention gives the same tokens with a cache and without",
}
ABSENT_COMPONENTS = {"query_rotated": "no rotary <i>embedding</i>", "key_rotated": "no rotary <i>embedding</i>"}
LIMITS = {"block_output": ("not in ToyModel: it is too small", "load it with another setting")}
COMPONENTS = ("block_input", "head_attention_value_output", "block_output")


def outcome(id: str, status: Status = Status.PASSED, component: str | None = None, **more: object) -> Outcome:
    law, _, subject = id.partition(":")
    return Outcome(id, law, subject, subject if component is None else component, status, **more)  # type: ignore[arg-type]


FAILED = outcome(
    "put_get:block_output",
    Status.FAILED,
    message="what is read at layer.1.block_output is not what was written: <b>7</b> of 48 entries differ",
    example=("setting: ToyModel float32 eval; 1 row(s) of 2 column(s); seed 0", "layer: 1"),
    examples=6,
    seconds=0.5,
)
EXPECTED = outcome("identity:block_input", Status.EXPECTED_FAILURE, message="it differs", reason="our issue 12")
UNEXPECTED = outcome("put_get:block_input", Status.UNEXPECTED_PASS, reason="our issue 13")
ABSENT = outcome("generation:model", Status.NOT_APPLICABLE, "", reason="the spec claims no model class that generates")
PASSED = (
    outcome("identity:block_output", examples=6),
    outcome("identity:head_attention_value_output", examples=6),
    outcome("meaning:chain:block_output", component="block_output", examples=6, also=("block_input",)),
)


def report(*outcomes: Outcome, family: str = "toy", title: str = "Toy & Co", total: int = 0) -> Report:
    return Report(
        family,
        title,
        outcomes,
        "ci",
        None,
        {"torch-intervene": "0.1.0", "torch": "2.13.0"},
        COMPONENTS,
        LAWS,
        41.2,
        total=total,
        models=("ToyModel", "ToyHead, wide"),
        absent=ABSENT_COMPONENTS,
        limits=LIMITS,
    )


GOOD = report(*PASSED, ABSENT, family="good", title="Good")
BAD = report(*PASSED, FAILED, EXPECTED, UNEXPECTED, ABSENT)
PARTIAL = replace(report(PASSED[0], family="part", title="Part"), total=40)

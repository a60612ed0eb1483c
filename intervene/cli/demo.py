"""``intervene demo``: where a small trained model keeps a fact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..adapted import adapt
from . import loading, options
from .console import note, remarks
from .report import Asked, report

EXAMPLES = """\
Examples:

  intervene demo

  intervene demo --component mlp_output --window 3

  intervene demo --json --no-picture > trace.json
"""


def run(
    prompt: Annotated[
        str | None,
        typer.Option(callback=options.said, metavar="TEXT", help="Another text of the demo's world; needs --subject."),
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option(callback=options.said, metavar="TEXT", help="The part of the prompt that is corrupted."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The word to measure; the model's own answer by default.")
    ] = None,
    component: options.Component = "block_output",
    window: options.Window = 1,
    sigma: options.Sigma = 3.0,
    samples: options.Samples = 10,
    seed: options.Seed = 0,
    output: options.Output = Path("causal_trace.png"),
    no_picture: options.NoPicture = False,
    as_json: options.Json = False,
) -> None:
    """Trace a fact in a small GPT-2 that comes with the package.

    The model was trained on invented landmarks and the cities they stand in. The landmark's embeddings are corrupted
    with noise, and one clean activation at a time is put back: the heatmap shows where that brings the city back
    (causal tracing, Meng et al. 2022).
    """
    from .. import demo

    if prompt is not None and subject is None:
        raise typer.BadParameter("which part of --prompt is corrupted? Add --subject", param_hint="--prompt")
    picture = options.picture_to(output, no_picture)
    own = prompt is None and subject is None
    if target is None and own:
        target = demo.DEMO_TARGET
    prompt = demo.DEMO_PROMPT if prompt is None else prompt
    subject = demo.DEMO_SUBJECT if subject is None else subject
    model, tokenizer = loading.demo_model()
    unknown = loading.unknown_words(tokenizer, " ".join([prompt, target or ""]))
    if unknown:
        note(f"the demo model has never seen {', '.join(unknown)}; it reads {tokenizer.unk_token} there")
    with remarks():
        report(
            adapt(model),
            tokenizer,
            Asked(
                model="the demo model",
                prompt=prompt,
                subject=subject,
                target=target,
                component=component,
                window=window,
                sigma=sigma,
                samples=samples,
                seed=seed,
            ),
            picture=picture,
            as_json=as_json,
        )

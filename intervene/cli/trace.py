"""``intervene trace``: where a language model keeps a fact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..adapted import adapt
from . import blocks, loading, options
from .console import remarks
from .report import Asked, report

EXAMPLES = """\
Examples:

  intervene trace gpt2 --prompt "Paris is in" --subject Paris

  intervene trace ./model --prompt "..." --subject "..." --layers 0-5,8

  intervene trace gpt2-xl --prompt "..." --subject "..." --dtype float16

  intervene trace gpt2 ... --component mlp_output --window 3 -o mlp.pdf
"""


def run(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder with a saved model, or a model of the hub.")],
    prompt: Annotated[str, typer.Option(callback=options.said, metavar="TEXT", help="The text to trace.")],
    subject: Annotated[
        str, typer.Option(callback=options.said, metavar="TEXT", help="The part of the prompt that is corrupted.")
    ],
    target: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The continuation to measure (its first token); the model's own by default."),
    ] = None,
    component: options.Component = blocks.BLOCKS,
    window: options.Window = 1,
    sigma: options.Sigma = 3.0,
    samples: options.Samples = 10,
    seed: options.Seed = 0,
    layers: Annotated[
        str | None, typer.Option(metavar="LIST", help="The layers restored, as in 0-5,8; all by default.")
    ] = None,
    output: options.Output = Path("causal_trace.png"),
    no_picture: options.NoPicture = False,
    as_json: options.Json = False,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps; by default cuda where there is one, else cpu."),
    ] = None,
    dtype: Annotated[
        loading.DType,
        typer.Option(metavar="TYPE", help="float32, bfloat16, float16; auto is what the weights were saved in."),
    ] = loading.DType.auto,
    attention: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="eager or sdpa; eager lets attention_pattern be restored."),
    ] = None,
    revision: options.Revision = None,
) -> None:
    """Trace a fact in any causal language model.

    The subject's embeddings are corrupted with noise, and one clean activation at a time is put back: the heatmap
    shows where that brings the target back (causal tracing, Meng et al. 2022). MODEL is a local folder where there
    is one of that name, else a model of the hub.
    """
    try:
        chosen = options.parse_layers(layers)
    except typer.BadParameter as error:
        error.param_hint = "--layers"
        raise
    picture = options.picture_to(output, no_picture)
    loaded, tokenizer = loading.causal_lm(model, device=device, dtype=dtype, attention=attention, revision=revision)
    adapted = adapt(loaded)
    with remarks():
        report(
            adapted,
            tokenizer,
            Asked(
                model=model,
                prompt=prompt,
                subject=subject,
                target=target,
                component=blocks.component_of(adapted, component),
                window=window,
                sigma=sigma,
                samples=samples,
                seed=seed,
                layers=chosen,
            ),
            picture=picture,
            as_json=as_json,
        )

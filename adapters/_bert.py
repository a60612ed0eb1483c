"""What transformers' descendants of BERT share: a block whose modules `attention` and `output` add the residual."""

from __future__ import annotations

from intervene.ports import Input, Output
from intervene.tables import Rows, attention


def bert_attention(module: str, heads: int, *, cross: bool = False) -> Rows:
    """The rows of the attention ``module``, up to what it adds to the residual stream."""
    query, key, value = (Output(f"{module}.self.{name}") for name in ("query", "key", "value"))
    prefix = "cross_" if cross else ""
    return {
        f"{prefix}attention_input": Input(f"{module}.self"),
        **attention(f"{module}.self", query, key, value, Input(f"{module}.output.dense"), heads, cross=cross),
        # The modules around it give back the sum with the residual.
        f"{prefix}attention_output": Output(f"{module}.output.dropout"),
    }


def bert_mlp() -> Rows:
    """The rows of the MLP."""
    return {
        "mlp_input": Input("intermediate"),
        "mlp_activation": Input("output.dense"),
        "mlp_output": Output("output.dropout"),
    }

"""The small models that pyvene brings for its tutorials, an MLP and a GRU, with its names for modules and arguments.

Their state dicts have pyvene's keys. The GRU's cells are called once a layer and time step, so unit ``"t"`` counts the
steps (Cho et al. 2014, https://arxiv.org/abs/1406.1078).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import ConfigError


class _Config:
    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]


@dataclass
class MLPConfig(_Config):
    """An MLP of ``n_layer`` blocks of width ``h_dim`` and a classifier."""

    include_emb: bool = False
    vocab_size: int = 50_257
    max_position_embeddings: int = 512
    n_layer: int = 2
    h_dim: int = 512
    num_classes: int = 2
    activation_function: str = "gelu"
    pdrop: float = 0.3
    problem_type: str | None = "single_label_classification"
    include_bias: bool = True
    squeeze_output: bool = True


@dataclass
class GRUConfig(_Config):
    """A GRU of ``n_layer`` layers of width ``h_dim``."""

    include_emb: bool = False
    vocab_size: int = 50_257
    max_position_embeddings: int = 512
    n_layer: int = 2
    h_dim: int = 512
    n_labels: int = 2
    include_bias: bool = True
    pdrop: float = 0.3
    problem_type: str | None = "single_label_classification"
    initializer_range: float = 0.02


class Result(NamedTuple):
    """What these models give back with ``return_dict=True``."""

    loss: Tensor | None
    logits: Tensor
    hidden_states: Any


class _Embedded(nn.Module):
    """Embeds tokens and positions where the config asks for embeddings."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        if config.include_emb:
            self.wte = nn.Embedding(config.vocab_size, config.h_dim)
            self.wpe = nn.Embedding(config.max_position_embeddings, config.h_dim)

    def embed(self, input_ids: Tensor | None, position_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if inputs_embeds is None and not (self.config.include_emb and input_ids is not None):
            raise ConfigError("give inputs_embeds, or input_ids to a model whose config says include_emb=True")
        found: Tensor = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
        return found if position_ids is None else found + self.wpe(position_ids)


class MLPBlock(nn.Module):
    """A linear layer, its activation and dropout."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.in_features = self.out_features = config.h_dim
        self.ff1 = nn.Linear(config.h_dim, config.h_dim, bias=config.include_bias)
        self.act = _activation(config.activation_function)
        self.dropout = nn.Dropout(config.pdrop)

    def forward(self, hidden: Tensor) -> Tensor:
        found: Tensor = self.dropout(self.act(self.ff1(hidden)))
        return found


class MLPModel(_Embedded):
    """The blocks."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(config.pdrop)
        self.h = nn.ModuleList([MLPBlock(config) for _ in range(config.n_layer)])

    def forward(
        self, input_ids: Tensor | None = None, position_ids: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The last hidden state, and all of them."""
        hidden = self.dropout(self.embed(input_ids, position_ids, inputs_embeds))
        seen = [hidden]
        for block in self.h:
            seen.append(block(seen[-1]))
        return seen[-1], tuple(seen)


class MLPForClassification(nn.Module):
    """The blocks and a classifier of what leaves them."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.config = config
        self.mlp = MLPModel(config)
        self.score = nn.Linear(config.h_dim, config.num_classes, bias=config.include_bias)

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """``(loss, logits, hidden states)``, without those that weren't asked for, or a `Result`."""
        last, states = self.mlp(input_ids, position_ids, inputs_embeds)
        logits = self.score(last)
        logits = logits.squeeze(1) if self.config.squeeze_output else logits
        loss = None if labels is None else _loss(self.config, logits, labels, self.config.num_classes)
        return _result(loss, logits, states if output_hidden_states else None, return_dict)


class GRUCell(nn.Module):
    """One step of one layer."""

    def __init__(self, config: GRUConfig) -> None:
        super().__init__()
        self.in_features = self.out_features = config.h_dim
        self.x2h = nn.Linear(config.h_dim, 3 * config.h_dim, bias=config.include_bias)
        self.h2h = nn.Linear(config.h_dim, 3 * config.h_dim, bias=config.include_bias)
        self.reset_act, self.update_act, self.new_act = nn.Sigmoid(), nn.Sigmoid(), nn.Tanh()
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(config.h_dim**-0.5), config.h_dim**-0.5)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """The layer's next state (batch, width) from its input and its state."""
        x_reset, x_update, x_new = self.x2h(x).chunk(3, dim=1)
        h_reset, h_update, h_new = self.h2h(state).chunk(3, dim=1)
        reset, update = self.reset_act(x_reset + h_reset), self.update_act(x_update + h_update)
        new = self.new_act(x_new + reset * h_new)
        found: Tensor = update * state + (1 - update) * new
        return found


class GRUModel(_Embedded):
    """The layers, step by step."""

    def __init__(self, config: GRUConfig) -> None:
        super().__init__(config)
        self.cells = nn.ModuleList([GRUCell(config) for _ in range(config.n_layer)])

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        hidden_states: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The last layer's states (batch, time, width), and the last of them."""
        steps = self.embed(input_ids, position_ids, inputs_embeds)
        empty = steps.new_zeros(len(self.cells), steps.shape[0], self.config.h_dim)
        states = list(empty if hidden_states is None else hidden_states)
        seen = []
        for x in steps.unbind(1):
            for layer, cell in enumerate(self.cells):
                states[layer] = x = cell(x, states[layer])
            seen.append(x)
        return torch.stack(seen, dim=1), seen[-1]


class GRUForClassification(nn.Module):
    """A classifier of each row's last real step."""

    def __init__(self, config: GRUConfig) -> None:
        super().__init__()
        self.config = config
        self.gru = GRUModel(config)
        self.score = nn.Linear(config.h_dim, config.n_labels, bias=False)

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """``(loss, logits, last state)``, without a loss where there are no labels, or a `Result`."""
        states, last = self.gru(input_ids, position_ids, inputs_embeds)
        if attention_mask is not None:
            ends = attention_mask.sum(-1).long() - 1
            pooled = states[torch.arange(len(states), device=states.device), ends]
        else:
            pooled = states[:, -1]
        logits = self.score(pooled)
        loss = None if labels is None else _loss(self.config, logits, labels, self.config.n_labels)
        return Result(loss, logits, states) if return_dict else _result(loss, logits, last, None)


class GRULMHeadModel(nn.Module):
    """A language model on the last layer's states."""

    def __init__(self, config: GRUConfig) -> None:
        super().__init__()
        self.config = config
        self.gru = GRUModel(config)
        self.lm_head = nn.Linear(config.h_dim, config.vocab_size, bias=False)

    def forward(
        self,
        input_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """``(loss, logits, last state)``, without a loss where there are no labels, or a `Result`."""
        states, last = self.gru(input_ids, position_ids, inputs_embeds)
        logits = self.lm_head(states)
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return Result(loss, logits, states) if return_dict else _result(loss, logits, last, None)


def create_mlp_classifier(config: MLPConfig, tokenizer_name: str | None = None, cache_dir: Any = None) -> Any:
    """(config, tokenizer or None, `MLPForClassification`)."""
    return config, _tokenizer(tokenizer_name, cache_dir), MLPForClassification(config)


def create_gru(config: GRUConfig, tokenizer_name: str | None = None, cache_dir: Any = None) -> Any:
    """(config, tokenizer or None, `GRUModel`)."""
    return config, _tokenizer(tokenizer_name, cache_dir), GRUModel(config)


def create_gru_lm(config: GRUConfig, tokenizer_name: str | None = None, cache_dir: Any = None) -> Any:
    """(config, tokenizer or None, `GRULMHeadModel`)."""
    return config, _tokenizer(tokenizer_name, cache_dir), GRULMHeadModel(config)


def create_gru_classifier(config: GRUConfig, tokenizer_name: str | None = None, cache_dir: Any = None) -> Any:
    """(config, tokenizer or None, `GRUForClassification`)."""
    return config, _tokenizer(tokenizer_name, cache_dir), GRUForClassification(config)


def _tokenizer(name: str | None, cache_dir: Any) -> Any:
    if name is None:
        return None
    from .pretrained import library

    return library().AutoTokenizer.from_pretrained(name, cache_dir=cache_dir)


def _activation(name: str) -> nn.Module:
    known: dict[str, type[nn.Module]] = {
        "gelu": nn.GELU,
        "relu": nn.ReLU,
        "tanh": nn.Tanh,
        "sigmoid": nn.Sigmoid,
        "silu": nn.SiLU,
    }
    if name not in known:
        raise ConfigError(f"activation_function {name!r} is none of {', '.join(known)}")
    return known[name]()


def _loss(config: Any, logits: Tensor, labels: Tensor, classes: int) -> Tensor:
    problem = config.problem_type
    if problem is None:
        whole = not labels.is_floating_point()
        several = "single_label_classification" if whole else "multi_label_classification"
        problem = "regression" if classes == 1 else several
    if problem == "regression":
        return functional.mse_loss(logits.squeeze(), labels.squeeze())
    if problem == "single_label_classification":
        return functional.cross_entropy(logits.reshape(-1, classes), labels.reshape(-1))
    return functional.binary_cross_entropy_with_logits(logits, labels)


def _result(loss: Tensor | None, logits: Tensor, states: Any, return_dict: bool | None) -> Any:
    if return_dict:
        return Result(loss, logits, states)
    return tuple(part for part in (loss, logits, states) if part is not None)


_MLP = {
    "block_input": ("h[%s]", "register_forward_pre_hook"),
    "block_output": ("h[%s]", "register_forward_hook"),
    "mlp_activation": ("h[%s].act", "register_forward_hook"),
}
_GATES = ("reset", "update", "new")
_GRU = {
    "cell_input": ("cells[%s]", "register_forward_pre_hook"),
    "cell_output": ("cells[%s]", "register_forward_hook"),
    "x2h_output": ("cells[%s].x2h", "register_forward_hook"),
    "h2h_output": ("cells[%s].h2h", "register_forward_hook"),
    **{
        f"{gate}_gate_input": (f"cells[%s].{gate}_act", "register_forward_pre_hook")
        for gate in ("reset", "update", "new")
    },
    **{
        f"{gate}_gate_output": (f"cells[%s].{gate}_act", "register_forward_hook") for gate in ("reset", "update", "new")
    },
}


def _within(prefix: str, table: dict[str, tuple[str, str]]) -> dict[str, tuple[Any, ...]]:
    return {component: (f"{prefix}.{path}", hook) for component, (path, hook) in table.items()}


MODULES: dict[type, dict[str, tuple[Any, ...]]] = {
    MLPModel: dict(_MLP),
    MLPForClassification: _within("mlp", _MLP),
    GRUModel: dict(_GRU),
    GRUForClassification: _within("gru", _GRU),
    GRULMHeadModel: _within("gru", _GRU),
}
"""For each model class, its components as (module path with %s for the layer, torch's hook), as pyvene maps them."""

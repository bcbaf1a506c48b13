"""What many families share: the names of their matrices, their heads, their activations."""

from __future__ import annotations

from typing import NamedTuple

from edgelm.errors import UnsupportedModelError
from edgelm.exporter.config import Config
from edgelm.exporter.decoder import Activation, Linear, Source

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}


class Heads(NamedTuple):
    """Attention's shape, in the order `Attention` takes it."""

    heads: int
    kv_heads: int
    head_dim: int

    @property
    def width(self) -> int:
        """Of all query heads together."""
        return self.heads * self.head_dim

    @classmethod
    def read(cls, config: Config, *, default_kv_heads: int | None = None, head_dim: int | None = None) -> Heads:
        """By the usual keys; `head_dim` defaults to hidden_size / heads."""
        heads = config.integer("num_attention_heads")
        kv_heads = config.integer("num_key_value_heads", default_kv_heads or heads)
        return cls(heads, kv_heads, config.integer("head_dim", head_dim or config.integer("hidden_size") // heads))


def linear(name: str, rows: int, inputs: int, *, bias: bool = False, scale: float = 1.0) -> Linear:
    """A module with a ``.weight`` and maybe a ``.bias``."""
    return stacked(name, {name: rows}, inputs, bias=bias, scale=scale)


def stacked(name: str, parts: dict[str, int], inputs: int, *, bias: bool = False, scale: float = 1.0) -> Linear:
    """The modules `parts` (name → rows) as one matrix."""
    sources = tuple(Source(f"{part}.weight", rows) for part, rows in parts.items())
    biases = tuple(Source(f"{part}.bias", rows) for part, rows in parts.items()) if bias else ()
    return Linear(name, sources, inputs, biases, scale)


def qkv(name: str, heads: Heads, hidden: int, *, bias: bool = False) -> Linear:
    """``q_proj``, ``k_proj`` and ``v_proj`` of the attention module `name`."""
    counts = {"q": heads.heads, "k": heads.kv_heads, "v": heads.kv_heads}
    parts = {f"{name}.{part}_proj": count * heads.head_dim for part, count in counts.items()}
    return stacked(f"{name}.qkv_proj", parts, hidden, bias=bias)


def gate_up(name: str, size: int, hidden: int, *, bias: bool = False) -> Linear:
    """``gate_proj`` and ``up_proj`` of the MLP module `name`."""
    return stacked(f"{name}.gate_up_proj", {f"{name}.gate_proj": size, f"{name}.up_proj": size}, hidden, bias=bias)


def embedding_and_head(
    config: Config,
    hidden: int,
    *,
    tied: bool,
    embedding: str = "model.embed_tokens",
    head: str = "lm_head",
    head_bias: bool = False,
) -> tuple[Linear, Linear]:
    """Both tables; `tied` is what the family takes where config.json does not say."""
    vocab = config.integer("vocab_size")
    source = embedding if config.flag("tie_word_embeddings", tied) else head
    biases = (Source(f"{head}.bias", vocab),) if head_bias else ()
    return (
        linear(embedding, vocab, hidden),
        Linear("lm_head", (Source(f"{source}.weight", vocab),), hidden, biases),
    )


def activation(config: Config, key: str = "hidden_act", default: str = "silu") -> Activation:
    """The activation that config.json names."""
    name = config.text(key, default)
    if name not in _ACTIVATIONS:
        raise UnsupportedModelError(
            f"{config.path}: {key} {name!r} is not supported by the native exporter "
            f"(known: {', '.join(sorted(_ACTIVATIONS))})",
            hint="try --exporter optimum",
        )
    return _ACTIVATIONS[name]

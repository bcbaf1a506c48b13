"""What many families share: the names of their matrices, their heads, their activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from edgelm.errors import CheckpointError, UnsupportedModelError
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.model.decoder import Activation, Attention, Decoder, Layer, Linear, Mlp, Norm, Source

TRY_OPTIMUM = "try --exporter optimum"
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


def gated_mlp(config: Config, name: str, *, bias: bool = False, act: str = "hidden_act", scale: float = 1.0) -> Mlp:
    """``gate_proj``, ``up_proj`` and ``down_proj`` of the MLP module `name`, whose result is multiplied by `scale`."""
    hidden, size = config.integer("hidden_size"), config.integer("intermediate_size")
    return Mlp(
        up=gate_up(name, size, hidden, bias=bias),
        down=linear(f"{name}.down_proj", hidden, size, bias=bias, scale=scale),
        activation=activation(config, act),
    )


def rms_norm(config: Config, name: str, size: int | None = None, *, offset: float = 0.0, scale: float = 1.0) -> Norm:
    """An RMS norm of `size` values, by default of the residual stream."""
    size = size or config.integer("hidden_size")
    return Norm(f"{name}.weight", size, config.number("rms_norm_eps", 1e-6), offset=offset, scale=scale)


def layer_norm(name: str, size: int, eps: float, *, bias: bool = True) -> Norm:
    """A layer norm, with its bias where it has one."""
    return Norm(f"{name}.weight", size, eps, "layer", f"{name}.bias" if bias else None)


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


def pre_norm_layer(config: Config, name: str, attention: Attention, mlp: Mlp) -> Layer:
    """A layer whose norms stand before attention and MLP, named as Llama's are."""
    return Layer(
        name=name,
        attention_norm=rms_norm(config, f"{name}.input_layernorm"),
        attention=attention,
        mlp_norm=rms_norm(config, f"{name}.post_attention_layernorm"),
        mlp=mlp,
    )


def layer_windows(config: Config, slides: Callable[[int], bool]) -> list[int | None]:
    """The window of every layer, None for one that sees everything.

    Sliding ones are named by ``layer_types`` or, where it is left out, told by `slides`. Where the window itself is a list
    (Mistral's own files), it is repeated over the layers, and tells which slide.
    """
    count = config.integer("num_hidden_layers")
    windows, listed = _windows(config, count)
    types = config.get("layer_types")
    if types is None:
        return [window if listed or slides(i) else None for i, window in enumerate(windows)]
    if not isinstance(types, list) or len(types) != count:
        raise CheckpointError(f"{config.path}: layer_types does not name a type for each of the {count} layers")
    for kind in types:
        if kind not in ("sliding_attention", "full_attention"):
            raise unsupported(config, f"layer type {kind!r}")
    return [window if kind == "sliding_attention" else None for kind, window in zip(types, windows, strict=True)]


def _windows(config: Config, count: int) -> tuple[list[int | None], bool]:
    """(the window that each of `count` layers has where it slides, whether the file lists them)."""
    key = next((key for key in ("interleaved_sliding_window", "sliding_window") if config.get(key) is not None), None)
    value: Any = None if key is None else config.get(key)
    listed = isinstance(value, list)
    windows: list[Any] = value if listed else [value]
    for window in windows:
        if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 0):
            raise CheckpointError(f"{config.path}: key '{key}' is {value!r}, expected whole numbers of tokens")
    if not windows or count % len(windows):
        raise CheckpointError(f"{config.path}: key '{key}' has {len(windows)} windows for {count} layers")
    return [window or None for window in windows] * (count // len(windows)), listed


def by_pattern(config: Config) -> Callable[[int], bool]:
    """Which layers slide by ``sliding_window_pattern``: all but every n-th, or those with an L in a text such as LLLG."""
    key, count = "sliding_window_pattern", config.integer("num_hidden_layers")
    if isinstance(letters := config.get(key), str) and letters:
        return lambda i: letters[i % len(letters)] == "L" and i != count - 1
    return lambda i: (i + 1) % config.integer(key) != 0


def decoder(config: Config, family: str, layers: Sequence[Layer], norm: Norm, *, tied: bool, **more: Any) -> Decoder:
    """A decoder with the usual names of both tables; `tied` as for `embedding_and_head`, `more` as for `Decoder`."""
    hidden = config.integer("hidden_size")
    embedding, head = embedding_and_head(config, hidden, tied=tied)
    return Decoder(
        family=family,
        hidden=hidden,
        vocab=config.integer("vocab_size"),
        context=config.integer("max_position_embeddings", 2048),
        layers=tuple(layers),
        norm=norm,
        embedding=embedding,
        head=head,
        **more,
    )


def activation(config: Config, key: str = "hidden_act", default: str = "silu") -> Activation:
    """The activation that config.json names."""
    name = config.text(key, default)
    if name not in _ACTIVATIONS:
        raise UnsupportedModelError(
            f"{config.path}: {key} {name!r} is not supported by the native exporter "
            f"(known: {', '.join(sorted(_ACTIVATIONS))})",
            hint=f"{TRY_OPTIMUM}, or extend edgelm/exporter/families/common.py",
        )
    return _ACTIVATIONS[name]


def unsupported(config: Config, what: str) -> UnsupportedModelError:
    """The error for a model of a family whose config.json asks for `what`, which cannot be described."""
    return UnsupportedModelError(f"{config.path}: {what} is not supported by the native exporter", hint=TRY_OPTIMUM)

"""Llama 2/3.x, TinyLlama, SmolLM 1/2, Mistral with or without a sliding window, and models of their shape."""

from __future__ import annotations

from edgelm.errors import UnsupportedModelError
from edgelm.exporter.config import Config
from edgelm.exporter.decoder import Activation, Attention, Decoder, Layer, Linear, Mlp, Rope
from edgelm.exporter.families.rope import read_scaling, rope_theta

MODEL_TYPES = ("llama", "mistral")

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def describe(config: Config) -> Decoder:
    """The decoder of a Llama-like config.json.

    Raises:
        CheckpointError: a key is missing or odd.
        UnsupportedModelError: an activation or rope type that is not known.
    """
    mistral = config.model_type == "mistral"
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    vocab, context = config.integer("vocab_size"), config.integer("max_position_embeddings", 2048)
    # Mistral's config class has a window of 4096 where the key is left out, and none where it is null.
    has_window = mistral and config.values.get("sliding_window", 4096) is not None
    window = config.integer("sliding_window", 4096) if has_window else None
    layers = tuple(
        _layer(config, f"model.layers.{i}", hidden, heads, window) for i in range(config.integer("num_hidden_layers"))
    )
    embedding = "model.embed_tokens.weight"
    tied = config.flag("tie_word_embeddings", False)
    return Decoder(
        family="llama",
        hidden=hidden,
        vocab=vocab,
        context=context,
        layers=layers,
        norm="model.norm.weight",
        norm_eps=config.number("rms_norm_eps", 1e-6),
        embedding=Linear("model.embed_tokens", ((embedding, vocab),), hidden),
        head=Linear("lm_head", ((embedding if tied else "lm_head.weight", vocab),), hidden),
    )


def _layer(config: Config, name: str, hidden: int, heads: int, window: int | None) -> Layer:
    kv_heads = config.integer("num_key_value_heads", 8 if config.model_type == "mistral" else heads)
    head_dim = config.integer("head_dim", hidden // heads)
    size = config.integer("intermediate_size")
    bias = config.flag("attention_bias")
    return Layer(
        name=name,
        attention_norm=f"{name}.input_layernorm.weight",
        attention=Attention(
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            qkv=linear(
                f"{name}.self_attn.qkv_proj",
                {
                    f"{name}.self_attn.{p}_proj": n * head_dim
                    for p, n in (("q", heads), ("k", kv_heads), ("v", kv_heads))
                },
                hidden,
                bias=bias,
            ),
            out=linear(f"{name}.self_attn.o_proj", {f"{name}.self_attn.o_proj": hidden}, heads * head_dim, bias=bias),
            rope=Rope(head_dim, rope_theta(config), read_scaling(config)),
            window=window,
        ),
        mlp_norm=f"{name}.post_attention_layernorm.weight",
        mlp=Mlp(
            gate_up=linear(
                f"{name}.mlp.gate_up_proj",
                {f"{name}.mlp.{p}_proj": size for p in ("gate", "up")},
                hidden,
                bias=config.flag("mlp_bias"),
            ),
            down=linear(f"{name}.mlp.down_proj", {f"{name}.mlp.down_proj": hidden}, size, bias=config.flag("mlp_bias")),
            activation=activation(config),
        ),
    )


def linear(name: str, parts: dict[str, int], inputs: int, *, bias: bool = False) -> Linear:
    """A Linear stacked of the modules `parts` (name → rows), each with a ``.weight`` and maybe a ``.bias``."""
    return Linear(
        name,
        tuple((f"{part}.weight", rows) for part, rows in parts.items()),
        inputs,
        tuple((f"{part}.bias", rows) for part, rows in parts.items()) if bias else (),
    )


def activation(config: Config) -> Activation:
    """The activation that `hidden_act` names."""
    name = config.text("hidden_act", "silu")
    if name not in _ACTIVATIONS:
        raise UnsupportedModelError(
            f"{config.path}: hidden_act {name!r} is not supported by the native exporter (known: {', '.join(sorted(_ACTIVATIONS))})",
            hint="try --exporter optimum",
        )
    return _ACTIVATIONS[name]

"""Llama 2/3.x, TinyLlama, SmolLM 1/2, Falcon 3, Mistral with or without a sliding window, and others of their shape."""

from __future__ import annotations

from edgelm.exporter.config import Config
from edgelm.exporter.decoder import Attention, Decoder, Layer, Mlp, Norm
from edgelm.exporter.families.common import Heads, activation, embedding_and_head, gate_up, linear, qkv
from edgelm.exporter.families.rope import read_rope

MODEL_TYPES = ("llama", "mistral")


def describe(config: Config) -> Decoder:
    """The decoder of a Llama-like config.json.

    Raises:
        CheckpointError: a key is missing or odd.
        UnsupportedModelError: an activation or rope type that is not known.
    """
    hidden = config.integer("hidden_size")
    embedding, head = embedding_and_head(config, hidden, tied=False)
    return Decoder(
        family="llama",
        hidden=hidden,
        vocab=config.integer("vocab_size"),
        context=config.integer("max_position_embeddings", 2048),
        layers=tuple(_layer(config, f"model.layers.{i}") for i in range(config.integer("num_hidden_layers"))),
        norm=_norm(config, "model.norm"),
        embedding=embedding,
        head=head,
    )


def _layer(config: Config, name: str) -> Layer:
    hidden = config.integer("hidden_size")
    heads = Heads.read(config, default_kv_heads=8 if config.model_type == "mistral" else None)
    bias = config.flag("attention_bias")
    return Layer(
        name=name,
        attention_norm=_norm(config, f"{name}.input_layernorm"),
        attention=Attention(
            *heads,
            qkv=qkv(f"{name}.self_attn", heads, hidden, bias=bias),
            out=linear(f"{name}.self_attn.o_proj", hidden, heads.width, bias=bias),
            rope=read_rope(config, heads.head_dim),
            window=_window(config),
        ),
        mlp_norm=_norm(config, f"{name}.post_attention_layernorm"),
        mlp=Mlp(
            up=gate_up(f"{name}.mlp", config.integer("intermediate_size"), hidden, bias=config.flag("mlp_bias")),
            down=linear(
                f"{name}.mlp.down_proj", hidden, config.integer("intermediate_size"), bias=config.flag("mlp_bias")
            ),
            activation=activation(config),
        ),
    )


def _norm(config: Config, name: str) -> Norm:
    return Norm(f"{name}.weight", config.integer("hidden_size"), config.number("rms_norm_eps", 1e-6))


def _window(config: Config) -> int | None:
    # Mistral's config class has a window of 4096 where the key is left out, and none where it is null.
    if config.model_type != "mistral" or config.values.get("sliding_window", 4096) is None:
        return None
    return config.integer("sliding_window", 4096)

"""EXAONE 3.0, 3.5 and Deep, Llama's shape under GPT-2's names, and EXAONE 4, whose norms stand after what they norm."""

from __future__ import annotations

from typing import Any

from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import (
    Heads,
    activation,
    by_pattern,
    decoder,
    embedding_and_head,
    gated_mlp,
    layer_windows,
    linear,
    qkv,
    rms_norm,
    stacked,
)
from edgelm.exporter.families.rope import read_rope
from edgelm.exporter.model.decoder import Attention, Decoder, Layer, Mlp, Norm

MODEL_TYPES = ("exaone", "exaone4")

_DEFAULTS4: dict[str, Any] = {"rms_norm_eps": 1e-5, "sliding_window": 4096, "sliding_window_pattern": 4}


def describe(config: Config) -> Decoder:
    """The decoder of an EXAONE config.json."""
    if config.model_type == "exaone4":
        return _describe4(config.with_defaults(**_DEFAULTS4))
    hidden = config.integer("hidden_size")
    embedding, head = embedding_and_head(config, hidden, tied=True, embedding="transformer.wte")
    return Decoder(
        family="exaone",
        hidden=hidden,
        vocab=config.integer("vocab_size"),
        context=config.integer("max_position_embeddings", 2048),
        layers=tuple(_layer(config, f"transformer.h.{i}") for i in range(config.integer("num_layers"))),
        norm=_norm(config, "transformer.ln_f"),
        embedding=embedding,
        head=head,
    )


def _layer(config: Config, name: str) -> Layer:
    hidden, heads, attention = config.integer("hidden_size"), Heads.read(config), f"{name}.attn.attention"
    size, mlp = config.integer("intermediate_size", 4 * hidden), f"{name}.mlp"
    return Layer(
        name=name,
        attention_norm=_norm(config, f"{name}.ln_1"),
        attention=Attention(
            *heads,
            qkv=qkv(attention, heads, hidden),
            out=linear(f"{attention}.out_proj", hidden, heads.width),
            rope=read_rope(config, heads.head_dim),
        ),
        mlp_norm=_norm(config, f"{name}.ln_2"),
        mlp=Mlp(
            up=stacked(f"{mlp}.c_fc", {f"{mlp}.c_fc_0": size, f"{mlp}.c_fc_1": size}, hidden),
            down=linear(f"{mlp}.c_proj", hidden, size),
            activation=activation(config, "activation_function"),
        ),
    )


def _norm(config: Config, name: str) -> Norm:
    return Norm(f"{name}.weight", config.integer("hidden_size"), config.number("layer_norm_epsilon", 1e-5))


def _describe4(config: Config) -> Decoder:
    if config.get("sliding_window") is None:
        windows: list[int | None] = [None] * config.integer("num_hidden_layers")
    else:
        windows = layer_windows(config, by_pattern(config))
    layers = [_layer4(config, f"model.layers.{i}", window) for i, window in enumerate(windows)]
    return decoder(config, "exaone", layers, rms_norm(config, "model.norm"), tied=False)


def _layer4(config: Config, name: str, window: int | None) -> Layer:
    hidden, heads, attention = (
        config.integer("hidden_size"),
        Heads.read(config, default_kv_heads=32),
        f"{name}.self_attn",
    )
    rotated = window is not None or config.get("sliding_window") is None
    return Layer(
        name=name,
        attention=Attention(
            *heads,
            qkv=qkv(attention, heads, hidden),
            out=linear(f"{attention}.o_proj", hidden, heads.width),
            rope=read_rope(config, heads.head_dim) if rotated else None,
            window=window,
            q_norm=rms_norm(config, f"{attention}.q_norm", heads.head_dim),
            k_norm=rms_norm(config, f"{attention}.k_norm", heads.head_dim),
        ),
        attention_post_norm=rms_norm(config, f"{name}.post_attention_layernorm"),
        mlp=gated_mlp(config, f"{name}.mlp"),
        mlp_post_norm=rms_norm(config, f"{name}.post_feedforward_layernorm"),
    )

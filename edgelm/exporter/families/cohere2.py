"""Command R7B: attention and MLP side by side, layers with a window and rotary embedding, and layers with neither."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import (
    Heads,
    by_pattern,
    decoder,
    gated_mlp,
    layer_norm,
    layer_windows,
    linear,
    qkv,
)
from edgelm.exporter.families.rope import read_rope
from edgelm.exporter.model.decoder import Attention, Decoder, Layer

MODEL_TYPES = ("cohere2",)

_DEFAULTS: dict[str, Any] = {
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
    "sliding_window_pattern": 4,
}


def describe(config: Config) -> Decoder:
    """The decoder of a Cohere 2 config.json; logits are scaled in the last norm."""
    config = config.with_defaults(**_DEFAULTS)
    windows = layer_windows(config, by_pattern(config))
    layers = [_layer(config, f"model.layers.{i}", window) for i, window in enumerate(windows)]
    eps = config.number("layer_norm_eps")
    norm = layer_norm("model.norm", config.integer("hidden_size"), eps, bias=False)
    return decoder(config, "cohere2", layers, replace(norm, scale=config.number("logit_scale", 0.0625)), tied=True)


def _layer(config: Config, name: str, window: int | None) -> Layer:
    hidden, bias, attention = config.integer("hidden_size"), config.flag("attention_bias"), f"{name}.self_attn"
    heads = Heads.read(config)
    return Layer(
        name=name,
        parallel=True,
        attention_norm=layer_norm(f"{name}.input_layernorm", hidden, config.number("layer_norm_eps"), bias=False),
        attention=Attention(
            *heads,
            qkv=qkv(attention, heads, hidden, bias=bias),
            out=linear(f"{attention}.o_proj", hidden, heads.width, bias=bias),
            rope=read_rope(config, heads.head_dim, interleaved=True) if window is not None else None,
            window=window,
        ),
        mlp=gated_mlp(config, f"{name}.mlp"),
    )

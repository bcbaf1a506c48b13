"""Qwen 2 and 2.5 (Coder, Math, QwQ, DeepSeek's distillations), with biases on query, key and value; Qwen 3, dense,
with norms of queries and keys.
"""

from __future__ import annotations

from typing import Any

from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import (
    Heads,
    decoder,
    gated_mlp,
    layer_windows,
    linear,
    pre_norm_layer,
    qkv,
    rms_norm,
)
from edgelm.exporter.families.rope import read_rope
from edgelm.exporter.model.decoder import Attention, Decoder, Layer

MODEL_TYPES = ("qwen2", "qwen3")

_DEFAULTS: dict[str, Any] = {
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "max_window_layers": 28,
}


def describe(config: Config) -> Decoder:
    """The decoder of a Qwen config.json."""
    config = config.with_defaults(**_DEFAULTS, **({"head_dim": 128} if config.model_type == "qwen3" else {}))
    full = config.integer("max_window_layers", minimum=0)  # the first ones see everything
    windows = layer_windows(config, lambda i: i >= full)
    if not config.flag("use_sliding_window"):
        windows = [None] * len(windows)
    layers = [_layer(config, f"model.layers.{i}", window) for i, window in enumerate(windows)]
    return decoder(config, "qwen", layers, rms_norm(config, "model.norm"), tied=False)


def _layer(config: Config, name: str, window: int | None) -> Layer:
    hidden, heads, attention = config.integer("hidden_size"), Heads.read(config), f"{name}.self_attn"
    normed = config.model_type == "qwen3"
    bias = config.flag("attention_bias") if normed else False
    return pre_norm_layer(
        config,
        name,
        Attention(
            *heads,
            qkv=qkv(attention, heads, hidden, bias=bias if normed else True),
            out=linear(f"{attention}.o_proj", hidden, heads.width, bias=bias),
            rope=read_rope(config, heads.head_dim),
            window=window,
            q_norm=rms_norm(config, f"{attention}.q_norm", heads.head_dim) if normed else None,
            k_norm=rms_norm(config, f"{attention}.k_norm", heads.head_dim) if normed else None,
        ),
        gated_mlp(config, f"{name}.mlp"),
    )

"""Phi-3, Phi-3.5 and Phi-4-mini: Llama's shape with query, key and value, and gate and up, stored as one matrix each."""

from __future__ import annotations

from typing import Any

from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import Heads, activation, decoder, layer_windows, linear, pre_norm_layer, rms_norm
from edgelm.exporter.families.rope import read_rope
from edgelm.exporter.model.decoder import Attention, Decoder, Layer, Mlp

MODEL_TYPES = ("phi3", "phi4")  # some copies of Phi-4-mini name themselves phi4

_DEFAULTS: dict[str, Any] = {
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}


def describe(config: Config) -> Decoder:
    """The decoder of a Phi-3 config.json."""
    config = config.with_defaults(**_DEFAULTS)
    windows = layer_windows(config, lambda i: True)
    layers = [_layer(config, f"model.layers.{i}", window) for i, window in enumerate(windows)]
    return decoder(config, "phi3", layers, rms_norm(config, "model.norm"), tied=False)


def _layer(config: Config, name: str, window: int | None) -> Layer:
    hidden, intermediate, heads = config.integer("hidden_size"), config.integer("intermediate_size"), Heads.read(config)
    return pre_norm_layer(
        config,
        name,
        Attention(
            *heads,
            qkv=linear(f"{name}.self_attn.qkv_proj", heads.width + 2 * heads.kv_heads * heads.head_dim, hidden),
            out=linear(f"{name}.self_attn.o_proj", hidden, heads.width),
            rope=read_rope(config, heads.head_dim),
            window=window,
        ),
        Mlp(
            up=linear(f"{name}.mlp.gate_up_proj", 2 * intermediate, hidden),
            down=linear(f"{name}.mlp.down_proj", hidden, intermediate),
            activation=activation(config),
        ),
    )

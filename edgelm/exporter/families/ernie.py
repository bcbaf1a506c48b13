"""ERNIE 4.5, the dense models: like Llama, with a rotary embedding that turns neighbouring dimensions."""

from __future__ import annotations

from typing import Any

from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import Heads, decoder, gated_mlp, linear, pre_norm_layer, qkv, rms_norm
from edgelm.exporter.families.rope import read_rope
from edgelm.exporter.model.decoder import Attention, Decoder, Layer

MODEL_TYPES = ("ernie4_5",)

_DEFAULTS: dict[str, Any] = {
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
}


def describe(config: Config) -> Decoder:
    """The decoder of an ERNIE 4.5 config.json."""
    config = config.with_defaults(**_DEFAULTS)
    layers = [_layer(config, f"model.layers.{i}") for i in range(config.integer("num_hidden_layers"))]
    return decoder(config, "ernie", layers, rms_norm(config, "model.norm"), tied=True)


def _layer(config: Config, name: str) -> Layer:
    hidden, heads, bias = config.integer("hidden_size"), Heads.read(config), config.flag("use_bias")
    return pre_norm_layer(
        config,
        name,
        Attention(
            *heads,
            qkv=qkv(f"{name}.self_attn", heads, hidden, bias=bias),
            out=linear(f"{name}.self_attn.o_proj", hidden, heads.width, bias=bias),
            rope=read_rope(config, heads.head_dim, theta=5e5, interleaved=True),
        ),
        gated_mlp(config, f"{name}.mlp", bias=bias),
    )

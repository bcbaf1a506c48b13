"""Helium 1: Llama's shape with neighbouring dimensions rotated together."""

from __future__ import annotations

from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import Heads, decoder, gated_mlp, linear, pre_norm_layer, qkv, rms_norm
from edgelm.exporter.families.rope import read_rope
from edgelm.exporter.model.decoder import Attention, Decoder, Layer

MODEL_TYPES = ("helium",)


def describe(config: Config) -> Decoder:
    """The decoder of a Helium config.json."""
    config = config.with_defaults(max_position_embeddings=4096, rms_norm_eps=1e-8)
    layers = [_layer(config, f"model.layers.{i}") for i in range(config.integer("num_hidden_layers"))]
    return decoder(config, "helium", layers, rms_norm(config, "model.norm"), tied=False)


def _layer(config: Config, name: str) -> Layer:
    hidden, heads = config.integer("hidden_size"), Heads.read(config, default_kv_heads=20, head_dim=128)
    return pre_norm_layer(
        config,
        name,
        Attention(
            *heads,
            qkv=qkv(f"{name}.self_attn", heads, hidden, bias=config.flag("attention_bias")),
            out=linear(f"{name}.self_attn.o_proj", hidden, heads.width),
            rope=read_rope(config, heads.head_dim, theta=100000.0, interleaved=True),
        ),
        gated_mlp(config, f"{name}.mlp", bias=config.flag("mlp_bias")),
    )

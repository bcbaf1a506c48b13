"""Nemotron-Mini and Minitron 4B: layer norms whose weights count from one, squared ReLU, half of each head rotated."""

from __future__ import annotations

from dataclasses import replace

from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import Heads, activation, decoder, layer_norm, linear, qkv
from edgelm.exporter.families.rope import read_rope
from edgelm.exporter.model.decoder import Attention, Decoder, Layer, Mlp, Norm

MODEL_TYPES = ("nemotron",)


def describe(config: Config) -> Decoder:
    """The decoder of a Nemotron config.json."""
    config = config.with_defaults(max_position_embeddings=4096)
    layers = [_layer(config, f"model.layers.{i}") for i in range(config.integer("num_hidden_layers"))]
    return decoder(config, "nemotron", layers, _norm(config, "model.norm"), tied=False)


def _layer(config: Config, name: str) -> Layer:
    hidden, intermediate, heads = config.integer("hidden_size"), config.integer("intermediate_size"), Heads.read(config)
    bias, mlp_bias = config.flag("attention_bias"), config.flag("mlp_bias")
    return Layer(
        name=name,
        attention_norm=_norm(config, f"{name}.input_layernorm"),
        attention=Attention(
            *heads,
            qkv=qkv(f"{name}.self_attn", heads, hidden, bias=bias),
            out=linear(f"{name}.self_attn.o_proj", hidden, heads.width, bias=bias),
            rope=read_rope(config, heads.head_dim, partial=0.5),
        ),
        mlp_norm=_norm(config, f"{name}.post_attention_layernorm"),
        mlp=Mlp(
            up=linear(f"{name}.mlp.up_proj", intermediate, hidden, bias=mlp_bias),
            down=linear(f"{name}.mlp.down_proj", hidden, intermediate, bias=mlp_bias),
            activation=activation(config, default="relu2"),
            gated=False,
        ),
    )


def _norm(config: Config, name: str) -> Norm:
    return replace(layer_norm(name, config.integer("hidden_size"), config.number("norm_eps", 1e-5)), offset=1.0)

"""Granite 3.x, the dense models: like Llama, with four multipliers."""

from __future__ import annotations

from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import Heads, decoder, gated_mlp, linear, pre_norm_layer, qkv, rms_norm
from edgelm.exporter.families.rope import read_rope
from edgelm.exporter.model.decoder import Attention, Decoder, Layer

MODEL_TYPES = ("granite",)


def describe(config: Config) -> Decoder:
    """The decoder of a Granite config.json.

    What is added to the residual stream is scaled in the weights of the last product, logits in the last norm.
    """
    layers = [_layer(config, f"model.layers.{i}") for i in range(config.integer("num_hidden_layers"))]
    norm = rms_norm(config, "model.norm", scale=1 / config.number("logits_scaling", 1.0))
    scale = config.number("embedding_multiplier", 1.0)
    return decoder(config, "granite", layers, norm, tied=False, embedding_scale=scale)


def _layer(config: Config, name: str) -> Layer:
    hidden, heads, bias = config.integer("hidden_size"), Heads.read(config), config.flag("attention_bias")
    scale = config.number("residual_multiplier", 1.0)
    return pre_norm_layer(
        config,
        name,
        Attention(
            *heads,
            qkv=qkv(f"{name}.self_attn", heads, hidden, bias=bias),
            out=linear(f"{name}.self_attn.o_proj", hidden, heads.width, bias=bias, scale=scale),
            rope=read_rope(config, heads.head_dim),
            scale=config.number("attention_multiplier", 1.0),
        ),
        gated_mlp(config, f"{name}.mlp", bias=config.flag("mlp_bias"), scale=scale),
    )

"""Phi-1, Phi-1.5 and Phi-2: attention and MLP side by side behind one layer norm, with biases everywhere."""

from __future__ import annotations

from dataclasses import replace

from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import Heads, activation, decoder, layer_norm, linear, qkv
from edgelm.exporter.families.rope import read_rope
from edgelm.exporter.model.decoder import Attention, Decoder, Layer, Mlp, Source

MODEL_TYPES = ("phi",)


def describe(config: Config) -> Decoder:
    """The decoder of a Phi config.json."""
    config = config.with_defaults(layer_norm_eps=1e-5)
    layers = [_layer(config, f"model.layers.{i}") for i in range(config.integer("num_hidden_layers"))]
    norm = layer_norm("model.final_layernorm", config.integer("hidden_size"), config.number("layer_norm_eps"))
    model = decoder(config, "phi", layers, norm, tied=False)
    return replace(model, head=replace(model.head, biases=(Source("lm_head.bias", model.vocab),)))


def _layer(config: Config, name: str) -> Layer:
    hidden, intermediate = config.integer("hidden_size"), config.integer("intermediate_size")
    heads, eps = Heads.read(config), config.number("layer_norm_eps")
    attention, normed = f"{name}.self_attn", config.flag("qk_layernorm")
    return Layer(
        name=name,
        parallel=True,
        attention_norm=layer_norm(f"{name}.input_layernorm", hidden, eps),
        attention=Attention(
            *heads,
            qkv=qkv(attention, heads, hidden, bias=True),
            out=linear(f"{attention}.dense", hidden, heads.width, bias=True),
            rope=read_rope(config, heads.head_dim, partial=0.5),
            q_norm=layer_norm(f"{attention}.q_layernorm", heads.head_dim, eps) if normed else None,
            k_norm=layer_norm(f"{attention}.k_layernorm", heads.head_dim, eps) if normed else None,
        ),
        mlp=Mlp(
            up=linear(f"{name}.mlp.fc1", intermediate, hidden, bias=True),
            down=linear(f"{name}.mlp.fc2", hidden, intermediate, bias=True),
            activation=activation(config, default="gelu_new"),
            gated=False,
        ),
    )

"""Llama 2/3.x, TinyLlama, SmolLM 1/2, Falcon 3, EuroLLM, Mistral and Ministral with or without a sliding window,
Arcee (AFM), whose MLP has no gate, and others of their shape.
"""

from __future__ import annotations

from typing import Any

from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import (
    Heads,
    activation,
    decoder,
    gated_mlp,
    layer_windows,
    linear,
    pre_norm_layer,
    qkv,
    rms_norm,
)
from edgelm.exporter.families.rope import read_rope
from edgelm.exporter.model.decoder import Attention, Decoder, Layer, Mlp

MODEL_TYPES = ("llama", "mistral", "ministral", "arcee")

# Mistral's window is 4096 tokens where the key is left out, and there is none where it is null.
_MISTRAL: dict[str, Any] = {"num_key_value_heads": 8, "max_position_embeddings": 131_072, "sliding_window": 4096}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "mistral": _MISTRAL,
    "ministral": _MISTRAL,
    "arcee": {"hidden_act": "relu2", "rms_norm_eps": 1e-5, "max_position_embeddings": 4096},
}


def describe(config: Config) -> Decoder:
    """The decoder of a Llama-like config.json.

    Raises:
        CheckpointError: a key is missing or odd.
        UnsupportedModelError: an activation or rope type that is not known.
    """
    config = config.with_defaults(**_DEFAULTS.get(config.model_type, {}))
    layers = [_layer(config, f"model.layers.{i}", window) for i, window in enumerate(_windows(config))]
    return decoder(config, "llama", layers, rms_norm(config, "model.norm"), tied=False)


def _layer(config: Config, name: str, window: int | None) -> Layer:
    hidden, heads, bias = config.integer("hidden_size"), Heads.read(config), config.flag("attention_bias")
    attention = Attention(
        *heads,
        qkv=qkv(f"{name}.self_attn", heads, hidden, bias=bias),
        out=linear(f"{name}.self_attn.o_proj", hidden, heads.width, bias=bias),
        rope=read_rope(config, heads.head_dim),
        window=window,
    )
    return pre_norm_layer(config, name, attention, _mlp(config, f"{name}.mlp"))


def _mlp(config: Config, name: str) -> Mlp:
    bias = config.flag("mlp_bias")
    if config.model_type != "arcee":
        return gated_mlp(config, name, bias=bias)
    hidden, size = config.integer("hidden_size"), config.integer("intermediate_size")
    return Mlp(
        up=linear(f"{name}.up_proj", size, hidden, bias=bias),
        down=linear(f"{name}.down_proj", hidden, size, bias=bias),
        activation=activation(config),
        gated=False,
    )


def _windows(config: Config) -> list[int | None]:
    if config.model_type in ("mistral", "ministral"):  # Ministral 8B's own file names it a mistral with layer_types
        return layer_windows(config, lambda i: True)
    return [None] * config.integer("num_hidden_layers")

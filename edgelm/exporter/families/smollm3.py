"""SmolLM3: like Llama, but some layers have no rotary embedding."""

from __future__ import annotations

from typing import Any

from edgelm.errors import CheckpointError
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

MODEL_TYPES = ("smollm3",)

_DEFAULTS: dict[str, Any] = {
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "no_rope_layer_interval": 4,
}


def describe(config: Config) -> Decoder:
    """The decoder of a SmolLM3 config.json."""
    config = config.with_defaults(**_DEFAULTS)
    rotated = _rotated(config)
    windows = layer_windows(config, lambda i: config.flag("use_sliding_window") and not rotated[i])
    layers = [
        _layer(config, f"model.layers.{i}", turns, window)
        for i, (turns, window) in enumerate(zip(rotated, windows, strict=True))
    ]
    return decoder(config, "smollm3", layers, rms_norm(config, "model.norm"), tied=True)


def _rotated(config: Config) -> list[bool]:
    """Which layers have a rotary embedding: those with a 1 in ``no_rope_layers``, whatever its name says."""
    count, marks = config.integer("num_hidden_layers"), config.get("no_rope_layers")
    if marks is None:
        interval = config.integer("no_rope_layer_interval")
        marks = [int((i + 1) % interval != 0) for i in range(count)]
    if not isinstance(marks, list) or len(marks) != count or not all(mark in (0, 1) for mark in marks):
        raise CheckpointError(f"{config.path}: no_rope_layers is not a list of {count} zeros and ones")
    return [bool(mark) for mark in marks]


def _layer(config: Config, name: str, rotated: bool, window: int | None) -> Layer:
    hidden, heads, bias = config.integer("hidden_size"), Heads.read(config), config.flag("attention_bias")
    return pre_norm_layer(
        config,
        name,
        Attention(
            *heads,
            qkv=qkv(f"{name}.self_attn", heads, hidden, bias=bias),
            out=linear(f"{name}.self_attn.o_proj", hidden, heads.width, bias=bias),
            rope=read_rope(config, heads.head_dim, theta=2e6) if rotated else None,
            window=window,
        ),
        gated_mlp(config, f"{name}.mlp", bias=config.flag("mlp_bias")),
    )

"""Gemma 1, 2 (soft caps, some layers with a window) and 3 (two rotary embeddings), CodeGemma, ShieldGemma, MedGemma;
of Gemma 3 with images, the text part.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import (
    Heads,
    by_pattern,
    decoder,
    gated_mlp,
    layer_windows,
    linear,
    qkv,
    rms_norm,
    unsupported,
)
from edgelm.exporter.families.rope import of_layers, read_rope
from edgelm.exporter.model.decoder import Attention, Decoder, Layer, Norm
from edgelm.exporter.model.rope import Rope

MODEL_TYPES = ("gemma", "gemma2", "gemma3_text", "gemma3")

_SHARED: dict[str, Any] = {"head_dim": 256, "max_position_embeddings": 8192}
_GEMMA2: dict[str, Any] = {
    **_SHARED,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma": {**_SHARED, "num_attention_heads": 16, "num_key_value_heads": 16},
    "gemma2": {**_GEMMA2, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window_pattern": 2},
    # Gemma 3's files with images leave out what is as here, sizes too.
    "gemma3": {
        **_GEMMA2,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "sliding_window_pattern": 6,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
    },
}


def describe(config: Config) -> Decoder:
    """The decoder of a Gemma config.json.

    Norm weights are stored less 1; token vectors are multiplied by the square root of their size.
    """
    kind = config.model_type.removesuffix("_text")
    config = config.text_part.with_defaults(**_DEFAULTS[kind])
    if config.flag("use_bidirectional_attention"):
        raise unsupported(config, "attention in both directions")
    windows: list[int | None] = [None] * config.integer("num_hidden_layers")
    if kind != "gemma":
        windows = layer_windows(config, by_pattern(config))
    return decoder(
        config,
        "gemma",
        [_layer(config, kind, f"model.layers.{i}", window) for i, window in enumerate(windows)],
        _norm(config, "model.norm"),
        tied=True,
        embedding_scale=config.integer("hidden_size") ** 0.5,
        logits_softcap=_cap(config, "final_logit_softcapping"),
    )


def _layer(config: Config, kind: str, name: str, window: int | None) -> Layer:
    first = kind == "gemma"
    return Layer(
        name=name,
        attention_norm=_norm(config, f"{name}.input_layernorm"),
        attention=_attention(config, kind, f"{name}.self_attn", window),
        attention_post_norm=None if first else _norm(config, f"{name}.post_attention_layernorm"),
        mlp_norm=_norm(config, f"{name}.{'post_attention' if first else 'pre_feedforward'}_layernorm"),
        mlp=gated_mlp(_tanh(config), f"{name}.mlp", act="hidden_activation"),
        mlp_post_norm=None if first else _norm(config, f"{name}.post_feedforward_layernorm"),
    )


def _attention(config: Config, kind: str, name: str, window: int | None) -> Attention:
    hidden, heads, bias = config.integer("hidden_size"), Heads.read(config), config.flag("attention_bias")
    normed = kind == "gemma3"
    return Attention(
        *heads,
        qkv=qkv(name, heads, hidden, bias=bias),
        out=linear(f"{name}.o_proj", hidden, heads.width, bias=bias),
        rope=_rope(config, heads.head_dim, local=kind == "gemma3" and window is not None),
        window=window,
        scale=None if kind == "gemma" else config.number("query_pre_attn_scalar") ** -0.5,
        softcap=_cap(config, "attn_logit_softcapping") if kind == "gemma2" else 0.0,
        q_norm=_norm(config, f"{name}.q_norm", heads.head_dim) if normed else None,
        k_norm=_norm(config, f"{name}.k_norm", heads.head_dim) if normed else None,
    )


def _rope(config: Config, head_dim: int, *, local: bool) -> Rope:
    """Gemma 3's layers with a window have a base of their own, and no scaling."""
    layers = "sliding_attention" if local else "full_attention"
    if local and of_layers(config, layers) is None:
        return Rope(head_dim, config.number("rope_local_base_freq"))
    rope = read_rope(config, head_dim, layers=layers)
    if rope.scaling is not None and rope.scaling.kind == "linear":  # Gemma 3 counts the stretch in its longest context
        first = int(rope.scaling.original_context / rope.scaling.factor)
        return replace(rope, scaling=replace(rope.scaling, original_context=first))
    return rope


def _tanh(config: Config) -> Config:
    """With the activation by one name: Gemma 1 had it as ``hidden_act``, where ``gelu`` meant the one with tanh."""
    name = config.get("hidden_activation") or config.get("hidden_act", "gelu")
    return Config({**config.values, "hidden_activation": "gelu_pytorch_tanh" if name == "gelu" else name}, config.path)


def _norm(config: Config, name: str, size: int | None = None) -> Norm:
    return rms_norm(config, name, size, offset=1.0)


def _cap(config: Config, key: str) -> float:
    return 0.0 if config.get(key) is None else config.number(key)

"""OLMo 2 and 3: norms stand after attention and MLP, and over all queries or keys at once."""

from __future__ import annotations

from typing import Any

from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import Heads, decoder, gated_mlp, layer_windows, linear, qkv, rms_norm
from edgelm.exporter.families.rope import of_layers, read_rope
from edgelm.exporter.model.decoder import Attention, Decoder, Layer
from edgelm.exporter.model.rope import Rope

MODEL_TYPES = ("olmo2", "olmo3")

_DEFAULTS: dict[str, Any] = {"rms_norm_eps": 1e-5, "sliding_window": 4096}


def describe(config: Config) -> Decoder:
    """The decoder of an OLMo 2 or 3 config.json."""
    config = config.with_defaults(**_DEFAULTS)
    if config.model_type == "olmo3":  # of four layers three have a window, and the plain rotary embedding
        windows = layer_windows(config, lambda i: (i + 1) % 4 != 0)
    else:
        windows = [None] * config.integer("num_hidden_layers")
    layers = [_layer(config, f"model.layers.{i}", window) for i, window in enumerate(windows)]
    return decoder(config, "olmo2", layers, rms_norm(config, "model.norm"), tied=False)


def _layer(config: Config, name: str, window: int | None) -> Layer:
    hidden, heads, attention = config.integer("hidden_size"), Heads.read(config), f"{name}.self_attn"
    bias = config.flag("attention_bias")
    return Layer(
        name=name,
        attention=Attention(
            *heads,
            qkv=qkv(attention, heads, hidden, bias=bias),
            out=linear(f"{attention}.o_proj", hidden, heads.width, bias=bias),
            rope=_rope(config, heads.head_dim, local=window is not None),
            window=window,
            q_norm=rms_norm(config, f"{attention}.q_norm", heads.width),
            k_norm=rms_norm(config, f"{attention}.k_norm", heads.kv_heads * heads.head_dim),
        ),
        attention_post_norm=rms_norm(config, f"{name}.post_attention_layernorm"),
        mlp=gated_mlp(config, f"{name}.mlp"),
        mlp_post_norm=rms_norm(config, f"{name}.post_feedforward_layernorm"),
    )


def _rope(config: Config, head_dim: int, *, local: bool) -> Rope:
    """Layers with a window take the plain one, but where the file says otherwise."""
    layers = "sliding_attention" if local else "full_attention"
    rope = read_rope(config, head_dim, layers=layers)
    return Rope(rope.dim, rope.theta) if local and of_layers(config, layers) is None else rope

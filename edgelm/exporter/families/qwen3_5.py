"""Qwen 3.5, dense, and of its models with images the text part; Qwen3-Next without experts: linear attention (gated
delta nets) in most layers, attention with a gate on its output in the others.
"""

from __future__ import annotations

from typing import Any

from edgelm.errors import CheckpointError
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import Heads, decoder, gated_mlp, linear, rms_norm, unsupported
from edgelm.exporter.families.rope import read_rope
from edgelm.exporter.model.decoder import Attention, Decoder, GatedDeltaNet, Layer, Linear, Norm, Source

MODEL_TYPES = ("qwen3_5", "qwen3_5_text", "qwen3_next")

_TYPES = {"linear_attention", "full_attention"}
_DEFAULTS: dict[str, Any] = {
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "partial_rotary_factor": 0.25,
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}


def describe(config: Config) -> Decoder:
    """The decoder of a Qwen 3.5 or Qwen3-Next config.json; norm weights are stored less 1, but in the delta nets."""
    fused = config.model_type == "qwen3_next"
    config = _text(config)
    _refuse(config)
    layers = [
        _layer(config, f"model.layers.{i}", kind == "linear_attention", fused) for i, kind in enumerate(_kinds(config))
    ]
    return decoder(config, "qwen3_5", layers, _norm(config, "model.norm"), tied=False)


def _text(config: Config) -> Config:
    """The settings of the text model, which beside images stand in text_config; whether tables are tied, outside it."""
    text = config.filled("text_config")
    if text is None:
        return config.with_defaults(**_DEFAULTS)
    outer = {key: config.values[key] for key in ("tie_word_embeddings",) if config.get(key) is not None}
    return Config({**_DEFAULTS, **text.values, **outer}, config.path)


def _refuse(config: Config) -> None:
    """What cannot be described."""
    dense = set(config.numbers("mlp_only_layers")) if config.get("mlp_only_layers") is not None else set()
    step = config.integer("decoder_sparse_step", 1)
    count = config.integer("num_hidden_layers")
    if config.integer("num_experts", 0, minimum=0) > 0 and any(
        (i + 1) % step == 0 for i in range(count) if i not in dense
    ):
        raise unsupported(config, "a mixture of experts")
    if not config.flag("attn_output_gate", True):
        raise unsupported(config, "attention without an output gate (attn_output_gate)")
    if config.text("hidden_act", "silu") not in ("silu", "swish"):
        raise unsupported(config, f"hidden_act {config.get('hidden_act')!r} in linear attention")


def _kinds(config: Config) -> list[str]:
    """Of every layer."""
    count, interval = config.integer("num_hidden_layers"), config.integer("full_attention_interval")
    usual = ["full_attention" if (i + 1) % interval == 0 else "linear_attention" for i in range(count)]
    kinds = config.get("layer_types", usual)
    if not isinstance(kinds, list) or len(kinds) != count or not set(kinds) <= _TYPES:
        raise CheckpointError(
            f"{config.path}: layer_types does not name linear_attention or full_attention "
            f"for each of the {count} layers"
        )
    if "full_attention" not in kinds:
        raise unsupported(config, "a model without full_attention layers")
    return kinds


def _layer(config: Config, name: str, is_linear: bool, fused: bool) -> Layer:
    return Layer(
        name=name,
        attention_norm=_norm(config, f"{name}.input_layernorm"),
        attention=_delta_net(config, f"{name}.linear_attn", fused)
        if is_linear
        else _attention(config, f"{name}.self_attn"),
        mlp_norm=_norm(config, f"{name}.post_attention_layernorm"),
        mlp=gated_mlp(config, f"{name}.mlp"),
    )


def _attention(config: Config, name: str) -> Attention:
    hidden, heads, bias = config.integer("hidden_size"), Heads.read(config), config.flag("attention_bias")
    return Attention(
        *heads,
        qkv=_gated_qkv(name, heads, hidden, bias),
        out=linear(f"{name}.o_proj", hidden, heads.width, bias=bias),
        rope=read_rope(config, heads.head_dim),
        q_norm=_norm(config, f"{name}.q_norm", heads.head_dim),
        k_norm=_norm(config, f"{name}.k_norm", heads.head_dim),
        gated=True,
    )


def _gated_qkv(name: str, heads: Heads, hidden: int, bias: bool) -> Linear:
    """In q_proj every head's query is followed by its gate."""
    size, width = heads.head_dim, heads.kv_heads * heads.head_dim

    def rows(kind: str) -> tuple[Source, ...]:
        query, gate = (
            Source(f"{name}.q_proj.{kind}", heads.width, every=2 * size, start=start, take=size) for start in (0, size)
        )
        return (query, Source(f"{name}.k_proj.{kind}", width), Source(f"{name}.v_proj.{kind}", width), gate)

    return Linear(f"{name}.qkv_proj", rows("weight"), hidden, rows("bias") if bias else ())


def _delta_net(config: Config, name: str, fused: bool) -> GatedDeltaNet:
    hidden = config.integer("hidden_size")
    key_heads, value_heads = config.integer("linear_num_key_heads"), config.integer("linear_num_value_heads")
    key_dim, value_dim = config.integer("linear_key_head_dim"), config.integer("linear_value_head_dim")
    if value_heads % key_heads:
        raise CheckpointError(
            f"{config.path}: linear_num_value_heads {value_heads} is not a multiple of linear_num_key_heads {key_heads}"
        )
    keys, values = key_heads * key_dim, value_heads * value_dim
    if fused:
        sources = _fused(name, key_heads, key_dim, values // key_heads, value_heads // key_heads)
    else:
        parts = {"qkv": 2 * keys + values, "z": values, "b": value_heads, "a": value_heads}
        sources = tuple(Source(f"{name}.in_proj_{part}.weight", rows) for part, rows in parts.items())
    return GatedDeltaNet(
        key_heads,
        value_heads,
        key_dim,
        value_dim,
        in_proj=Linear(f"{name}.in_proj", sources, hidden),
        kernel=f"{name}.conv1d.weight",
        length=config.integer("linear_conv_kernel_dim", minimum=2),
        a_log=f"{name}.A_log",
        dt_bias=f"{name}.dt_bias",
        norm=rms_norm(config, f"{name}.norm", value_dim),
        out=linear(f"{name}.out_proj", hidden, values),
    )


def _fused(name: str, key_heads: int, key_dim: int, values: int, heads: int) -> tuple[Source, ...]:
    """Qwen3-Next: query, key, value and z alternate key head by key head, and so do b and a."""

    def alternating(tensor: str, sizes: tuple[int, ...]) -> list[Source]:
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        return [
            Source(f"{name}.{tensor}.weight", key_heads * take, sum(sizes), start, take)
            for start, take in zip(starts, sizes, strict=True)
        ]

    return (
        *alternating("in_proj_qkvz", (key_dim, key_dim, values, values)),
        *alternating("in_proj_ba", (heads, heads)),
    )


def _norm(config: Config, name: str, size: int | None = None) -> Norm:
    return rms_norm(config, name, size, offset=1.0)

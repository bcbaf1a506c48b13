"""LFM2: short convolutions in most layers, grouped-query attention with query and key norms in the others."""

from __future__ import annotations

from edgelm.errors import CheckpointError
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import Heads, embedding_and_head, linear, qkv, stacked
from edgelm.exporter.families.rope import read_rope
from edgelm.exporter.model.decoder import Attention, Decoder, Layer, Mlp, Norm, ShortConv

MODEL_TYPES = ("lfm2",)


def describe(config: Config) -> Decoder:
    """The decoder of an LFM2 config.json."""
    hidden, count = config.integer("hidden_size"), config.integer("num_hidden_layers")
    attends = config.get("full_attn_idxs", list(range(count)))
    if not isinstance(attends, list):
        raise CheckpointError(f"{config.path}: full_attn_idxs is not a list of layers")
    types = config.get("layer_types", ["full_attention" if i in attends else "conv" for i in range(count)])
    if not isinstance(types, list) or len(types) != count or any(t not in ("full_attention", "conv") for t in types):
        raise CheckpointError(
            f"{config.path}: layer_types does not name full_attention or conv for each of the {count} layers"
        )
    embedding, head = embedding_and_head(config, hidden, tied=config.flag("tie_embedding", True))
    return Decoder(
        family="lfm2",
        hidden=hidden,
        vocab=config.integer("vocab_size"),
        context=config.integer("max_position_embeddings", 128000),
        layers=tuple(_layer(config, f"model.layers.{i}", hidden, kind == "conv") for i, kind in enumerate(types)),
        norm=_norm(config, "model.embedding_norm", hidden),
        embedding=embedding,
        head=head,
    )


def _layer(config: Config, name: str, hidden: int, is_conv: bool) -> Layer:
    size = _mlp_size(config)
    parts = {f"{name}.feed_forward.w1": size, f"{name}.feed_forward.w3": size}
    return Layer(
        name=name,
        attention_norm=_norm(config, f"{name}.operator_norm", hidden),
        attention=_conv(config, f"{name}.conv", hidden) if is_conv else _attention(config, f"{name}.self_attn", hidden),
        mlp_norm=_norm(config, f"{name}.ffn_norm", hidden),
        mlp=Mlp(
            up=stacked(f"{name}.feed_forward.w1_w3", parts, hidden),
            down=linear(f"{name}.feed_forward.w2", hidden, size),
        ),
    )


def _attention(config: Config, name: str, hidden: int) -> Attention:
    heads = Heads.read(config, default_kv_heads=8)
    return Attention(
        *heads,
        qkv=qkv(name, heads, hidden),
        out=linear(f"{name}.out_proj", hidden, heads.width),
        rope=read_rope(config, heads.head_dim, theta=1000000.0),
        q_norm=_norm(config, f"{name}.q_layernorm", heads.head_dim),
        k_norm=_norm(config, f"{name}.k_layernorm", heads.head_dim),
    )


def _conv(config: Config, name: str, hidden: int) -> ShortConv:
    bias = config.flag("conv_bias")
    return ShortConv(
        in_proj=linear(f"{name}.in_proj", 3 * hidden, hidden, bias=bias),
        kernel=f"{name}.conv.weight",
        length=config.integer("conv_L_cache", 3, minimum=2),
        out=linear(f"{name}.out_proj", hidden, hidden, bias=bias),
        bias=f"{name}.conv.bias" if bias else None,
    )


def _mlp_size(config: Config) -> int:
    """The width of the MLP: two thirds of what the file says, rounded up, unless it is told to be taken as it is."""
    size = config.integer("intermediate_size", config.get("block_ff_dim", 12288))
    if not config.flag("block_auto_adjust_ff_dim", True):
        return size
    multiple = config.integer("block_multiple_of", 256)
    size = int(config.number("block_ffn_dim_multiplier", 1.0) * int(2 * size / 3))
    return -(-size // multiple) * multiple


def _norm(config: Config, name: str, size: int) -> Norm:
    return Norm(f"{name}.weight", size, config.number("norm_eps", 1e-5))

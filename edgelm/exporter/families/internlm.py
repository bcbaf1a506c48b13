"""InternLM 2 and 2.5, which store query, key and value by groups of heads, and InternLM 3, Llama's shape with biases."""

from __future__ import annotations

from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import (
    Heads,
    activation,
    decoder,
    embedding_and_head,
    gated_mlp,
    linear,
    pre_norm_layer,
    qkv,
    rms_norm,
    stacked,
)
from edgelm.exporter.families.rope import read_rope
from edgelm.exporter.model.decoder import Attention, Decoder, Layer, Linear, Mlp, Source

MODEL_TYPES = ("internlm2", "internlm3")


def describe(config: Config) -> Decoder:
    """The decoder of an InternLM config.json."""
    names = [f"model.layers.{i}" for i in range(config.integer("num_hidden_layers"))]
    norm = rms_norm(config, "model.norm")
    if config.model_type == "internlm3":
        config = config.with_defaults(max_position_embeddings=32768)
        return decoder(config, "internlm", [_layer(config, name) for name in names], norm, tied=False)
    hidden = config.integer("hidden_size")
    embedding, head = embedding_and_head(config, hidden, tied=False, embedding="model.tok_embeddings", head="output")
    return Decoder(
        family="internlm",
        hidden=hidden,
        vocab=config.integer("vocab_size"),
        context=config.integer("max_position_embeddings", 2048),
        layers=tuple(_grouped_layer(config, name) for name in names),
        norm=norm,
        embedding=embedding,
        head=head,
    )


def _grouped_layer(config: Config, name: str) -> Layer:
    hidden, intermediate, heads = config.integer("hidden_size"), config.integer("intermediate_size"), Heads.read(config)
    bias, mlp = config.flag("bias", True), f"{name}.feed_forward"
    return Layer(
        name=name,
        attention_norm=rms_norm(config, f"{name}.attention_norm"),
        attention=Attention(
            *heads,
            qkv=_by_groups(f"{name}.attention.wqkv", heads, hidden, bias=bias),
            out=linear(f"{name}.attention.wo", hidden, heads.width, bias=bias),
            rope=read_rope(config, heads.head_dim),
        ),
        mlp_norm=rms_norm(config, f"{name}.ffn_norm"),
        mlp=Mlp(
            up=stacked(f"{mlp}.w13", {f"{mlp}.w1": intermediate, f"{mlp}.w3": intermediate}, hidden),
            down=linear(f"{mlp}.w2", hidden, intermediate),
            activation=activation(config),
        ),
    )


def _by_groups(name: str, heads: Heads, hidden: int, *, bias: bool) -> Linear:
    """A matrix of groups: the query heads that share a key head, that key head, and its value head."""
    dim, shared = heads.head_dim, heads.width // heads.kv_heads
    parts = ((0, shared), (shared, dim), (shared + dim, dim))

    def sources(kind: str) -> tuple[Source, ...]:
        return tuple(
            Source(f"{name}.{kind}", heads.kv_heads * take, shared + 2 * dim, start, take) for start, take in parts
        )

    return Linear(name, sources("weight"), hidden, biases=sources("bias") if bias else ())


def _layer(config: Config, name: str) -> Layer:
    hidden, heads, bias = config.integer("hidden_size"), Heads.read(config), config.flag("bias")
    return pre_norm_layer(
        config,
        name,
        Attention(
            *heads,
            qkv=qkv(f"{name}.self_attn", heads, hidden, bias=config.flag("qkv_bias")),
            out=linear(f"{name}.self_attn.o_proj", hidden, heads.width, bias=bias),
            rope=read_rope(config, heads.head_dim),
        ),
        gated_mlp(config, f"{name}.mlp", bias=bias),
    )

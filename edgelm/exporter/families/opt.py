"""OPT, but for the 350M model: learned positions, ReLU, biases everywhere."""

from __future__ import annotations

from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import (
    Heads,
    activation,
    embedding_and_head,
    layer_norm,
    linear,
    qkv,
    unsupported,
)
from edgelm.exporter.model.decoder import Attention, Decoder, Layer, Mlp, Norm, Positions

MODEL_TYPES = ("opt",)

_OFFSET = 2  # of the first position's row


def describe(config: Config) -> Decoder:
    """The decoder of an OPT config.json.

    Raises:
        CheckpointError: a key is missing or odd.
        UnsupportedModelError: norms after the sums or a narrower embedding, as OPT 350M has them; norms without
            weights; an activation that is not known.
    """
    config = config.with_defaults(ffn_dim=3072, max_position_embeddings=2048)
    hidden, context = config.integer("hidden_size"), config.integer("max_position_embeddings")
    if not config.flag("do_layer_norm_before", True):
        raise unsupported(config, "do_layer_norm_before = false")
    if config.integer("word_embed_proj_dim", hidden) != hidden:
        raise unsupported(config, "a word_embed_proj_dim other than hidden_size")
    if not config.flag("layer_norm_elementwise_affine", True):
        raise unsupported(config, "layer_norm_elementwise_affine = false")
    embedding, head = embedding_and_head(config, hidden, tied=True, embedding="model.decoder.embed_tokens")
    return Decoder(
        family="opt",
        hidden=hidden,
        vocab=config.integer("vocab_size"),
        context=context,
        layers=tuple(_layer(config, f"model.decoder.layers.{i}") for i in range(config.integer("num_hidden_layers"))),
        norm=None if config.flag("_remove_final_layer_norm") else _norm("model.decoder.final_layer_norm", hidden),
        embedding=embedding,
        head=head,
        positions=Positions("model.decoder.embed_positions.weight", context + _OFFSET, _OFFSET),
    )


def _layer(config: Config, name: str) -> Layer:
    hidden, inner, bias = config.integer("hidden_size"), config.integer("ffn_dim"), config.flag("enable_bias", True)
    count = config.integer("num_attention_heads")
    heads = Heads(count, count, hidden // count)
    return Layer(
        name=name,
        attention_norm=_norm(f"{name}.self_attn_layer_norm", hidden),
        attention=Attention(
            *heads,
            qkv=qkv(f"{name}.self_attn", heads, hidden, bias=bias),
            out=linear(f"{name}.self_attn.out_proj", hidden, hidden, bias=bias),
        ),
        mlp_norm=_norm(f"{name}.final_layer_norm", hidden),
        mlp=Mlp(
            up=linear(f"{name}.fc1", inner, hidden, bias=bias),
            down=linear(f"{name}.fc2", hidden, inner, bias=bias),
            activation=activation(config, "activation_function", "relu"),
            gated=False,
        ),
    )


def _norm(name: str, hidden: int) -> Norm:
    return layer_norm(name, hidden, 1e-5)

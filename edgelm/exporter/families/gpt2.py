"""GPT-2, DistilGPT-2, DialoGPT and others of their shape: learned positions, matrices stored by columns."""

from __future__ import annotations

from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import activation, embedding_and_head, layer_norm, unsupported
from edgelm.exporter.model.decoder import Attention, Decoder, Layer, Linear, Mlp, Positions, Source

MODEL_TYPES = ("gpt2",)


def describe(config: Config) -> Decoder:
    """The decoder of a GPT-2 config.json.

    Raises:
        CheckpointError: a key is missing or odd.
        UnsupportedModelError: an activation that is not known, or attention to an encoder.
    """
    config = config.with_defaults(n_positions=1024, layer_norm_epsilon=1e-5)
    if config.flag("add_cross_attention"):
        raise unsupported(config, "add_cross_attention, attention to an encoder,")
    hidden, positions = config.integer("n_embd"), config.integer("n_positions")
    embedding, head = embedding_and_head(config, hidden, tied=True, embedding="transformer.wte")
    return Decoder(
        family="gpt2",
        hidden=hidden,
        vocab=config.integer("vocab_size"),
        context=positions,
        layers=tuple(_layer(config, i) for i in range(config.integer("n_layer"))),
        norm=layer_norm("transformer.ln_f", hidden, config.number("layer_norm_epsilon")),
        embedding=embedding,
        head=head,
        positions=Positions("transformer.wpe.weight", positions),
    )


def _layer(config: Config, index: int) -> Layer:
    name, eps = f"transformer.h.{index}", config.number("layer_norm_epsilon")
    hidden, heads = config.integer("n_embd"), config.integer("n_head")
    inner = config.integer("n_inner", 4 * hidden)
    return Layer(
        name=name,
        attention_norm=layer_norm(f"{name}.ln_1", hidden, eps),
        attention=Attention(
            heads,
            heads,
            hidden // heads,
            qkv=_by_columns(f"{name}.attn.c_attn", 3 * hidden, hidden),
            out=_by_columns(f"{name}.attn.c_proj", hidden, hidden),
            scale=_scale(config, hidden // heads, index),
        ),
        mlp_norm=layer_norm(f"{name}.ln_2", hidden, eps),
        mlp=Mlp(
            up=_by_columns(f"{name}.mlp.c_fc", inner, hidden),
            down=_by_columns(f"{name}.mlp.c_proj", hidden, inner),
            activation=activation(config, "activation_function", "gelu_new"),
            gated=False,
        ),
    )


def _by_columns(name: str, rows: int, inputs: int) -> Linear:
    return Linear(
        name, (Source(f"{name}.weight", rows, transposed=True),), inputs, biases=(Source(f"{name}.bias", rows),)
    )


def _scale(config: Config, head_dim: int, index: int) -> float:
    scale: float = head_dim**-0.5 if config.flag("scale_attn_weights", True) else 1.0
    return scale / (index + 1) if config.flag("scale_attn_by_inverse_layer_idx") else scale

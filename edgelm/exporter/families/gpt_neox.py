"""GPT-NeoX and Pythia: query, key and value stored head by head, attention and MLP side by side."""

from __future__ import annotations

from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import activation, embedding_and_head, layer_norm, linear
from edgelm.exporter.families.rope import read_rope
from edgelm.exporter.model.decoder import Attention, Decoder, Layer, Linear, Mlp, Source

MODEL_TYPES = ("gpt_neox",)


def describe(config: Config) -> Decoder:
    """The decoder of a GPT-NeoX config.json.

    Raises:
        CheckpointError: a key is missing or odd.
        UnsupportedModelError: an activation or rope type that is not known.
    """
    config = _renamed(config.with_defaults(layer_norm_eps=1e-5, max_position_embeddings=2048))
    hidden = config.integer("hidden_size")
    embedding, head = embedding_and_head(config, hidden, tied=False, embedding="gpt_neox.embed_in", head="embed_out")
    return Decoder(
        family="gpt_neox",
        hidden=hidden,
        vocab=config.integer("vocab_size"),
        context=config.integer("max_position_embeddings"),
        layers=tuple(_layer(config, f"gpt_neox.layers.{i}") for i in range(config.integer("num_hidden_layers"))),
        norm=layer_norm("gpt_neox.final_layer_norm", hidden, config.number("layer_norm_eps")),
        embedding=embedding,
        head=head,
    )


def _renamed(config: Config) -> Config:
    """With the rotary settings under the names that other families have; where a file has both, the older ones count."""
    names = {"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"}
    found = {new: config.number(old) for old, new in names.items() if config.get(old) is not None}
    return Config({**config.values, **found}, config.path)


def _layer(config: Config, name: str) -> Layer:
    hidden, intermediate = config.integer("hidden_size"), config.integer("intermediate_size")
    heads, eps = config.integer("num_attention_heads"), config.number("layer_norm_eps")
    bias = config.flag("attention_bias", True)
    return Layer(
        name=name,
        parallel=config.flag("use_parallel_residual", True),
        attention_norm=layer_norm(f"{name}.input_layernorm", hidden, eps),
        attention=Attention(
            heads,
            heads,
            hidden // heads,
            qkv=_head_by_head(f"{name}.attention.query_key_value", hidden, hidden // heads, bias=bias),
            out=linear(f"{name}.attention.dense", hidden, hidden, bias=bias),
            rope=read_rope(config, hidden // heads, partial=0.25),
        ),
        mlp_norm=layer_norm(f"{name}.post_attention_layernorm", hidden, eps),
        mlp=Mlp(
            up=linear(f"{name}.mlp.dense_h_to_4h", intermediate, hidden, bias=True),
            down=linear(f"{name}.mlp.dense_4h_to_h", hidden, intermediate, bias=True),
            activation=activation(config, default="gelu"),
            gated=False,
        ),
    )


def _head_by_head(name: str, hidden: int, head_dim: int, *, bias: bool) -> Linear:
    """A matrix of the rows (query, key, value) of the first head, then of the second, and so on."""

    def sources(kind: str) -> tuple[Source, ...]:
        return tuple(Source(f"{name}.{kind}", hidden, 3 * head_dim, i * head_dim, head_dim) for i in range(3))

    return Linear(name, sources("weight"), hidden, biases=sources("bias") if bias else ())

"""StableLM 3B and StableLM 2 1.6B: layer norms, and a quarter of each head rotated."""

from __future__ import annotations

from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.families.common import Heads, decoder, gated_mlp, layer_norm, linear, qkv, unsupported
from edgelm.exporter.families.rope import read_rope
from edgelm.exporter.model.decoder import Attention, Decoder, Layer

MODEL_TYPES = ("stablelm",)


def describe(config: Config) -> Decoder:
    """The decoder of a StableLM config.json.

    Raises:
        UnsupportedModelError: every head has a norm of its own, as in StableLM 2 12B.
    """
    config = config.with_defaults(layer_norm_eps=1e-5, max_position_embeddings=4096)
    if config.flag("qk_layernorm"):
        raise unsupported(config, "qk_layernorm, a norm of its own for every head,")
    layers = [_layer(config, f"model.layers.{i}") for i in range(config.integer("num_hidden_layers"))]
    norm = layer_norm("model.norm", config.integer("hidden_size"), config.number("layer_norm_eps"))
    return decoder(config, "stablelm", layers, norm, tied=False)


def _layer(config: Config, name: str) -> Layer:
    hidden, eps = config.integer("hidden_size"), config.number("layer_norm_eps")
    heads, parallel = Heads.read(config, default_kv_heads=32), config.flag("use_parallel_residual")
    return Layer(
        name=name,
        parallel=parallel,
        attention_norm=layer_norm(f"{name}.input_layernorm", hidden, eps),
        attention=Attention(
            *heads,
            qkv=qkv(f"{name}.self_attn", heads, hidden, bias=config.flag("use_qkv_bias")),
            out=linear(f"{name}.self_attn.o_proj", hidden, heads.width),
            rope=read_rope(config, heads.head_dim, partial=0.25),
        ),
        mlp_norm=None if parallel else layer_norm(f"{name}.post_attention_layernorm", hidden, eps),
        mlp=gated_mlp(config, f"{name}.mlp"),
    )

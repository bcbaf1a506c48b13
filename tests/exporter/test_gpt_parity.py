"""GPT-2, GPT-NeoX and OPT, against transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parity import CHECKS, agreement, load_model, load_pair, pairs, some_ids

from edgelm.errors import UnsupportedModelError
from edgelm.exporter.pipeline import export
from edgelm.runtime.engine import Engine

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"kind": "gpt2"},
    "gpt2-untied": {"kind": "gpt2", "tie_word_embeddings": False, "n_inner": 96, "activation_function": "relu"},
    "gpt2-unscaled": {"kind": "gpt2", "scale_attn_weights": False, "initializer_range": 0.1},
    "gpt2-scaled-by-layer": {"kind": "gpt2", "scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    "gpt2-fp16": {"kind": "gpt2", "dtype": "float16"},
    "gpt2-sharded": {"kind": "gpt2", "shard": "60KB"},
    "pythia": {"kind": "gpt_neox"},  # 4 of a head's 16 dimensions are rotated
    "pythia-head-dim-32": {"kind": "gpt_neox", "num_attention_heads": 2, "rotary_emb_base": 25000},
    "pythia-head-dim-8": {"kind": "gpt_neox", "num_attention_heads": 8, "rotary_pct": 0.5},
    "gpt-neox-sequential": {"kind": "gpt_neox", "use_parallel_residual": False, "rotary_pct": 1.0},
    "gpt-neox-unbiased": {"kind": "gpt_neox", "attention_bias": False, "tie_word_embeddings": True},
    "gpt-neox-linear": {"kind": "gpt_neox", "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "opt": {"kind": "opt", "ffn_dim": 96, "init_std": 0.2},
    "opt-unbiased": {"kind": "opt", "ffn_dim": 96, "init_std": 0.2, "enable_bias": False},
    "opt-galactica": {"kind": "opt", "ffn_dim": 96, "init_std": 0.2, "activation_function": "gelu"},
    "opt-without-a-last-norm": {"kind": "opt", "ffn_dim": 96, "init_std": 0.1, "_remove_final_layer_norm": True},
}


pair = pairs(SHAPES)


@pytest.mark.parametrize("check", CHECKS)
def test_same_logits(pair: tuple[Engine, Any], check: str) -> None:
    CHECKS[check](*pair, some_ids())


@pytest.mark.parametrize("target", ["rpi5", "x86-64"])
@pytest.mark.parametrize("quant", ["int8", "int4"])
@pytest.mark.parametrize("shape", ["gpt2", "pythia", "opt"])
def test_quantised_logits_agree(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, shape: str, quant: str, target: str
) -> None:
    found = agreement(*load_pair(tiny_checkpoint(**SHAPES[shape]), tmp_path / "b", quant, target), some_ids())
    print(f"{shape:14} {target:6} {quant} top-1 {found.top1:.2f} correlation {found.correlation:.4f}")
    assert found.correlation > (0.99 if quant == "int8" else 0.9)
    assert found.top1 > (0.8 if quant == "int8" else 0.3)  # random weights: many tokens are nearly as likely


def test_a_full_context_is_reached(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """The last learned position is the 128th."""
    for shape in ("gpt2", "opt"):
        engine, model = load_pair(tiny_checkpoint(**SHAPES[shape]), tmp_path / shape)
        CHECKS["prefill"](engine, model, some_ids(128))


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("gpt2", ("n_embd", "n_layer", "n_head")),
        ("gpt_neox", ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")),
        ("opt", ("hidden_size", "num_hidden_layers", "num_attention_heads", "ffn_dim")),
    ],
)
def test_keys_left_out_of_the_config(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, kind: str, sizes: tuple[str, ...]
) -> None:
    """They mean what transformers' config class takes for them."""
    positions = {"gpt2": 1024}.get(kind, 2048)
    more = {"ffn_dim": 96, "init_std": 0.2} if kind == "opt" else {}
    checkpoint = tiny_checkpoint(kind, max_position_embeddings=positions, **more)
    config = json.loads((checkpoint / "config.json").read_text())
    left = {key: config[key] for key in (*sizes, "vocab_size", "model_type", "architectures")}
    (checkpoint / "config.json").write_text(json.dumps(left))
    CHECKS["prefill"](*load_pair(checkpoint, tmp_path / "b"), some_ids())


@pytest.mark.parametrize(
    "values",
    [
        {"rotary_pct": 0.5},  # and partial_rotary_factor 0.25
        {"partial_rotary_factor": 1.0},
        {"rotary_emb_base": 500, "rope_theta": 10000},
        {"rope_theta": 9.0},
    ],
)
def test_two_spellings_that_differ(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, values: dict[str, float]
) -> None:
    """The older one counts, as in transformers, which writes both."""
    checkpoint = tiny_checkpoint(**SHAPES["pythia"])
    config = json.loads((checkpoint / "config.json").read_text())
    assert {"rotary_pct", "partial_rotary_factor", "rotary_emb_base", "rope_theta"} <= set(config)
    (checkpoint / "config.json").write_text(json.dumps(config | values))
    CHECKS["prefill"](*load_pair(checkpoint, tmp_path / "b"), some_ids())


@pytest.mark.parametrize("shape", ["gpt2", "opt", "pythia"])
def test_a_checkpoint_of_the_bare_model(tiny_checkpoint: Callable[..., Path], tmp_path: Path, shape: str) -> None:
    """Saved without its head, as GPT-2 and OPT were published, it has shorter names."""
    checkpoint = tiny_checkpoint(**{**SHAPES[shape], "tie_word_embeddings": True})
    model = load_model(checkpoint)
    model.base_model.save_pretrained(checkpoint)
    engine = Engine.load(export(checkpoint, "x86-64", "fp32", output=tmp_path / "b", exporter="native"))
    CHECKS["prefill"](engine, model, some_ids())


@pytest.mark.parametrize(
    ("kind", "config", "named"),
    [
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before = false"),
        ("opt", {"word_embed_proj_dim": 32}, "a word_embed_proj_dim other than hidden_size"),
        ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine = false"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
    ],
)
def test_what_cannot_be_described_is_refused(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, kind: str, config: dict[str, Any], named: str
) -> None:
    checkpoint = tiny_checkpoint(kind, **({"ffn_dim": 96} if kind == "opt" else {}))
    values = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**values, **config}))
    with pytest.raises(UnsupportedModelError, match=f"{named}.* is not supported by the native exporter") as error:
        export(checkpoint, "rpi5", output=tmp_path / "b", exporter="native")
    assert error.value.hint == "try --exporter optimum"

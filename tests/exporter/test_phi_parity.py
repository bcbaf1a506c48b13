"""Phi, Phi-3 and StableLM, and others that are Llama's shape but for a few parts, against transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parity import CHECKS, agreement, load_model, load_pair, pairs, some_ids

from edgelm.errors import CheckpointError, UnsupportedModelError
from edgelm.exporter.checkpoint.config import Config, read_json
from edgelm.exporter.families import family_of
from edgelm.exporter.pipeline import export
from edgelm.runtime.engine import Engine

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def longrope(frequencies: int) -> dict[str, Any]:
    """A stretch that differs from frequency to frequency, and within the original context from beyond it."""
    short = [1.0 + 0.1 * i for i in range(frequencies)]
    return {"type": "longrope", "short_factor": short, "long_factor": [1.5 + 2.0 * i for i in range(frequencies)]}


BEYOND = {"rope_scaling": longrope(8), "original_max_position_embeddings": 16, "max_position_embeddings": 128}
SHAPES: dict[str, dict[str, Any]] = {
    "phi": {"kind": "phi"},
    "phi-2": {"kind": "phi", "num_key_value_heads": 4, "partial_rotary_factor": 0.4},
    "phi-normed": {"kind": "phi", "qk_layernorm": True, "tie_word_embeddings": True},
    "phi-yarn": {"kind": "phi", "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    "phi3": {"kind": "phi3"},
    "phi3-window": {"kind": "phi3", "sliding_window": 16, "num_key_value_heads": 4},
    "phi3-longrope": {"kind": "phi3", **BEYOND},
    "phi3-longrope-su": {"kind": "phi3", **BEYOND, "rope_scaling": {**longrope(8), "type": "su"}},
    "phi4-mini": {
        "kind": "phi3",
        **BEYOND,
        "rope_scaling": longrope(6),
        "partial_rotary_factor": 0.75,
        "tie_word_embeddings": True,
        "sliding_window": 262144,
    },
    "stablelm": {"kind": "stablelm"},
    "stablelm-bias": {"kind": "stablelm", "use_qkv_bias": True, "partial_rotary_factor": 1.0, "hidden_act": "gelu"},
    "stablelm-parallel": {"kind": "stablelm", "use_parallel_residual": True, "num_key_value_heads": 4},
    "helium": {"kind": "helium", "head_dim": 16},
    "helium-bias": {"kind": "helium", "head_dim": 16, "attention_bias": True, "mlp_bias": True},
    "helium-head-dim-8": {"kind": "helium", "head_dim": 8, "num_attention_heads": 8, "tie_word_embeddings": True},
    "nemotron": {"kind": "nemotron"},
    "nemotron-bias": {"kind": "nemotron", "attention_bias": True, "mlp_bias": True, "head_dim": 32},
    "exaone4": {"kind": "exaone4", "sliding_window": 16, "num_hidden_layers": 4},
    "exaone4-layer-types": {
        "kind": "exaone4",
        "sliding_window": 16,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "head_dim": 24,
    },
    "exaone4-global": {"kind": "exaone4", "sliding_window": None, "layer_types": ["full_attention"] * 3},
    "cohere2": {"kind": "cohere2", "sliding_window": 16, "num_hidden_layers": 4},
    "cohere2-bias": {"kind": "cohere2", "sliding_window": 16, "attention_bias": True, "tie_word_embeddings": False},
}
# The shape of each family that has most of its parts.
QUANTISED = ("phi-normed", "phi4-mini", "stablelm-bias", "helium-bias", "nemotron-bias", "exaone4", "cohere2")


pair = pairs(SHAPES)


@pytest.mark.parametrize("check", CHECKS)
def test_same_logits(pair: tuple[Engine, Any], check: str) -> None:
    CHECKS[check](*pair, some_ids())


@pytest.mark.parametrize("check", CHECKS)
def test_longrope_within_the_original_context(tiny_checkpoint: Callable[..., Path], tmp_path: Path, check: str) -> None:
    """A bundle whose context is no longer than the original one takes the short factors."""
    checkpoint = tiny_checkpoint(
        "phi3", rope_scaling=longrope(8), original_max_position_embeddings=128, max_position_embeddings=512
    )
    engine = Engine.load(export(checkpoint, "x86-64", "fp32", context=128, output=tmp_path / "b"))
    CHECKS[check](engine, load_model(checkpoint), some_ids())


@pytest.mark.parametrize("target", ["rpi5", "x86-64"])
@pytest.mark.parametrize("quant", ["int8", "int4"])
@pytest.mark.parametrize("shape", QUANTISED)
def test_quantised_logits_agree(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, shape: str, quant: str, target: str
) -> None:
    """Weights are smaller than elsewhere: with large ones attention is so sharp that any error changes what it sees."""
    checkpoint = tiny_checkpoint(**SHAPES[shape], initializer_range=0.05)
    found = agreement(*load_pair(checkpoint, tmp_path / "b", quant, target), some_ids())
    print(f"{shape:14} {target:6} {quant} top-1 {found.top1:.2f} correlation {found.correlation:.4f}")
    assert found.correlation > (0.99 if quant == "int8" else 0.9)
    assert found.top1 > (0.8 if quant == "int8" else 0.3)  # random weights: many tokens are nearly as likely


SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        ("phi", ()),
        ("phi3", ()),
        ("stablelm", ("num_key_value_heads",)),
        ("helium", ("num_key_value_heads", "head_dim")),
        ("nemotron", ("num_key_value_heads",)),
        ("exaone4", ("num_key_value_heads",)),
        ("cohere2", ()),
    ],
)
def test_keys_left_out_of_the_config(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, kind: str, kept: tuple[str, ...]
) -> None:
    """They mean what transformers' config class takes for them."""
    checkpoint = tiny_checkpoint(kind, num_key_value_heads=4, head_dim=16, vocab_size=300)
    config = json.loads((checkpoint / "config.json").read_text())
    left = {key: config[key] for key in (*SIZES, *kept, "model_type", "architectures")}
    left["pad_token_id"] = None  # Phi-3's default is not in the tiny vocabulary
    (checkpoint / "config.json").write_text(json.dumps(left))
    engine, model = load_pair(checkpoint, tmp_path / "b")
    CHECKS["prefill"](engine, model, some_ids())
    described = family_of(kind).describe(Config(left, checkpoint / "config.json"))
    assert described.context == model.config.max_position_embeddings
    assert described.tied == model.config.tie_word_embeddings


@pytest.mark.parametrize("name", ["phi3.5-mini-instruct", "phi-4-mini-reasoning"])
def test_published_configs(data_dir: Path, name: str) -> None:
    path = data_dir / "configs" / name / "config.json"
    values = read_json(path)
    described = family_of(values["model_type"]).describe(Config(values, path))
    with torch.device("meta"):
        settings = transformers.AutoConfig.for_model(**{**values, "model_type": "phi3"})
        model = transformers.AutoModelForCausalLM.from_config(settings)
    assert described.parameters == sum(parameter.numel() for parameter in model.parameters())
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert described.tensors.items() <= shapes.items()


def test_a_norm_of_its_own_for_every_head_is_refused(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("stablelm")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "qk_layernorm": True}))
    with pytest.raises(UnsupportedModelError, match="qk_layernorm") as error:
        export(checkpoint, "rpi5", output=tmp_path / "b", exporter="native")
    assert error.value.hint == "try --exporter optimum"


def test_the_wrong_count_of_rope_factors_is_told(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("phi3", **BEYOND)
    config = json.loads((checkpoint / "config.json").read_text())
    config["rope_scaling"]["long_factor"].pop()
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="long_factor of the rope has 7 numbers, expected 8"):
        export(checkpoint, "rpi5", output=tmp_path / "b")

"""The native export of Qwen, Gemma, SmolLM3, Granite and OLMo gives the logits that transformers gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity import CHECKS, agreement, load_model, load_pair, pairs, round_weights, some_ids

from edgelm.errors import CheckpointError, UnsupportedModelError
from edgelm.exporter.checkpoint.config import Config, read_json
from edgelm.exporter.families import family_of
from edgelm.exporter.families.rope import read_rope
from edgelm.exporter.model.decoder import Decoder
from edgelm.exporter.pipeline import export
from edgelm.runtime.engine import Engine

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

WINDOW = {"sliding_window": 16}
LINEAR = {"rope_scaling": {"rope_type": "linear", "factor": 2.5}}
YARN = {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}
GEMMA = {"head_dim": 32, "hidden_activation": "gelu_pytorch_tanh", "pad_token_id": 0}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2": {"kind": "qwen2"},
    "qwen2-tied": {"kind": "qwen2", "tie_word_embeddings": True, "rope_theta": 1e6},
    "qwen2-yarn": {"kind": "qwen2", **YARN},
    "qwen2-window": {"kind": "qwen2", "use_sliding_window": True, "max_window_layers": 1, **WINDOW},
    "qwen2-layer-types": {
        "kind": "qwen2",
        "use_sliding_window": True,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        **WINDOW,
    },
    "qwen3": {"kind": "qwen3", "head_dim": 32, "tie_word_embeddings": True},
    "qwen3-bias": {"kind": "qwen3", "head_dim": 16, "attention_bias": True},
    "qwen3-odd-head": {"kind": "qwen3", "head_dim": 24},
    "qwen3-window": {"kind": "qwen3", "head_dim": 16, "use_sliding_window": True, "max_window_layers": 2, **WINDOW},
    "gemma": {"kind": "gemma", **GEMMA},
    "gemma-hidden-act": {"kind": "gemma", "head_dim": 16, "hidden_act": "gelu_pytorch_tanh", "pad_token_id": 0},
    "gemma2": {
        "kind": "gemma2",
        "num_hidden_layers": 4,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 5.0,
        **GEMMA,
        **WINDOW,
    },
    "gemma2-no-caps": {
        "kind": "gemma2",
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "attention_bias": True,
        **GEMMA,
        **WINDOW,
    },
    "gemma3": {
        "kind": "gemma3_text",
        "num_hidden_layers": 4,
        "sliding_window_pattern": 3,
        "query_pre_attn_scalar": 24,
        **GEMMA,
        **WINDOW,
        **LINEAR,
    },
    "gemma3-layer-types": {
        "kind": "gemma3_text",
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "rope_theta": 5e5,
        "rope_local_base_freq": 1e3,
        "final_logit_softcapping": 5.0,
        **GEMMA,
        **WINDOW,
    },
    "smollm3": {"kind": "smollm3", "num_hidden_layers": 4, "pad_token_id": 0},
    "smollm3-every-other": {
        "kind": "smollm3",
        "no_rope_layers": [1, 0, 1],
        "use_sliding_window": True,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        **WINDOW,
    },
    "smollm3-layer-types": {  # which count, whatever use_sliding_window says
        "kind": "smollm3",
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "no_rope_layers": [0, 1, 1],
        "use_sliding_window": False,
        "pad_token_id": 0,
        **WINDOW,
    },
    "granite": {
        "kind": "granite",
        "tie_word_embeddings": True,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.4,
        "logits_scaling": 4.0,
    },
    "granite-bias": {"kind": "granite", "attention_bias": True, "mlp_bias": True, "residual_multiplier": 0.4},
    "olmo2": {"kind": "olmo2", "num_key_value_heads": 2},
    "olmo2-bias": {"kind": "olmo2", "attention_bias": True, "tie_word_embeddings": True},
    "olmo3": {"kind": "olmo3", "num_hidden_layers": 4, **WINDOW, **YARN},
}
KINDS = {shape["kind"] for shape in SHAPES.values()}
Checkpoints = Callable[..., Path]


pair = pairs(SHAPES)


@pytest.mark.parametrize("check", CHECKS)
def test_same_logits(pair: tuple[Engine, Any], check: str) -> None:
    CHECKS[check](*pair, some_ids())


@pytest.mark.parametrize("shape", ["qwen2", "qwen3", "gemma", "gemma2", "gemma3", "smollm3", "granite", "olmo2"])
@pytest.mark.parametrize(("target", "quant"), [("rpi5", "int4"), ("rpi5", "int8"), ("x86-64", "int8")])
def test_quantised(tiny_checkpoint: Checkpoints, tmp_path: Path, shape: str, target: str, quant: str) -> None:
    """Against weights rounded alike only activations differ; random weights are the hardest to round."""
    checkpoint = tiny_checkpoint(**SHAPES[shape], initializer_range=0.05)
    engine, model = load_pair(checkpoint, tmp_path / "b", quant, target)
    before = agreement(engine, model, some_ids())
    round_weights(model, quant, target)
    after = agreement(engine, model, some_ids())
    assert before.correlation > (0.95 if quant == "int8" else 0.6)
    assert after.correlation > 0.97
    assert after.top1 > 0.6


NESTED = {  # of the files in which a tensor of the text model stands: the names of its parts
    "as published": ("language_model.model.", "language_model.lm_head."),
    "as transformers 5 saves": ("model.language_model.", "lm_head."),
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("names", NESTED)
def test_text_part_of_gemma3_with_images(tiny_checkpoint: Checkpoints, tmp_path: Path, names: str, tied: bool) -> None:
    """The text model stands in text_config, and its tensors have longer names."""
    from safetensors.numpy import load_file, save_file

    folder = tiny_checkpoint(**SHAPES["gemma3"], tie_word_embeddings=tied)
    model = load_model(folder)
    config = read_json(folder / "config.json")
    outer = {"model_type": "gemma3", "text_config": config, "vision_config": {"model_type": "siglip_vision_model"}}
    (folder / "config.json").write_text(json.dumps(outer))
    body, head = NESTED[names]
    text = load_file(folder / "model.safetensors")
    tensors = {name.replace("model.", body, 1).replace("lm_head.", head): value for name, value in text.items()}
    tensors["vision_tower.vision_model.encoder.layers.0.layer_norm1.weight"] = np.ones(16, np.float32)
    save_file(tensors, folder / "model.safetensors")
    engine = Engine.load(export(folder, "x86-64", "fp32", output=tmp_path / "b", exporter="native"))
    CHECKS["prefill"](engine, model, some_ids())


SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 8, "vocab_size": 300}


def describe(values: dict[str, Any]) -> Decoder:
    family = family_of(values["model_type"])
    assert family is not None
    return family.describe(Config(values, Path("config.json")))


@pytest.mark.parametrize("kind", sorted({*KINDS, "llama", "mistral", "ministral", "arcee", "ernie4_5"}))
def test_keys_left_out(kind: str) -> None:
    """A key left out has the value of transformers' configuration class."""
    sizes = SIZES if kind in ("gemma", "gemma2", "gemma3_text") else {**SIZES, "num_attention_heads": 8}
    whole = transformers.AutoConfig.for_model(kind, **sizes).to_dict()
    assert describe({"model_type": kind, **sizes}) == describe(whole)


def test_gemma3_with_no_sizes() -> None:
    whole = transformers.AutoConfig.for_model("gemma3_text").to_dict()
    assert describe({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}) == describe(whole)


def test_ropes_of_gemma3_in_the_keys_of_transformers_5() -> None:
    values = {"model_type": "gemma3_text", **SIZES, "rope_theta": 5e5, "rope_local_base_freq": 2e4, **LINEAR}
    newer = {key: value for key, value in values.items() if not key.startswith("rope")}
    newer["rope_parameters"] = {
        "full_attention": {"rope_theta": 5e5, **LINEAR["rope_scaling"]},
        "sliding_attention": {"rope_theta": 2e4, "rope_type": "default"},
    }
    assert describe(newer) == describe(values)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"model_type": "qwen2", "layer_types": ["full_attention"]}, CheckpointError, "each of the 8 layers"),
        ({"model_type": "qwen3", "layer_types": ["chunked_attention"] * 8}, UnsupportedModelError, "chunked_attention"),
        ({"model_type": "smollm3", "no_rope_layers": [1, 0]}, CheckpointError, "8 zeros and ones"),
        ({"model_type": "granite", "partial_rotary_factor": 1e308}, CheckpointError, "a share of a head"),
        ({"model_type": "qwen3", "rope_parameters": {"partial_rotary_factor": 2**40}}, CheckpointError, "a share of a"),
        ({"model_type": "phi4", "partial_rotary_factor": 1.5}, CheckpointError, "a share of a head"),
        ({"model_type": "qwen3_next", "mlp_only_layers": 1}, CheckpointError, "a list of numbers"),
        ({"model_type": "qwen3_next", "mlp_only_layers": [[1]]}, CheckpointError, "a list of numbers"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, UnsupportedModelError, "both directions"),
    ],
)
def test_odd_configs(values: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        describe({**SIZES, "num_attention_heads": 8, **values})


@pytest.mark.parametrize(
    "name", ["Qwen2-1.5B-Instruct", "Qwen2.5-0.5B-Instruct", "Qwen2.5-3B", "Qwen3-1.7B", "Qwen3-4B", "gemma2_2b_it"]
)
def test_parameters_of_real_models(data_dir: Path, name: str) -> None:
    values = read_json(data_dir / "configs" / name / "config.json")
    assert describe(values).parameters == _count(transformers.AutoConfig.for_model(**values))


def test_parameters_of_a_gemma3_written_by_hand(data_dir: Path) -> None:
    """Its model_type is that of the models with images, but there is no text_config."""
    values = read_json(data_dir / "configs" / "gemma3_1b_it" / "config.json")
    text = transformers.AutoConfig.for_model(**{**values, "model_type": "gemma3_text", "rope_scaling": None})
    assert describe(values).parameters == _count(text) == 999_885_952


def _count(config: Any) -> int:
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["olmo3", "gemma3_text"])
def test_ropes_by_type_of_layer_as_in_newer_files(kind: str) -> None:
    values = {
        "model_type": kind,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "vocab_size": 300,
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 16,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            "full_attention": {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0},
        },
    }
    family = family_of(kind)
    assert family is not None
    local, full = (attention.rope for attention in family.describe(Config(values, Path("config.json"))).attentions)
    assert local is not None
    assert (local.theta, local.scaling) == (2e4, None)
    assert full is not None
    assert full.theta == 5e5
    assert full.scaling is not None
    assert full.scaling.factor == 2


@pytest.mark.parametrize("kind", ["yarn", "longrope"])
def test_a_stretch_told_by_two_contexts(kind: str) -> None:
    """As newer files tell it: the original context inside, and the factor left out."""
    values = {
        "max_position_embeddings": 128,
        "rope_parameters": {
            "rope_type": kind,
            "rope_theta": 1e4,
            "original_max_position_embeddings": 32,
            "short_factor": [1.0] * 8,
            "long_factor": [2.0] * 8,
        },
    }
    scaling = read_rope(Config(values, Path("config.json")), 16).scaling
    assert scaling is not None
    assert (scaling.factor, scaling.original_context) == (4, 32)

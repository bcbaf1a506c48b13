"""Families that transformers has no code for, but whose arithmetic is Llama's: InternLM 2 and 3, EXAONE 3.

A tiny Llama (or Qwen 2) is written anew under their names and in their layout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity import CHECKS, agreement, load_model, some_ids

from edgelm.exporter.pipeline import export
from edgelm.runtime.engine import Engine

safetensors_numpy = pytest.importorskip("safetensors.numpy")
pytest.importorskip("transformers")

Tensors = dict[str, np.ndarray]

INTERNLM2 = {
    "model.embed_tokens": "model.tok_embeddings",
    "lm_head": "output",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
}
EXAONE = {
    "model.embed_tokens": "transformer.wte",
    "model.norm": "transformer.ln_f",
    "model.layers": "transformer.h",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.o_proj": "attn.attention.out_proj",
    "self_attn": "attn.attention",
    "mlp.gate_proj": "mlp.c_fc_0",
    "mlp.up_proj": "mlp.c_fc_1",
    "mlp.down_proj": "mlp.c_proj",
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def renamed(tensors: Tensors, names: dict[str, str]) -> Tensors:
    """With the first of `names` that a name holds replaced."""

    def new(name: str) -> str:
        for old, other in names.items():
            name = name.replace(old, other)
        return name

    return {new(name): value for name, value in tensors.items()}


def grouped(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """With query, key and value joined: for each key head its query heads, itself, its value head."""
    dim, kv_heads = config["hidden_size"] // config["num_attention_heads"], config["num_key_value_heads"]
    out = {name: value for name, value in tensors.items() if not re.search(r"\.[qkv]_proj\.", name)}
    for name in [n for n in tensors if ".q_proj." in n]:
        parts = [tensors[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
        groups = [part.reshape(kv_heads, -1, dim, *part.shape[1:]) for part in parts]
        joined = np.concatenate(groups, axis=1).reshape(-1, *parts[0].shape[1:])
        out[name.replace("self_attn.q_proj", "attention.wqkv")] = joined
    return out


def internlm2(tensors: Tensors, config: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """InternLM 2's layout; it has biases unless config.json says otherwise."""
    bias = config.pop("attention_bias")
    return renamed(grouped(tensors, config), INTERNLM2), {**config, **({} if bias else {"bias": False})}


def internlm3(tensors: Tensors, config: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """InternLM 3's flags: all biases are Llama's, those of query, key and value alone are Qwen's."""
    every = config["model_type"] == "llama"
    return tensors, {**config, "qkv_bias": True, "bias": every}


def exaone(tensors: Tensors, config: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """EXAONE 3's names, of the config too."""
    keys = {
        "num_hidden_layers": "num_layers",
        "rms_norm_eps": "layer_norm_epsilon",
        "hidden_act": "activation_function",
    }
    return renamed(tensors, EXAONE), {keys.get(key, key): value for key, value in config.items()}


SHAPES: dict[str, tuple[str, Callable[..., tuple[Tensors, dict[str, Any]]], dict[str, Any]]] = {
    "internlm2": ("internlm2", internlm2, {}),
    "internlm2-bias": ("internlm2", internlm2, {"attention_bias": True, "num_key_value_heads": 1}),
    "internlm2-multi-head": ("internlm2", internlm2, {"num_key_value_heads": 4}),
    "internlm2-dynamic": ("internlm2", internlm2, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    "internlm3": ("internlm3", internlm3, {"attention_bias": True, "mlp_bias": True, "head_dim": 24}),
    "internlm3-qkv-bias": ("internlm3", internlm3, {"kind": "qwen2"}),
    "exaone": ("exaone", exaone, {"rope_scaling": LLAMA3}),
    "exaone-tied": ("exaone", exaone, {"tie_word_embeddings": True, "num_key_value_heads": 4}),
}


def made(tiny_checkpoint: Callable[..., Path], shape: str, **more: Any) -> tuple[Path, Path]:
    """(checkpoint in the family's layout, the same in Llama's)."""
    kind, convert, settings = SHAPES[shape]
    original, other = tiny_checkpoint(**settings, **more), tiny_checkpoint(**settings, **more)
    config = json.loads((original / "config.json").read_text())
    tensors, config = convert(safetensors_numpy.load_file(original / "model.safetensors"), config)
    safetensors_numpy.save_file(tensors, other / "model.safetensors")
    (other / "config.json").write_text(json.dumps({**config, "model_type": kind}))
    return other, original


def loaded(checkpoints: tuple[Path, Path], output: Path, quant: str = "fp32") -> tuple[Engine, Any]:
    """(engine of a bundle of the first, transformers' model of the second)."""
    bundle = export(checkpoints[0], "x86-64", quant, output=output, exporter="native")
    return Engine.load(bundle), load_model(checkpoints[1])


@pytest.fixture(params=SHAPES, scope="module")
def pair(
    request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Engine, Any]:
    """(engine of the fp32 bundle, transformers' model) of one shape."""
    return loaded(made(tiny_checkpoint, request.param), tmp_path_factory.mktemp("bundle") / "b")


@pytest.mark.parametrize("check", CHECKS)
def test_same_logits(pair: tuple[Engine, Any], check: str) -> None:
    CHECKS[check](*pair, some_ids())


@pytest.mark.parametrize("quant", ["int8", "int4"])
@pytest.mark.parametrize("shape", ["internlm2-bias", "internlm3", "exaone"])
def test_quantised_logits_agree(tiny_checkpoint: Callable[..., Path], tmp_path: Path, shape: str, quant: str) -> None:
    found = agreement(*loaded(made(tiny_checkpoint, shape, initializer_range=0.05), tmp_path / "b", quant), some_ids())
    print(f"{shape:14} x86-64 {quant} top-1 {found.top1:.2f} correlation {found.correlation:.4f}")
    assert found.correlation > (0.99 if quant == "int8" else 0.9)
    assert found.top1 > (0.8 if quant == "int8" else 0.3)  # random weights: many tokens are nearly as likely

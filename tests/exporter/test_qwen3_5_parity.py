"""Qwen 3.5 and Qwen3-Next without experts: linear attention with states of its own beside the KV cache."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity import CHECKS, agreement, load_model, load_pair, pairs, some_ids

from edgelm.errors import UnsupportedModelError
from edgelm.exporter import families
from edgelm.exporter.checkpoint.config import Config
from edgelm.exporter.pipeline import export
from edgelm.exporter.sizing import footprint
from edgelm.runtime.engine import Engine
from edgelm.target.target import load_target

DENSE = {
    "num_experts": 0,
    "head_dim": 32,
    "partial_rotary_factor": 0.5,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 24,
    "linear_value_head_dim": 16,
    "num_hidden_layers": 4,
    "pad_token_id": 0,
}
LINEAR, FULL = "linear_attention", "full_attention"
SHAPES: dict[str, dict[str, Any]] = {
    "every-fourth": DENSE,
    "tied": {**DENSE, "tie_word_embeddings": True, "rope_theta": 1e6},
    "bias": {**DENSE, "attention_bias": True, "layer_types": [FULL, LINEAR], "num_hidden_layers": 2},
    "long-filter": {**DENSE, "linear_conv_kernel_dim": 6, "layer_types": [LINEAR, FULL], "num_hidden_layers": 2},
    "one-value-head-a-key-head": {**DENSE, "linear_num_key_heads": 4, "linear_value_head_dim": 24},
    "experts-in-no-layer": {**DENSE, "num_experts": 4, "mlp_only_layers": [0, 1, 2, 3]},
}
Checkpoints = Callable[..., Path]


def qwen3_5(folder: Path, *, outer: bool) -> Path:
    """The same model as Qwen 3.5 stores it: parts one after another, in text_config where there are images too."""
    from safetensors.numpy import load_file, save_file

    config = json.loads((folder / "config.json").read_text())
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    key_dim, width = config["linear_key_head_dim"], values // keys * config["linear_value_head_dim"]
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.endswith("in_proj_qkvz.weight"):
            grouped = tensor.reshape(keys, -1, tensor.shape[1])
            parts = np.split(grouped, np.cumsum([key_dim, key_dim, width]), axis=1)
            q, k, v, z = (part.reshape(-1, tensor.shape[1]) for part in parts)
            tensors[name.replace("qkvz", "qkv")] = np.concatenate([q, k, v])
            tensors[name.replace("qkvz", "z")] = z
        elif name.endswith("in_proj_ba.weight"):
            grouped = tensor.reshape(keys, -1, tensor.shape[1])
            for part, half in zip("ba", np.split(grouped, 2, axis=1), strict=True):
                tensors[name.replace("_ba.", f"_{part}.")] = half.reshape(-1, tensor.shape[1])
        else:
            tensors[name] = tensor
    config |= {
        "model_type": "qwen3_5_text",
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.pop("rope_theta"),
            "partial_rotary_factor": config.pop("partial_rotary_factor"),
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
        },
    }
    del config["num_experts"]
    if outer:
        tied = config.pop("tie_word_embeddings", False)
        config = {"model_type": "qwen3_5", "text_config": config, "tie_word_embeddings": tied, "vision_config": {}}
        tensors = {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in tensors.items()}
        tensors["model.visual.patch_embed.weight"] = tensors["mtp.norm.weight"] = np.zeros(4, np.float32)
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


pair = pairs(SHAPES, kind="qwen3_next")


@pytest.mark.parametrize("check", CHECKS)
def test_same_as_transformers(pair: tuple[Engine, Any], check: str) -> None:
    CHECKS[check](*pair, some_ids())


@pytest.mark.parametrize("outer", [False, True], ids=["text", "text of a model with images"])
@pytest.mark.parametrize("shape", ["tied", "one-value-head-a-key-head"])
def test_as_qwen3_5_stores_it(tiny_checkpoint: Checkpoints, tmp_path: Path, shape: str, outer: bool) -> None:
    folder = tiny_checkpoint("qwen3_next", **SHAPES[shape])
    model = load_model(folder)
    bundle = export(qwen3_5(folder, outer=outer), "x86-64", "fp32", output=tmp_path / "b", exporter="native")
    for check in CHECKS.values():
        check(Engine.load(bundle), model, some_ids())


@pytest.mark.parametrize("target", ["rpi5", "x86-64", "rpi4"])
@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_quantised(tiny_checkpoint: Checkpoints, tmp_path: Path, target: str, quant: str) -> None:
    checkpoint = tiny_checkpoint("qwen3_next", **DENSE, initializer_range=0.05)
    found = agreement(*load_pair(checkpoint, tmp_path / "b", quant, target), some_ids())
    assert found.correlation > {"int8": 0.97, "int4": 0.7}[quant]


def test_states_do_not_grow_and_are_counted(tiny_checkpoint: Checkpoints, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("qwen3_next", **{**DENSE, "max_position_embeddings": 1024})
    bundle = export(checkpoint, "x86-64", "fp32", output=tmp_path / "b")
    ids = np.random.default_rng(0).integers(3, 300, 600)
    whole, steps = Engine.load(bundle), Engine.load(bundle)
    expected = whole.forward(ids, 1).copy()
    for start in range(0, 600, 100):
        found = steps.forward(ids[start : start + 100])
    np.testing.assert_allclose(found, expected, atol=1e-3)
    channels, matrices = 2 * 2 * 24 + 4 * 16, 4 * 24 * 16
    states = 2 * 3 * (3 * channels + matrices) * 4  # two buffers of three layers, 4 bytes a value
    memory = bundle.manifest.to_dict()["memory"]
    assert memory["state_bytes"] == states
    kept = 6 * states // 2  # those after each of the six passes
    assert steps.cache_bytes == 1024 * memory["kv_bytes_per_token"] + states + kept


# Qwen3.5-0.8B, of which the published files hold 873 million parameters, 121 million of them in the part for images.
PUBLISHED = {
    "model_type": "qwen3_5",
    "tie_word_embeddings": True,
    "text_config": {
        "model_type": "qwen3_5_text",
        "hidden_size": 1024,
        "intermediate_size": 3584,
        "num_hidden_layers": 24,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "linear_num_value_heads": 16,
        "vocab_size": 248320,
        "max_position_embeddings": 262144,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25},
    },
}


def test_the_published_shape() -> None:
    decoder = families.describe(Config(PUBLISHED, Path("config.json")))
    rope = decoder.attentions[0].rope
    assert decoder.tied
    assert len(decoder.attentions) == 6
    assert len(decoder.recurrences) == 18
    assert rope is not None
    assert (rope.dim, rope.theta) == (64, 1e7)
    assert math.isclose(decoder.parameters, 752e6, rel_tol=0.002)
    taken = footprint.of_decoder(decoder, load_target("rpi5").recipe("int4"), load_target("rpi5"))
    assert taken.device(4096).state_bytes == 2 * 18 * 4 * (16 * 128 * 128 + 3 * 6144)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num_experts": 4}, "mixture of experts"),
        ({"attn_output_gate": False}, "attn_output_gate"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"layer_types": [LINEAR] * 24}, "full_attention"),
    ],
)
def test_what_it_cannot_say(values: dict[str, Any], said: str) -> None:
    text = {**PUBLISHED["text_config"], **values}  # type: ignore[dict-item]
    with pytest.raises(UnsupportedModelError, match=said):
        families.describe(Config({**PUBLISHED, "text_config": text}, Path("config.json")))

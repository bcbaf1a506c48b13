"""A GGUF file of every architecture gives the logits that transformers gives of the checkpoint it was made from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_file import ARCHITECTURES, write_gguf
from parity import close, load_model, reference, some_ids
from test_llama_parity import LLAMA3, YARN

from edgelm.exporter.checkpoint.gguf.architectures import ARCHITECTURES as KNOWN
from edgelm.exporter.pipeline import export
from edgelm.runtime.engine import Engine

pytest.importorskip("transformers")
GEMMA = {"head_dim": 32, "hidden_activation": "gelu_pytorch_tanh"}
LONG = {"type": "longrope", "short_factor": [1.1] * 8, "long_factor": [2.5] * 8}
WINDOWS = ["sliding_attention", "full_attention", "sliding_attention"]
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-tied": {"tie_word_embeddings": True},
    "llama-bias": {"attention_bias": True, "mlp_bias": True},
    "llama-rope3": {"rope_scaling": LLAMA3, "rope_theta": 500000.0},
    "llama-linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.5}},
    "llama-yarn": {"rope_scaling": YARN},
    "llama-head-dim": {"head_dim": 32},
    "qwen2": {"kind": "qwen2"},
    "qwen3": {"kind": "qwen3", "head_dim": 32},
    "gemma": {"kind": "gemma", **GEMMA},
    "gemma2": {"kind": "gemma2", **GEMMA, "sliding_window": 16, "query_pre_attn_scalar": 32},
    "gemma3": {
        "kind": "gemma3_text",
        **GEMMA,
        "sliding_window": 16,
        "query_pre_attn_scalar": 32,
        "num_hidden_layers": 7,
        "rope_theta": 1e6,
    },
    "phi3": {"kind": "phi3", "pad_token_id": 0},
    "phi3-longrope": {
        "kind": "phi3",
        "pad_token_id": 0,
        "max_position_embeddings": 128,
        "original_max_position_embeddings": 32,
        "rope_scaling": LONG,
    },
    "granite": {
        "kind": "granite",
        "attention_multiplier": 0.1,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "logits_scaling": 2.0,
    },
    "smollm3": {"kind": "smollm3", "num_hidden_layers": 4, "pad_token_id": 0},
    "olmo2": {"kind": "olmo2"},
    "olmo3": {"kind": "olmo3", "sliding_window": 16, "layer_types": WINDOWS},
    "stablelm": {"kind": "stablelm", "use_qkv_bias": True, "partial_rotary_factor": 0.5},
    "stablelm-parallel": {"kind": "stablelm", "use_parallel_residual": True},
    "gpt2": {"kind": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "lfm2": {
        "kind": "lfm2",
        "layer_types": ["conv", "full_attention", "conv"],
        "block_auto_adjust_ff_dim": False,
        "block_ff_dim": 96,
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_same_logits(shape: str, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(**SHAPES[shape])
    file = write_gguf(checkpoint, tmp_path / "model.gguf")
    ids = some_ids(70)
    engine = Engine.load(export(file, "x86-64", "fp32", output=tmp_path / "b", exporter="native"))
    expected = reference(load_model(checkpoint), ids)
    close(engine.forward(ids, num_logits=len(ids)), expected)
    engine.reset()
    engine.forward(ids[:50])
    close(np.concatenate([engine.forward([i]).copy() for i in ids[50:60]]), expected[50:60])


def test_every_architecture_has_a_shape() -> None:
    assert {ARCHITECTURES[shape.get("kind", "llama")] for shape in SHAPES.values()} == set(KNOWN)

"""onnxruntime-genai, the way to C++, C#, Java and Android, runs a native bundle and says the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.bundle.reader import Bundle
from edgelm.exporter.pipeline import export
from edgelm.machine.host import read_cpu
from edgelm.runtime.engine import Engine
from edgelm.target.fallback import exact_int8

SHAPES: dict[str, dict[str, Any]] = {
    "grouped-query": {},
    "places for adapters": {"lora_ready": True},
    "tied": {"tie_word_embeddings": True},
    "head-dim-8": {"num_attention_heads": 8},
    "window": {"kind": "mistral", "sliding_window": 16},
    "phi": {"kind": "phi"},
    "phi3": {
        "kind": "phi3",
        "sliding_window": 16,
        "partial_rotary_factor": 0.75,
        "rope_scaling": {"type": "longrope", "short_factor": [1.1] * 6, "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]},
        "original_max_position_embeddings": 32,
    },
    "gpt2": {"kind": "gpt2"},
    "gpt_neox": {"kind": "gpt_neox"},
    "qwen2": {"kind": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"kind": "qwen3", "head_dim": 32},
    "gemma2": {
        "kind": "gemma2",
        "head_dim": 32,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 5.0,
        "sliding_window": 16,
        "pad_token_id": 0,
    },
    "gemma3": {
        "kind": "gemma3_text",
        "head_dim": 32,
        "query_pre_attn_scalar": 24,
        "sliding_window": 16,
        "sliding_window_pattern": 2,
        "pad_token_id": 0,
    },
    "lfm2": {
        "kind": "lfm2",
        "layer_types": ["conv", "full_attention", "conv"],
        "conv_L_cache": 4,
        "block_auto_adjust_ff_dim": False,
    },
    "qwen3_5": {
        "kind": "qwen3_next",
        "num_experts": 0,
        "head_dim": 32,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 24,
        "linear_value_head_dim": 16,
        "pad_token_id": 0,
    },
}


OVERFLOWS = pytest.mark.skipif(
    not exact_int8(read_cpu()), reason="onnxruntime-genai's own sessions overflow in int8 on this processor"
)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("quant", ["fp32", pytest.param("int8", marks=OVERFLOWS), "int4"])
def test_same_greedy_tokens(tiny_checkpoint: Callable[..., Path], tmp_path: Path, shape: str, quant: str) -> None:
    config = dict(SHAPES[shape])
    ready = config.pop("lora_ready", False)
    _same_greedy_tokens(export(tiny_checkpoint(**config), "rpi5", quant, lora_ready=ready, output=tmp_path / "b"))


@pytest.mark.parametrize("shape", ["window", "phi3", "gemma3"])
def test_same_greedy_tokens_with_windows_alone(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, shape: str
) -> None:
    checkpoint = tiny_checkpoint(**{**SHAPES[shape], "max_position_embeddings": 1024})
    bundle = export(checkpoint, "rpi5", "int4", output=tmp_path / "b")
    assert bundle.manifest.graph.windows
    _same_greedy_tokens(bundle)


@pytest.mark.parametrize("shape", ["grouped-query", "head-dim-8", "phi3", "gemma3", "lfm2"])
def test_same_greedy_tokens_with_an_int8_cache(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, shape: str
) -> None:
    _same_greedy_tokens(export(tiny_checkpoint(**SHAPES[shape]), "rpi5", "int4", kv="int8", output=tmp_path / "b"))


def _same_greedy_tokens(bundle: Bundle) -> None:
    genai = pytest.importorskip("onnxruntime_genai")
    prompt, wanted = np.random.default_rng(0).integers(3, 300, 30), 40
    engine = Engine.load(bundle, threads=1)
    logits, expected = engine.forward(prompt), []
    for _ in range(wanted):
        expected.append(int(logits[0].argmax()))
        logits = engine.forward(expected[-1:])

    model = genai.Model(str(bundle.path))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + wanted)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(prompt)
    found = []
    while not generator.is_done():
        generator.generate_next_token()
        found.append(int(generator.get_next_tokens()[0]))
    end = expected.index(2) + 1 if 2 in expected else wanted  # it stops at the end token
    assert found == expected[:end]


def test_its_tokenizer_reads_the_bundle(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    genai = pytest.importorskip("onnxruntime_genai")
    bundle = export(tiny_checkpoint(), "rpi5", "int4", output=tmp_path / "b")
    tokenizer = genai.Tokenizer(genai.Model(str(bundle.path)))
    assert tokenizer.decode(tokenizer.encode("Hello, lamp")) == "Hello, lamp"

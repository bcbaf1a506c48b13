"""The native export of every shape in the Llama family gives the logits that transformers gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity import CHECKS, close, pairs, some_ids

from edgelm.exporter.pipeline import export
from edgelm.runtime.engine import Engine

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
SHAPES: dict[str, dict[str, Any]] = {
    "grouped-query": {},
    "multi-head": {"num_key_value_heads": 4},
    "multi-query": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "bias": {"attention_bias": True, "mlp_bias": True},
    "head-dim-8": {"num_attention_heads": 8, "num_key_value_heads": 4},
    "head-dim-given": {"head_dim": 32},
    "head-dim-24": {"head_dim": 24},
    "odd-mlp": {"intermediate_size": 172},
    "gelu": {"hidden_act": "gelu"},
    "gelu-tanh": {"hidden_act": "gelu_pytorch_tanh"},
    "relu": {"hidden_act": "relu"},
    "rope-theta": {"rope_theta": 500000.0},
    "rope-linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.5}},
    "rope-dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "rope-llama3": {"rope_scaling": LLAMA3},
    "rope-yarn": {"rope_scaling": YARN},
    "rope-yarn-all-keys": {
        "rope_scaling": {
            **YARN,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "mscale": 1.0,
            "mscale_all_dim": 0.5,
            "truncate": False,
        }
    },
    "rope-yarn-attention-factor": {"rope_scaling": {**YARN, "attention_factor": 1.3}},
    "rope-legacy-key": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "bf16": {"dtype": "bfloat16"},
    "fp16": {"dtype": "float16", "initializer_range": 0.1},
    "sharded": {"shard": "60KB"},
    "mistral": {"kind": "mistral", "sliding_window": None},
    "mistral-window": {"kind": "mistral", "sliding_window": 16},
    "ministral": {
        "kind": "ministral",
        "head_dim": 16,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "arcee": {"kind": "arcee", "mlp_bias": True},
    "ernie": {"kind": "ernie4_5", "head_dim": 32},
    "ernie-bias": {"kind": "ernie4_5", "head_dim": 24, "use_bias": True, "tie_word_embeddings": False},
}


pair = pairs(SHAPES)


@pytest.mark.parametrize("check", CHECKS)
def test_same_logits(pair: tuple[Engine, Any], check: str) -> None:
    CHECKS[check](*pair, some_ids())


def test_dynamic_rope_beyond_the_first_context(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """Past max_position_embeddings each new key is rotated for the length so far, as transformers decodes."""
    checkpoint = tiny_checkpoint(max_position_embeddings=32, rope_scaling={"rope_type": "dynamic", "factor": 4.0})
    engine = Engine.load(export(checkpoint, "x86-64", "fp32", context=128, output=tmp_path / "b"))
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = np.random.default_rng(1).integers(3, 300, 60)
    cache = None
    for token in ids:
        with torch.no_grad():
            out = model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        close(engine.forward([token]), out.logits[0, -1:].numpy())


def test_greedy_text_of_a_trained_model(data_dir: Path, tmp_path: Path) -> None:
    """stories260K, whose MLP is 172 wide, continues its story word for word."""
    source = data_dir / "stories260K"
    engine = Engine.load(export(source, "rpi5", "fp32", output=tmp_path / "b"))
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    prompt = tokenizer("Once upon a time").input_ids
    with torch.no_grad():
        out = model.generate(torch.tensor([prompt]), max_new_tokens=200, do_sample=False, pad_token_id=0)[0].tolist()
    logits, found = engine.forward(prompt), list(prompt)
    while len(found) < len(out):
        found.append(int(logits[0].argmax()))
        logits = engine.forward(found[-1:])
    assert found == out
    assert "Lily" in tokenizer.decode(found)

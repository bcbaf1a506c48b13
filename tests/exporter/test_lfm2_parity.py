"""LFM2: short convolutions with a state of their own beside the KV cache of the attention layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity import CHECKS, agreement, load_pair, pairs, some_ids

from edgelm.exporter.pipeline import export
from edgelm.runtime.engine import Engine

MIXED = ["conv", "conv", "full_attention", "conv", "full_attention"]
SHAPES: dict[str, dict[str, Any]] = {
    "mixed": {"layer_types": MIXED, "num_hidden_layers": 5},
    "bias": {"layer_types": MIXED, "num_hidden_layers": 5, "conv_bias": True},
    "long-filter": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2, "conv_L_cache": 5},
    "untied": {"layer_types": ["full_attention", "conv"], "num_hidden_layers": 2, "tie_word_embeddings": False},
    "adjusted-mlp": {
        "layer_types": ["conv", "full_attention"],
        "num_hidden_layers": 2,
        "block_auto_adjust_ff_dim": True,
        "block_multiple_of": 16,
    },
}
COMMON = {"block_auto_adjust_ff_dim": False, "norm_eps": 1e-5}


pair = pairs(SHAPES, kind="lfm2", **COMMON)


@pytest.mark.parametrize("check", CHECKS)
def test_same_as_transformers(pair: tuple[Engine, Any], check: str) -> None:
    CHECKS[check](*pair, some_ids())


@pytest.mark.parametrize("target", ["rpi5", "x86-64", "rpi4"])
@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_quantised(tiny_checkpoint: Callable[..., Path], tmp_path: Path, target: str, quant: str) -> None:
    checkpoint = tiny_checkpoint("lfm2", **{**COMMON, **SHAPES["mixed"]})
    found = agreement(*load_pair(checkpoint, tmp_path / "b", quant, target), some_ids())
    assert found.correlation > {"int8": 0.97, "int4": 0.7}[quant]


def test_a_state_survives_growth_and_does_not_grow(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("lfm2", **{**COMMON, **SHAPES["mixed"], "max_position_embeddings": 1024})
    bundle = export(checkpoint, "x86-64", "fp32", output=tmp_path / "b")
    ids = np.random.default_rng(0).integers(3, 300, 600)
    whole, steps = Engine.load(bundle), Engine.load(bundle)
    expected = whole.forward(ids, 1).copy()
    for start in range(0, 600, 100):
        found = steps.forward(ids[start : start + 100]).copy()
    np.testing.assert_allclose(found, expected, atol=1e-3)
    # Two buffers of three layers, 64 channels, two tokens, 4 bytes; and the states after each of the six passes.
    states = (2 + 6) * 3 * 64 * 2 * 4
    assert steps.cache_bytes == 1024 * bundle.manifest.memory.kv_bytes_per_token + states


def test_going_back_reads_no_more_than_from_the_last_kept_place(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tiny_checkpoint("lfm2", **{**COMMON, **SHAPES["mixed"], "max_position_embeddings": 1024})
    engine = Engine.load(export(checkpoint, "x86-64", "fp32", output=tmp_path / "b"))
    ids = np.random.default_rng(0).integers(3, 300, 400)
    expected = {place: engine.forward(ids[place : place + 40]).copy() for place in range(0, 400, 40)}
    read: list[int] = []
    forward = Engine.forward
    monkeypatch.setattr(Engine, "forward", lambda self, ids, n=1: (read.append(len(ids)), forward(self, ids, n))[1])
    for place, again in ((360, 0), (290, 10), (280, 0), (40, 0), (0, 0)):
        read.clear()
        engine.rewind(place)
        assert sum(read) == again
        assert list(engine.tokens) == ids[:place].tolist()
        if place in expected:
            np.testing.assert_allclose(engine.forward(ids[place : place + 40]), expected[place], atol=1e-3)
            engine.rewind(place)

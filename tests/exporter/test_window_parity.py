"""Layers that keep their window alone: the same logits as transformers', far past it, back into it, and from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import close, load_model, reference

from edgelm.bundle.reader import Bundle
from edgelm.errors import DeviceError
from edgelm.exporter import families
from edgelm.exporter.checkpoint.checkpoint import Checkpoint
from edgelm.exporter.graph.attention import SLACK
from edgelm.exporter.pipeline import export
from edgelm.exporter.sizing import footprint
from edgelm.forecast.cost_model import from_manifest
from edgelm.forecast.estimate import of_bundle
from edgelm.runtime.engine import Engine
from edgelm.runtime.kv.windows import Window
from edgelm.runtime.lm import load
from edgelm.target.target import load_target

WINDOW = 16
CONTEXT, LENGTH = 1024, 900
SHAPES: dict[str, dict[str, Any]] = {
    "mistral": {"kind": "mistral"},
    "phi3": {"kind": "phi3"},
    "gemma2": {
        "kind": "gemma2",
        "head_dim": 16,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 3.0,
        "pad_token_id": 0,
    },
    "gemma3": {
        "kind": "gemma3_text",
        "head_dim": 32,
        "query_pre_attn_scalar": 24,
        "sliding_window_pattern": 2,
        "pad_token_id": 0,
    },
}
COMMON = {"sliding_window": WINDOW, "max_position_embeddings": CONTEXT}


@pytest.fixture(scope="module", params=SHAPES)
def pair(
    request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, np.ndarray, np.ndarray]:
    """(bundle, ids, transformers' logits of them)."""
    checkpoint = tiny_checkpoint(**{**COMMON, **SHAPES[request.param]})
    bundle = export(checkpoint, "x86-64", "fp32", output=tmp_path_factory.mktemp("window") / "b", exporter="native")
    ids = np.random.default_rng(0).integers(3, 300, LENGTH)
    return bundle, ids, reference(load_model(checkpoint), ids)


def test_far_past_the_window(pair: tuple[Bundle, np.ndarray, np.ndarray]) -> None:
    bundle, ids, expected = pair
    engine = Engine.load(bundle, threads=1)
    close(engine.forward(ids, LENGTH), expected)
    engine.reset()
    for start, end in ((0, 300), (300, 301), (301, 600), (600, 640)):
        close(engine.forward(ids[start:end], end - start), expected[start:end])
    for place in range(640, 720):
        close(engine.forward(ids[place : place + 1]), expected[place : place + 1])


def test_going_back(pair: tuple[Bundle, np.ndarray, np.ndarray]) -> None:
    bundle, ids, expected = pair
    engine = Engine.load(bundle, threads=1)
    engine.forward(ids[:500])
    engine.forward(ids[500:850])
    for place in (845, 700, 690, 520, 499, 300, 20, 0):
        engine.rewind(place)
        assert list(engine.tokens) == ids[:place].tolist()
        close(engine.forward(ids[place : place + 40], 40), expected[place : place + 40])
        engine.rewind(place)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_mix_of_steps_and_rewinds(data: st.DataObject, pair: tuple[Bundle, np.ndarray, np.ndarray]) -> None:
    bundle, ids, expected = pair
    engine = Engine.load(bundle, threads=1)
    for _ in range(8):
        room = LENGTH - engine.position
        if room and data.draw(st.booleans(), "forward"):
            end = engine.position + data.draw(st.integers(1, room), "tokens")
            close(engine.forward(ids[engine.position : end]), expected[end - 1 : end])
        else:
            engine.rewind(data.draw(st.integers(0, engine.position), "rewind"))


def test_what_can_be_taken_back_at_no_cost(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: Any
) -> None:
    engine = Engine.load(export(tiny_checkpoint("mistral", **COMMON), "x86-64", "fp32", output=tmp_path / "b"))
    ids, read = np.random.default_rng(0).integers(3, 300, LENGTH), list[int]()
    engine.forward(ids[:400])
    room = engine.room_after(400)
    assert room == WINDOW + SLACK + SLACK + 1 - 400
    engine.forward(ids[400 : 400 + room])
    forward = Engine.forward
    monkeypatch.setattr(Engine, "forward", lambda self, ids, n=1: (read.append(len(ids)), forward(self, ids, n))[1])
    engine.rewind(400)
    assert read == []
    engine.forward(ids[400:700])  # the window moves on; what it held before that is kept
    read.clear()
    engine.rewind(399)
    assert read == []
    engine.forward(ids[399:400])
    read.clear()
    engine.rewind(100)  # of another time of the window, of which nothing was kept
    assert read == [100]


@given(tokens=st.integers(0, 3000), window=st.integers(1, 400), slack=st.integers(0, 300))
def test_what_is_held(tokens: int, window: int, slack: int) -> None:
    """The operator's documentation: L(T) = T while T <= C, else T - G ceil((T - C) / G), G = C - W + 1."""
    w = Window(window, window + slack)
    assert min(tokens, window) <= w.held(tokens) <= min(tokens, w.capacity)
    assert w.evicted(tokens + w.room(tokens)) == w.evicted(tokens) < w.evicted(tokens + w.room(tokens) + 1)


def test_sessions_files_and_speculation(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(**{**COMMON, **SHAPES["gemma3"]})
    bundle = export(checkpoint, "x86-64", "fp32", output=tmp_path / "b")
    text = "the cat sat on the mat and the dog sat on the log; " * 9
    options: dict[str, Any] = {"temperature": 0.0, "max_tokens": 300, "raw": True}
    with load(bundle.path) as lm:
        expected = lm.generate(text, reuse_cache=False, speculate="off", **options).text
        other = lm.generate(text[:200] + "!", reuse_cache=False, speculate="off", **options).text
        found = lm.generate(text, reuse_cache=False, speculate="auto", **options)
        assert found.text == expected
        assert lm.generate(text[:200] + "!", **options).text == other  # the cache goes back
        with lm.session() as session:
            session.prefill(text, raw=True)
            session.save(tmp_path / "long")
            session.save(tmp_path / "short", tokens=len(session.tokens) - 3)
            assert session.generate(text, **options).text == expected
            assert session.generate(text[:200] + "!", **options).text == other
    for name in ("long", "short"):
        with load(bundle.path) as lm, lm.session() as session:
            session.load(tmp_path / name)
            assert len(session.tokens) > 300
            assert session.generate(text, **options).text == expected


def test_int8_windows(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(**{**COMMON, **SHAPES["gemma3"]})
    engine = Engine.load(export(checkpoint, "x86-64", "fp32", kv="int8", output=tmp_path / "b"), threads=1)
    ids = np.random.default_rng(0).integers(3, 300, 700)
    whole = engine.forward(ids, 700).copy()
    assert np.corrcoef(whole.ravel(), reference(load_model(checkpoint), ids).ravel())[0, 1] > 0.98
    engine.rewind(350)
    np.testing.assert_allclose(engine.forward(ids[350:], 350), whole[350:], atol=2e-3 * np.ptp(whole))


def test_memory(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(**{**COMMON, **SHAPES["gemma3"]})
    bundle, target = export(checkpoint, "x86-64", "fp32", output=tmp_path / "b"), load_target("x86-64")
    manifest, token, capacity = bundle.manifest.to_dict(), 2 * 2 * 32 * 4, WINDOW + SLACK
    assert manifest["graph"]["windows"] == {
        str(n): {"window": WINDOW, "capacity": capacity, "bytes_per_token": token} for n in (0, 2)
    }
    memory = manifest["memory"]
    assert memory["kv_bytes_per_token"] == token
    assert memory["kv_bytes"] == CONTEXT * token
    assert memory["window_bytes"] == 2 * 2 * capacity * token  # and a copy to go back to
    taken = footprint.of_decoder(families.describe(Checkpoint(checkpoint).config), target.recipe("fp32"), target)
    assert taken.device(CONTEXT).to_dict() == memory
    assert taken.device(capacity).window_bytes == 0  # nothing is gained in a context so short
    assert taken.device(capacity).kv_bytes == 3 * capacity * token
    engine = Engine.load(bundle, threads=1)
    engine.forward(np.full(CONTEXT, 5))
    assert engine.cache_bytes == memory["kv_bytes"] + 2 * capacity * token
    assert of_bundle(bundle).memory["window_bytes"] == memory["window_bytes"]
    heads = from_manifest(bundle.manifest).attention
    assert [(h.kv_bytes, h.window) for h in heads] == [(token, None), (token, WINDOW), (token, WINDOW)]


def test_a_ceiling_counts_windows(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    bundle = export(tiny_checkpoint("mistral", **COMMON), "x86-64", "fp32", output=tmp_path / "b")
    total = bundle.manifest.memory.total_bytes
    assert Engine.load(bundle, max_memory_mb=total / 1e6).context == CONTEXT
    less = total - bundle.manifest.memory.window_bytes
    assert 64 <= Engine.load(bundle, max_memory_mb=(less + 2e5) / 1e6).context < WINDOW + SLACK
    with pytest.raises(DeviceError, match="too little"):
        Engine.load(bundle, max_memory_mb=less / 1e6)


def test_other_providers_keep_the_whole_context(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    bundle = export(tiny_checkpoint("mistral", **COMMON), "jetson-orin-nano", "int4", output=tmp_path / "b")
    assert bundle.manifest.graph.windows is None
    assert bundle.manifest.memory.window_bytes == 0
    assert bundle.manifest.memory.kv_bytes == 3 * 2 * 2 * 16 * 2 * CONTEXT

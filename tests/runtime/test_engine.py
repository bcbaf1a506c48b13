"""The Engine keeps its place, grows its cache, and refuses what it cannot do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelm.bundle.reader import Bundle
from edgelm.errors import BundleError, DeviceError, EdgeLMError, OptionError, PromptError
from edgelm.exporter.pipeline import export
from edgelm.runtime.engine import Engine
from edgelm.runtime.ort import session


@pytest.fixture(scope="module")
def engine(tiny_bundle: Bundle) -> Engine:
    return Engine.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.random.default_rng(0).integers(3, 300, 128)


@pytest.fixture(scope="module")
def reference(tiny_bundle: Bundle, ids: np.ndarray) -> np.ndarray:
    """Logits of every position, computed in one go by an engine of its own."""
    return Engine.load(tiny_bundle, threads=1).forward(ids, len(ids)).copy()


def test_position_counts_tokens(engine: Engine, ids: np.ndarray) -> None:
    engine.reset()
    assert engine.position == 0
    engine.forward(ids[:5])
    engine.forward(ids[5:6])
    assert engine.position == 6
    engine.rewind(2)
    assert engine.position == 2
    engine.reset()
    assert engine.position == 0


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_mix_of_steps_and_rewinds_gives_the_same_logits(
    data: st.DataObject, engine: Engine, ids: np.ndarray, reference: np.ndarray
) -> None:
    engine.reset()
    for _ in range(6):
        room = len(ids) - engine.position
        if room and data.draw(st.booleans(), "forward"):
            count = data.draw(st.integers(1, room), "tokens")
            wanted = data.draw(st.integers(1, count), "logits")
            end = engine.position + count
            found = engine.forward(ids[engine.position : end], wanted)
            np.testing.assert_allclose(found, reference[end - wanted : end], atol=1e-3)
        else:
            engine.rewind(data.draw(st.integers(0, engine.position), "rewind"))


def test_the_cache_grows_by_doubling_and_not_before(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    bundle = export(tiny_checkpoint(max_position_embeddings=2000), "x86-64", "fp32", output=tmp_path / "b")
    engine, sizes = Engine.load(bundle), []
    assert engine.cache_bytes == 0
    for count in (1, 255, 1, 300, 700, 743):
        engine.forward(np.full(count, 5))
        sizes.append(engine.cache_bytes // bundle.manifest.memory.kv_bytes_per_token)
    assert sizes == [256, 256, 512, 1024, 2000, 2000]  # the last one is the context itself


def test_a_full_context_is_refused_and_keeps_its_place(engine: Engine, ids: np.ndarray, reference: np.ndarray) -> None:
    engine.reset()
    engine.forward(ids[:120])
    with pytest.raises(PromptError, match="129 tokens do not fit in the context of 128"):
        engine.forward(ids[:9])
    assert engine.position == 120
    np.testing.assert_allclose(engine.forward(ids[120:128]), reference[127:128], atol=1e-3)


@pytest.mark.parametrize("bad", [-1, 300, 10**9])
def test_ids_outside_the_vocabulary_are_refused(engine: Engine, bad: int) -> None:
    engine.reset()
    with pytest.raises(PromptError, match="from 0 to 299"):
        engine.forward([5, bad])
    assert engine.position == 0


@pytest.mark.parametrize(("count", "wanted"), [(0, 1), (0, 0), (3, 4), (1, -1)])
def test_num_logits_out_of_range(engine: Engine, count: int, wanted: int) -> None:
    engine.reset()
    with pytest.raises(OptionError, match="num_logits"):
        engine.forward([5] * count, wanted)


@pytest.mark.parametrize("position", [-1, 6])
def test_rewinding_out_of_range(engine: Engine, position: int) -> None:
    engine.reset()
    engine.forward([5] * 5)
    with pytest.raises(OptionError, match="rewind"):
        engine.rewind(position)


def test_a_prompt_gives_its_memory_back(
    tiny_bundle: Bundle, ids: np.ndarray, reference: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bool] = []
    real = session.give_back
    monkeypatch.setattr(session, "give_back", lambda: (given.append(True), real()))
    engine = Engine.load(tiny_bundle, threads=1)
    for end, count in ((31, 0), (32, 0), (64, 1), (100, 2), (101, 2)):
        found = engine.forward(ids[engine.position : end])
        assert len(given) == count
        np.testing.assert_allclose(found, reference[end - 1 : end], atol=1e-3)


def test_a_closed_engine_says_so(tiny_bundle: Bundle) -> None:
    engine = Engine.load(tiny_bundle)
    engine.close()
    with pytest.raises(EdgeLMError, match="closed"):
        engine.forward([5])


def test_threads(tiny_bundle: Bundle) -> None:
    cores = len(os.sched_getaffinity(0))
    assert Engine.load(tiny_bundle).threads <= min(cores, tiny_bundle.manifest.threads.decode)
    assert Engine.load(tiny_bundle, threads=3).threads == 3
    with pytest.raises(OptionError, match="threads"):
        Engine.load(tiny_bundle, threads=0)


def test_a_ceiling_on_memory_shrinks_the_context(tiny_bundle: Bundle, ids: np.ndarray) -> None:
    memory = tiny_bundle.manifest.to_dict()["memory"]
    fixed, per_token = memory["total_bytes"] - memory["kv_bytes"], memory["kv_bytes_per_token"]
    assert Engine.load(tiny_bundle, max_memory_mb=1e6).context == 128
    engine = Engine.load(tiny_bundle, max_memory_mb=(fixed + 100.5 * per_token) / 1e6)
    assert engine.context == 100
    engine.forward(ids[:100])
    assert engine.cache_bytes == 100 * per_token
    with pytest.raises(PromptError, match="101 tokens do not fit in the context of 100"):
        engine.forward(ids[:1])
    other = engine.model.sequence()
    with pytest.raises(DeviceError, match="need more than max_memory_mb allows") as raised:
        other.forward(ids[:1])
    assert raised.value.hint == "close a session, or allow for more memory"
    engine.rewind(99)
    engine.forward(ids[:1])


@pytest.mark.parametrize("mb", [0, -1, float("nan"), float("inf"), True, "5"])
def test_a_ceiling_that_is_none(tiny_bundle: Bundle, mb: Any) -> None:
    with pytest.raises(OptionError, match="max_memory_mb must be a number above 0"):
        Engine.load(tiny_bundle, max_memory_mb=mb)


def test_a_ceiling_that_is_too_low_says_what_is_needed(tiny_bundle: Bundle) -> None:
    with pytest.raises(DeviceError, match=r"1 MB are too little: this bundle needs \d+ MB with a context of 64 tokens"):
        Engine.load(tiny_bundle, max_memory_mb=1)


def test_a_graph_that_cannot_be_loaded_is_one_line(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bundle.path, tmp_path / "b")
    (folder / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleError, match="cannot be loaded by onnxruntime") as raised:
        Engine.load(Bundle(folder, tiny_bundle.manifest))
    assert "\n" not in str(raised.value)


def test_a_missing_provider_falls_back_to_the_cpu_and_says_so(tiny_bundle: Bundle) -> None:
    with pytest.warns(RuntimeWarning, match="no cuda provider: running on the CPU"):
        engine = Engine.load(Bundle(tiny_bundle.path, replace(tiny_bundle.manifest, provider="cuda")))
    assert engine.provider == "CPUExecutionProvider"


def test_a_half_precision_target_runs_on_the_cpu(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """The Jetson's graph keeps activations and cache in fp16; its numbers are checked on the CPU's fp16 kernels."""
    checkpoint, ids = tiny_checkpoint(), np.random.default_rng(0).integers(3, 300, 50)
    exact = Engine.load(export(checkpoint, "x86-64", "fp32", output=tmp_path / "a")).forward(ids, 50)
    bundle = export(checkpoint, "jetson-orin-nano", "int8", output=tmp_path / "b")
    assert bundle.manifest.graph.activations == "float16"
    with pytest.warns(RuntimeWarning, match="cuda"):
        engine = Engine.load(bundle)
    half = engine.forward(ids, 50)
    assert half.dtype == np.float32
    assert np.corrcoef(exact.ravel(), half.ravel())[0, 1] > 0.99


def test_nothing_is_printed(tiny_bundle: Bundle) -> None:
    code = (
        "from edgelm.bundle.reader import Bundle; from edgelm.runtime.engine import Engine; "
        f"e = Engine.load(Bundle.open({str(tiny_bundle.path)!r})); e.forward([5, 6, 7], 3); e.forward([8])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

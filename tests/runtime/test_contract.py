"""What an Engine promises, held against real graphs and against the fake that other tests stand on."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_engine import FakeEngine

from edgelm.bundle.reader import Bundle
from edgelm.errors import EdgeLMError, OptionError, PromptError
from edgelm.exporter.pipeline import export
from edgelm.runtime.engine import Engine
from edgelm.runtime.kv.prefill import PREFILL_CHUNK

CONTEXT = 700
IDS = [int(i) for i in np.random.default_rng(0).integers(3, 250, CONTEXT)]
STATES = {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2, "block_auto_adjust_ff_dim": False}


@pytest.fixture(scope="module", params=["fake", "keys and values", "states"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Any]:
    """Opens an engine of one kind."""
    if request.param == "fake":
        return lambda: FakeEngine(context=CONTEXT)
    kind, shape = ("lfm2", STATES | {"norm_eps": 1e-5}) if request.param == "states" else ("llama", {})
    tiny_checkpoint: Callable[..., Path] = request.getfixturevalue("tiny_checkpoint")
    checkpoint = tiny_checkpoint(kind, max_position_embeddings=CONTEXT, **shape)
    bundle = export(checkpoint, "x86-64", "fp32", output=tmp_path_factory.mktemp("bundles") / "b")
    return lambda: Engine.load(Bundle.open(bundle.path), threads=1)


@pytest.fixture
def engine(opened: Callable[[], Any]) -> Any:
    return opened()


def close_to(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_it_knows_its_place(engine: Any) -> None:
    assert (engine.position, list(engine.tokens), engine.context) == (0, [], CONTEXT)
    assert engine.forward(IDS[:5]).shape == (1, engine.vocab_size)
    assert engine.forward(np.array(IDS[5:9]), 3).shape == (3, engine.vocab_size)
    assert engine.forward(IDS[9:11], 0).shape == (0, engine.vocab_size)
    assert (engine.position, list(engine.tokens)) == (11, IDS[:11])
    engine.rewind(6)
    assert (engine.position, list(engine.tokens)) == (6, IDS[:6])
    engine.rewind(6)
    engine.reset()
    assert (engine.position, list(engine.tokens)) == (0, [])
    engine.reset()


def test_logits_depend_on_the_tokens_and_not_on_the_passes(opened: Callable[[], Any]) -> None:
    whole = opened().forward(IDS[:40], 40).copy()
    engine = opened()
    for start, end, wanted in ((0, 7, 1), (7, 8, 1), (8, 30, 22), (30, 38, 0), (38, 40, 2)):
        close_to(engine.forward(IDS[start:end], wanted), whole[end - wanted : end])
    engine.rewind(33)
    close_to(engine.forward(IDS[33:34]), whole[33:34])
    engine.rewind(2)
    close_to(engine.forward(IDS[2:40], 2), whole[38:40])
    engine.reset()
    close_to(engine.forward(IDS[:3]), whole[2:3])


@pytest.mark.parametrize("count", [1, 2, 40, PREFILL_CHUNK, 2 * PREFILL_CHUNK + 9])
def test_a_prompt_is_read_in_passes(opened: Callable[[], Any], count: int) -> None:
    expected = opened().forward(IDS[:count]).copy()
    engine = opened()
    close_to(engine.prefill(IDS[:count]), expected)
    assert list(engine.tokens) == IDS[:count]
    if count > 1:
        engine.rewind(count - 1)
        close_to(engine.prefill(IDS[count - 1 : count]), expected)
    engine.reset()
    assert engine.prefill(IDS[:count], 0).shape == (0, engine.vocab_size)
    assert engine.prefill([]).shape == (0, engine.vocab_size)
    assert engine.position == count
    engine.reset()
    sizes, rows, before = [], [], 0
    for logits in engine.prefill_passes(IDS[:count], 64):
        sizes, rows, before = [*sizes, engine.position - before], [*rows, len(logits)], engine.position
        last = logits.copy()
    assert sum(sizes) == count
    assert max(sizes) <= 64
    assert rows == [0] * (len(rows) - 1) + [1]
    close_to(last, expected)


def test_a_caller_may_stop_between_passes(engine: Any) -> None:
    passes = engine.prefill_passes(IDS[:200], 64)
    assert engine.position == 0
    next(passes)
    next(passes)
    passes.close()
    assert list(engine.tokens) == IDS[:128]


@pytest.mark.parametrize(("count", "wanted"), [(0, 1), (0, 0), (3, 4), (1, -1)])
def test_num_logits_out_of_range(engine: Any, count: int, wanted: int) -> None:
    engine.forward(IDS[:2])
    with pytest.raises(OptionError, match="num_logits must be from 0 to the number of ids"):
        engine.forward(IDS[:count], wanted)
    assert engine.position == 2


def test_what_is_refused_leaves_it_as_it_was(engine: Any) -> None:
    engine.forward(IDS[:2])
    for bad in (-1, engine.vocab_size):
        with pytest.raises(PromptError, match=f"token ids must be from 0 to {engine.vocab_size - 1}"):
            engine.forward([5, bad])
    with pytest.raises(PromptError, match=f"{CONTEXT + 1} tokens do not fit in the context of {CONTEXT}"):
        engine.forward(IDS[: CONTEXT - 1])
    for position in (-1, 3):
        with pytest.raises(OptionError, match=f"cannot rewind to {position}: the engine holds 2 tokens"):
            engine.rewind(position)
    assert list(engine.tokens) == IDS[:2]


def test_a_full_context_still_rewinds(engine: Any) -> None:
    engine.prefill(IDS)
    assert engine.position == CONTEXT
    with pytest.raises(PromptError, match="do not fit"):
        engine.forward([5])
    engine.rewind(CONTEXT - 1)
    assert engine.forward([5]).shape == (1, engine.vocab_size)


def test_room_is_what_can_be_taken_back(engine: Any) -> None:
    assert engine.rewinds or engine.room_after(0) is not None
    assert engine.room_after(10) in (None, 0)


def test_no_adapter_is_no_other_than_none(engine: Any) -> None:
    engine.forward(IDS[:3])
    engine.adapt(None)
    assert engine.adapter is None
    assert engine.position == 3


def test_sequences_of_a_model_do_not_disturb_each_other(opened: Callable[[], Any]) -> None:
    whole = opened().forward(IDS[:40], 40).copy()
    engine = opened()
    first, second = engine.model.sequence(), engine.model.sequence()
    assert (first.context, first.vocab_size) == (engine.context, engine.vocab_size)
    other = first.forward(IDS[100:104]).copy()
    for each in (engine, second):
        close_to(each.forward(IDS[:20], 20), whole[:20])
    first.rewind(2)
    for each in (engine, second):
        close_to(each.forward(IDS[20:40], 1), whole[39:40])
    close_to(first.forward(IDS[102:104]), other)


def test_a_sequence_that_nobody_owns_is_freed(engine: Any) -> None:
    sequence = engine.model.sequence()
    sequence.forward(IDS[:3])
    gone = weakref.ref(sequence)
    del sequence
    gc.collect()
    assert gone() is None


def test_a_closed_model_says_so(opened: Callable[[], Any]) -> None:
    engine = opened()
    sequence = engine.model.sequence()
    sequence.forward(IDS[:3])
    engine.close()
    for each in (engine, sequence):
        with pytest.raises(EdgeLMError, match="closed"):
            each.forward([5])

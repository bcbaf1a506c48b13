"""Several texts in one pass: each has the logits that it has alone, wherever its row is and whatever the others do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelm.bundle.reader import Bundle
from edgelm.errors import DeviceError, PromptError
from edgelm.exporter.pipeline import export
from edgelm.runtime.batch import Batch
from edgelm.runtime.engine import Engine
from edgelm.runtime.kv.memory_limit import Room
from edgelm.runtime.model import LoadedModel
from edgelm.runtime.ort.bundle_sessions import open_sessions

FROZEN = Path(__file__).parents[1] / "frozen" / "format1"
CONTEXT = 800
DENSE = {
    "num_experts": 0,
    "head_dim": 32,
    "partial_rotary_factor": 0.5,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 24,
    "linear_value_head_dim": 16,
    "pad_token_id": 0,
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "learned positions": {"kind": "gpt2"},
    "windows": {"kind": "mistral", "sliding_window": 16},
    "short convolutions": {
        "kind": "lfm2",
        "layer_types": ["conv", "full_attention"],
        "num_hidden_layers": 2,
        "block_auto_adjust_ff_dim": False,
        "norm_eps": 1e-5,
    },
    "linear attention": {**DENSE, "kind": "qwen3_next", "layer_types": ["linear_attention", "full_attention"],
                         "num_hidden_layers": 2},
}  # fmt: skip


@pytest.fixture(scope="module", params=SHAPES)
def bundle(
    request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    checkpoint = tiny_checkpoint(**{"max_position_embeddings": CONTEXT, **SHAPES[request.param]})
    return export(checkpoint, "x86-64", "fp32", output=tmp_path_factory.mktemp("batch") / "b", exporter="native")


def ids_of(seed: int, count: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(3, 250, count)]


def alone(engine: Engine, ids: list[int]) -> np.ndarray:
    engine.reset()
    return engine.prefill(ids)[0].copy()


def test_rows_come_and_go(bundle: Bundle) -> None:
    engine = Engine.load(bundle, threads=1)
    batch = Batch(engine.model, 4)
    assert engine.model.unbatched is None
    texts: dict[Any, list[int]] = {}
    random = np.random.default_rng(5)
    for step in range(60):
        for number, sequence in enumerate(batch.sequences):
            if sequence not in texts and random.random() < 0.2:  # a text begins; some outgrow the first buffers
                texts[sequence] = ids_of(step * 10 + number, int(random.integers(2, 320)))
                sequence.reset()
                sequence.prefill(texts[sequence], 0)
            elif sequence in texts and random.random() < 0.1:
                del texts[sequence]
        some = [sequence for sequence in texts if random.random() < 0.8]  # others wait meanwhile
        given = [(sequence, int(random.integers(3, 250))) for sequence in some]
        found = [row.copy() for row in batch.step(given)]
        for (sequence, token), row in zip(given, found, strict=True):
            texts[sequence].append(token)
            assert list(sequence.tokens) == texts[sequence]
            if random.random() < 0.15:
                np.testing.assert_allclose(row, alone(engine, texts[sequence]), atol=2e-3)
    for sequence, ids in texts.items():
        np.testing.assert_allclose(sequence.forward([7])[0], alone(engine, [*ids, 7]), atol=2e-3)


def test_a_beginning_is_copied(bundle: Bundle) -> None:
    engine = Engine.load(bundle, threads=1)
    batch = Batch(engine.model, 3)
    first, second, third = batch.sequences
    ids = ids_of(1, 300)
    first.prefill(ids)
    second.prefill(ids_of(2, 280))
    for _ in range(3):
        batch.step([(first, 9), (second, 8)])
    batch.copy(first, third, 299)
    assert list(third.tokens) == ids[: third.position]
    assert third.position in (256, 299)  # states are those of the end of a pass
    rest = [*ids[third.position :], *ids_of(3, 5)]
    third.prefill(rest, 0)
    found = [row.copy() for row in batch.step([(third, 11), (first, 12)])]
    np.testing.assert_allclose(found[0], alone(engine, [*ids, *rest[-5:], 11]), atol=2e-3)
    np.testing.assert_allclose(found[1], alone(engine, [*ids, 9, 9, 9, 12]), atol=2e-3)


def test_memory_is_that_of_what_is_written(bundle: Bundle) -> None:
    batch = Batch(LoadedModel.load(bundle), 3)
    first, second, _ = batch.sequences
    least = first.cache_bytes
    first.prefill(ids_of(1, 500))
    assert second.cache_bytes == least
    assert first.cache_bytes > least
    second.prefill(ids_of(2, 20))
    batch.step([(second, 5)])
    held = second.cache_bytes
    batch.drop(second)
    assert second.cache_bytes < held or not bundle.manifest.memory.kv_bytes_per_token
    assert second.position == 0
    second.prefill(ids_of(2, 20), 0)
    found = batch.step([(first, 4), (second, 5)])[1].copy()
    np.testing.assert_allclose(found, alone(Engine.load(bundle, threads=1), [*ids_of(2, 20), 5]), atol=2e-3)


def test_limits_hold_for_each_row(tiny_bundle: Bundle) -> None:
    model = LoadedModel.load(tiny_bundle)
    batch = Batch(model, 2)
    full, other = batch.sequences
    full.prefill(ids_of(1, model.context))
    other.prefill(ids_of(2, 4))
    with pytest.raises(PromptError, match="do not fit in the context"):
        batch.step([(other, 5), (full, 5)])
    assert other.position == 4, "nothing was read"
    full.rewind(10)
    with pytest.raises(PromptError, match="token ids must be"):
        batch.step([(other, 5), (full, 10**6)])
    per_token = batch.needs(2) - batch.needs(1)
    small = LoadedModel(tiny_bundle, open_sessions(tiny_bundle, *_cpu()), Room(128, per_token * 40))
    batch = Batch(small, 2)
    batch.sequences[0].prefill(ids_of(1, 20))
    batch.sequences[1].prefill(ids_of(2, 20))
    with pytest.raises(DeviceError, match="max_memory_mb"):
        batch.step([(batch.sequences[0], 5), (batch.sequences[1], 5)])


def _cpu() -> tuple[Any, ...]:
    from edgelm.machine.host import read_cpu

    return (read_cpu(),)


def test_bundles_that_read_one_text_take_turns(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """An old graph, and products whose rows would change each other."""
    frozen = LoadedModel.load(Bundle.open(FROZEN))
    int8 = LoadedModel.load(export(tiny_checkpoint(), "rpi4", "int8", output=tmp_path / "b"))
    reasons = [model.unbatched or "" for model in (frozen, int8)]
    assert "exported by an edgelm whose graphs read one text" in reasons[0]
    assert "rounded by one scale for a whole pass" in reasons[1]
    for model in (frozen, int8):
        batch, lone = Batch(model, 2), model.sequence()
        a, b = batch.sequences
        for sequence, seed in ((a, 1), (b, 2)):
            sequence.prefill(ids_of(seed, 12))
        batch.copy(a, b, 11)
        b.prefill([a.tokens[11]], 0)
        found = [row.copy() for row in batch.step([(a, 5), (b, 6)])]
        for row, token, least in zip(found, (5, 6), (0.999, 0.9), strict=True):  # the second was read in other pieces
            lone.reset()
            lone.prefill(ids_of(1, 12))
            assert np.corrcoef(row, lone.forward([token])[0])[0, 1] > least

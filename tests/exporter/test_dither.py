"""The dithered base: every value of a quantised file moved within half a step of its block, the same for the same seed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf_file import write_gguf

from edgelm.exporter.checkpoint.checkpoint import Checkpoint

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_values_move_by_half_a_step_at_most(
    kind: str, dither: Callable[..., Path], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_gguf(tiny_checkpoint(tie_word_embeddings=True), tmp_path / "m.gguf", kind)
    stored, plain = Checkpoint(file), Checkpoint(dither(file, tmp_path / "plain", None))
    dithered = Checkpoint(dither(file, tmp_path / "dithered", 0))
    assert plain.names() == stored.names()
    for name in plain.names():
        before, after = plain.tensor(name).read(), dithered.tensor(name).read()
        np.testing.assert_array_equal(before, stored.tensor(name).read())
        if "norm" in name:
            np.testing.assert_array_equal(after, before)
            continue
        grid = np.array([np.diff(np.unique(block)).min() for block in before.reshape(-1, 32)])  # a multiple of the step
        moved = np.abs(after - before).reshape(-1, 32).max(axis=1)
        assert (moved <= 0.5 * grid * 1.001).all()
        assert moved.mean() > 0.1 * grid.mean() / (1 if kind[:2] != "Q8" else 8)


def test_the_seed_decides(dither: Callable[..., Path], tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    file = write_gguf(tiny_checkpoint(), tmp_path / "m.gguf", "Q4_1")
    weights = [
        (dither(file, tmp_path / str(i), seed) / "model.safetensors").read_bytes() for i, seed in enumerate([0, 0, 1])
    ]
    assert weights[0] == weights[1] != weights[2]


def test_transformers_reads_it(
    dither: Callable[..., Path], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_gguf(tiny_checkpoint(tie_word_embeddings=True), tmp_path / "m.gguf", "Q8_0")
    folder = dither(file, tmp_path / "out", 0, "float16")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer.eos_token == "</s>"
    assert tokenizer.chat_template is not None


def test_a_file_of_floats_is_the_same_model_moved(
    dither: Callable[..., Path], tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_gguf(tiny_checkpoint(tie_word_embeddings=True), tmp_path / "m.gguf", "Q4_1")
    write_floats = sys.modules[dither.__module__].write_gguf
    plain, moved = (Checkpoint(write_floats(file, tmp_path / f"{seed}.gguf", seed)) for seed in (None, 0))
    stored = Checkpoint(file)
    assert plain.names() == moved.names() == stored.names()
    assert plain.config.values == stored.config.values
    for name in stored.names():
        before, after = stored.tensor(name).read(), moved.tensor(name).read()
        np.testing.assert_array_equal(plain.tensor(name).read(), before)
        assert np.array_equal(before, after) == ("norm" in name)
        np.testing.assert_allclose(after, before, atol=0.05)


@pytest.mark.parametrize(("kind", "parts"), [("Q6_K", 16), ("Q4_K", 8), ("Q5_K", 8)])
def test_steps_of_super_blocks(kind: str, parts: int, dither: Callable[..., Path]) -> None:
    """The distance of the nearest different values in a part is its step, or a multiple of it."""
    import gguf

    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    blocks = np.random.default_rng(0).integers(0, 256, (4, size), np.uint8)
    scale = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    for column in (208,) if kind == "Q6_K" else (0, 2):
        blocks[:, column : column + 2] = scale
    steps = np.abs(sys.modules[dither.__module__]._block_steps(kind, blocks))
    assert steps.shape == (4, parts)
    values = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind]).reshape(4, parts, -1)
    for step, part in zip(steps.ravel(), values.reshape(4 * parts, -1), strict=True):
        if step:
            codes = (part - part[0]) / step
            np.testing.assert_allclose(codes, np.round(codes), atol=2e-2)
